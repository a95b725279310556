"""Recordings, captions and encoders to build caches from in tests, and a run over all steps."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from e2i.cache.chunk_result import ChunkResult
from e2i.cache.embed_audio import embed_audio_chunk
from e2i.cache.embed_text import embed_text_chunk
from e2i.cache.finish import CacheSummary, finish_cache
from e2i.cache.header import SideSettings
from e2i.cache.plan import CachePlan, plan_cache
from e2i.cache.shards import read_keys
from e2i.clips import Caption, CaptionedClips, Clip
from e2i.encoders.protocols import AudioEmbedding
from e2i.errors import AudioError
from e2i.storage import Folder

AUDIO_DIM, TEXT_DIM = 12, 7
SAMPLE_RATE = 8_000


def vector(content: bytes, dim: int, salt: int) -> NDArray[np.float32]:
    """An embedding that depends on the content alone."""
    seed = int.from_bytes(hashlib.sha256(content + bytes([salt])).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


@dataclass(frozen=True)
class FakeWaveform:
    samples: NDArray[np.float32]
    duration_s: float


def load_waveform(data: bytes, sample_rate: int, name: str) -> FakeWaveform:
    """Each byte is a sample; what starts with `broken` cannot be decoded."""
    assert sample_rate == SAMPLE_RATE
    if data.startswith(b"broken"):
        raise AudioError(f"not audio: got {name!r}, expected audio. Replace it.")
    samples = np.frombuffer(data, np.uint8).astype(np.float32) / 256
    return FakeWaveform(samples, len(samples) / sample_rate)


@dataclass
class CountingAudioEncoder:
    """Notes each waveform that it is given, as the bytes that it was decoded from."""

    dim: int = AUDIO_DIM
    sample_rate: int = SAMPLE_RATE
    salt: int = 0
    seen: list[bytes] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, str | int | float | bool | None]:
        return {"encoder": "counting", "salt": self.salt, "sample_rate": self.sample_rate}

    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[AudioEmbedding]:
        contents = [(w * 256).astype(np.uint8).tobytes() for w in waveforms]
        if any(content.startswith(b"refused") for content in contents):
            raise AudioError("too odd to embed: got noise, expected sound. Replace it.")
        self.seen += contents
        return [AudioEmbedding(self.one(content), 2) for content in contents]

    def one(self, content: bytes) -> NDArray[np.float32]:
        embedding = vector(content, self.dim, self.salt)
        return embedding * np.float32(np.nan) if content.startswith(b"nan") else embedding


@dataclass
class CountingTextEncoder:
    """Notes each caption that it is given."""

    dim: int = TEXT_DIM
    salt: int = 0
    seen: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, str | int | float | bool | None]:
        return {"encoder": "counting-text", "salt": self.salt}

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        self.seen += captions
        return np.stack([self.one(caption) for caption in captions])

    def one(self, caption: str) -> NDArray[np.float32]:
        return vector(caption.encode(), self.dim, self.salt)


@dataclass
class World:
    """A data set that can change, and the cache of it.

    `texts` are the captions of each clip; `contents` what lies under each clip's name.
    """

    folder: Folder
    audio_root: Folder
    texts: dict[str, list[str]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    audio: CountingAudioEncoder = field(default_factory=CountingAudioEncoder)
    text: CountingTextEncoder = field(default_factory=CountingTextEncoder)
    split: str = "development"
    store_windows: bool = False

    def put(self, clip_id: str, content: bytes | None = None, captions: int = 2) -> None:
        """A clip, new or changed; its captions tell its name."""
        self.texts[clip_id] = [f"caption {n} of {clip_id}" for n in range(captions)]
        self.record(clip_id, content or f"sound of {clip_id}".encode())

    def record(self, clip_id: str, content: bytes) -> None:
        self.contents[clip_id] = content
        self.audio_root.write(clip_id, content)

    def drop(self, clip_id: str) -> None:
        """Take a clip out of the metadata; its recording stays."""
        del self.texts[clip_id], self.contents[clip_id]

    @property
    def clips(self) -> CaptionedClips:
        clips = tuple(
            Clip(
                clip_id,
                clip_id,
                tuple(Caption(f"{clip_id}#{n}", clip_id, text) for n, text in enumerate(texts, 1)),
                row,
            )
            for row, (clip_id, texts) in enumerate(self.texts.items(), 1)
        )
        return CaptionedClips("data", self.split, self.audio_root.url, clips, "data/captions.csv")

    @property
    def sides(self) -> tuple[SideSettings, SideSettings]:
        audio = SideSettings.of(self.audio, store_windows=self.store_windows)
        return audio, SideSettings.of(self.text)

    def plan(self, chunk_size: int = 3, **options) -> CachePlan:
        return plan_cache(
            self.folder, self.clips, *self.sides, audio_root=self.audio_root,
            chunk_size=chunk_size, **options,
        )  # fmt: skip

    def embed(self, plan: CachePlan, chunks: int | None = None) -> list[ChunkResult]:
        """Embed the first chunks of a plan: audio, then text."""
        audio = [
            lambda chunk=chunk: embed_audio_chunk(
                self.folder, self.audio_root, chunk, self.audio, load_waveform
            )
            for chunk in plan.audio_chunks
        ]
        text = [
            lambda chunk=chunk: embed_text_chunk(self.folder, chunk, self.text)
            for chunk in plan.text_chunks
        ]
        return [embed() for embed in (*audio, *text)[:chunks]]

    def finish(self, **options) -> CacheSummary:
        return finish_cache(
            self.folder, self.clips, *self.sides, audio_root=self.audio_root, **options
        )

    def build(self, chunk_size: int = 3, snapshot: str = "never", **options) -> CacheSummary:
        """One whole run."""
        plan = self.plan(chunk_size, **options)
        self.embed(plan)
        return self.finish(verified=plan.verified, stock=plan.stock, snapshot=snapshot)

    def stored_row(self, side: str) -> NDArray[np.float32]:
        """The first row of the shard that comes first by name."""
        file = self.folder.files(side)[0]
        keys = read_keys(self.folder, file, side, hashed=False)
        if side == "audio":
            return self.audio.one(self.contents[keys.columns["clip_id"][0]])
        return self.text.one(keys.columns["caption"][0])

    def forget(self) -> None:
        """Begin counting anew."""
        self.audio.seen.clear()
        self.text.seen.clear()

    def counted(self) -> tuple[list[bytes], list[str]]:
        """What the encoders were given since the last time."""
        seen = sorted(self.audio.seen), sorted(self.text.seen)
        self.forget()
        return seen

    def twin(self) -> World:
        """The same data set, with a cache and encoders of its own."""
        return replace(
            self,
            folder=memory_folder(),
            audio=replace(self.audio, seen=[]),
            text=replace(self.text, seen=[]),
        )


def memory_folder() -> Folder:
    return Folder(f"memory://cache-tests/{uuid.uuid4().hex}")


def new_world(clips: int = 0, folder: Folder | None = None, root: Folder | None = None) -> World:
    world = World(folder or memory_folder(), root or memory_folder())
    for number in range(clips):
        world.put(f"clip {number:03d} #odd%20&.wav")
    return world


class KilledError(BaseException):
    """The process is gone: nothing catches it, and nothing is stored after it."""


@contextlib.contextmanager
def killed_after(changes: int) -> Iterator[None]:
    """Ends what runs inside before it makes one more change to a store than these."""
    left = itertools.count(changes, -1)
    originals = {name: getattr(Folder, name) for name in ("create", "write", "replace", "delete")}

    def mortal(method: Callable[..., object]) -> Callable[..., object]:
        def call(self: Folder, *arguments: object) -> object:
            if next(left) <= 0:
                raise KilledError
            return method(self, *arguments)

        return call

    for name, method in originals.items():
        setattr(Folder, name, mortal(method))
    try:
        yield
    except KilledError:
        pass
    finally:
        for name, method in originals.items():
            setattr(Folder, name, method)
