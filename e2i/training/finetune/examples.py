"""Clips and captions as the encoders take them: windows of waveforms, tokens of captions.

Decides: in training, a recording longer than `max_audio_seconds` is heard through a random part of
that length; whatever is heard is cut into windows as when a cache is embedded. In validation and
test, and where the audio encoder is frozen, recordings are heard whole. What is drawn for a pair
depends on the seed, the epoch and the pair alone, so that a resumed run draws the same.

Conventions: N pairs, C clips; a batch's rows are in the order of its pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2i.clips import CaptionedClips, ClipKey
from e2i.encoders.hf_text import Tokens
from e2i.encoders.passt import PasstOptions
from e2i.encoders.windows import Array, Window, Windowing, cut
from e2i.errors import CacheError
from e2i.training.finetune.config import SAMPLE_RATE, FinetuneConfig
from e2i.training.finetune.encoders import CaptionReader, WindowGroup
from e2i.training.finetune.waveforms import StoredWaveform, WaveformStore

_AHEAD = 2
_DCASE_S = 30.0


@dataclass(frozen=True, slots=True)
class Examples:
    """Clips and captions of one part: training, validation or test.

    Attributes:
        keys: the C clips.
        waveforms: of the clips, in their order.
        captions: N texts, one a pair.
        pair_clip: int64 (N,), the clip of each.
    """

    keys: tuple[ClipKey, ...]
    waveforms: tuple[StoredWaveform, ...]
    captions: tuple[str, ...]
    pair_clip: NDArray[np.int64]

    @classmethod
    def of(cls, clips: CaptionedClips, stored: dict[str, StoredWaveform]) -> Examples:
        """The clips of a split whose waveforms are stored.

        Raises:
            CacheError: there is none.
        """
        kept = [clip for clip in clips.clips if clip.clip_id in stored and clip.captions]
        if not kept:
            raise CacheError(
                f"there is nothing to hear: got {len(clips.clips)} clips of {clips.source} of "
                "which none can be decoded, expected at least one. Look at the recordings."
            )
        counts = [len(clip.captions) for clip in kept]
        return cls(
            keys=tuple(ClipKey(clips.dataset, clips.split, clip.clip_id) for clip in kept),
            waveforms=tuple(stored[clip.clip_id] for clip in kept),
            captions=tuple(caption.text for clip in kept for caption in clip.captions),
            pair_clip=np.repeat(np.arange(len(kept), dtype=np.int64), counts),
        )

    def of_clips(self, chosen: NDArray[np.int64]) -> Examples:
        """These clips with all their captions; `chosen` are ascending indices."""
        new_index = np.full(len(self.keys), -1, dtype=np.int64)
        new_index[chosen] = np.arange(len(chosen))
        kept = np.flatnonzero(new_index[self.pair_clip] >= 0)
        return Examples(
            keys=tuple(self.keys[clip] for clip in chosen),
            waveforms=tuple(self.waveforms[clip] for clip in chosen),
            captions=tuple(self.captions[pair] for pair in kept),
            pair_clip=new_index[self.pair_clip[kept]],
        )


@dataclass(frozen=True, slots=True)
class Hearing:
    """How recordings are cut and disturbed.

    Attributes:
        windowing: the windows of what is heard.
        most_samples: longest part that is heard; None hears all.
        gain_db: random gain.
        roll: begin at a random place.
    """

    windowing: Windowing
    most_samples: int | None = None
    gain_db: float = 0.0
    roll: bool = False

    @classmethod
    def whole(cls, options: PasstOptions) -> Hearing:
        """As when a cache is embedded."""
        return cls(options.cut)

    @classmethod
    def in_training(cls, options: PasstOptions, config: FinetuneConfig) -> Hearing:
        """As configured for training."""
        default_s = _DCASE_S if config.windowing == "dcase2025" else options.architecture.window_s
        seconds = config.max_audio_seconds or default_s
        return cls(options.cut, max(1, round(seconds * SAMPLE_RATE)), config.gain_db, config.roll)


class _Part:
    """A part of a stored waveform, sliced like an array; read as far as it is asked for."""

    def __init__(
        self, store: WaveformStore, waveform: StoredWaveform, start: int, length: int
    ) -> None:
        self._store, self._waveform = store, waveform
        self._start, self._length = start, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> NDArray[np.int16]:
        first, last, _ = part.indices(self._length)
        return self._store.read(self._waveform, self._start + first, max(0, last - first))


class Listener:
    """Reads clips out of a waveform store, several at once.

    Args:
        store: where the waveforms are.
        threads: clips read at once.
    """

    def __init__(self, store: WaveformStore, threads: int) -> None:
        self._store = store
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="e2i-waveforms")
        self._ahead = ThreadPoolExecutor(_AHEAD, thread_name_prefix="e2i-batches")

    def close(self) -> None:
        """End the threads."""
        self._ahead.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)

    def groups(
        self,
        waveforms: Sequence[StoredWaveform],
        hearing: Hearing,
        draws: Sequence[np.random.Generator] | None = None,
    ) -> list[WindowGroup]:
        """The windows of some clips, in groups of one length.

        Args:
            waveforms: of B clips.
            hearing: how they are cut.
            draws: a generator for each, in training.
        """
        sources = draws if draws is not None else [None] * len(waveforms)
        heard = list(
            self._readers.map(
                lambda one, draw: self._windows(one, hearing, draw), waveforms, sources
            )
        )
        by_length: dict[int, list[tuple[int, float, Array | NDArray[np.int16]]]] = {}
        for row, windows in enumerate(heard):
            for window, samples in windows:
                by_length.setdefault(window.length, []).append((row, window.weight, samples))
        return [
            WindowGroup(
                torch.from_numpy(np.stack([samples for _, _, samples in members])),
                torch.tensor([row for row, _, _ in members]),
                torch.tensor([weight for _, weight, _ in members], dtype=torch.float64),
            )
            for members in by_length.values()
        ]

    def prefetched(
        self, jobs: Iterable[Sequence[int]], make: Callable[[Sequence[int]], list[WindowGroup]]
    ) -> Iterator[tuple[Sequence[int], list[WindowGroup]]]:
        """Each job with what `make` makes of it, the next ones in the background."""
        waiting: list[tuple[Sequence[int], Future[list[WindowGroup]]]] = []
        for job in jobs:
            waiting.append((job, self._ahead.submit(make, job)))
            if len(waiting) > _AHEAD:
                first, made = waiting.pop(0)
                yield first, made.result()
        for first, made in waiting:
            yield first, made.result()

    def _windows(
        self, waveform: StoredWaveform, hearing: Hearing, draw: np.random.Generator | None
    ) -> list[tuple[Window, Array | NDArray[np.int16]]]:
        start, length = 0, waveform.num_samples
        if draw is not None and hearing.most_samples is not None and length > hearing.most_samples:
            start = int(draw.integers(length - hearing.most_samples + 1))
            length = hearing.most_samples
        gain, shift = 1.0, 0
        if draw is not None and hearing.gain_db:
            gain = 10 ** (draw.uniform(-hearing.gain_db, hearing.gain_db) / 20)
        if draw is not None and hearing.roll and length:
            shift = int(draw.integers(length))
        part: object = _Part(self._store, waveform, start, length)
        if shift or gain != 1.0:
            whole = self._store.read(waveform, start, length).astype(np.float32) * np.float32(gain)
            part = np.roll(whole, shift)
        disturbed = shift or gain != 1.0
        windows = hearing.windowing.windows(length)
        # `cut` asks for a length and slices, and fills a float32 array with them.
        cuts = [(window, cut(part, window)) for window in windows]  # type: ignore[arg-type]
        if disturbed:
            return [(window, samples / np.float32(32_768)) for window, samples in cuts]
        return [(window, samples.astype(np.int16)) for window, samples in cuts]


def generator_of(seed: int, *place: int | str) -> np.random.Generator:
    """A generator that depends on its place alone."""
    return np.random.default_rng(seed_of(seed, *place))


def seed_of(seed: int, *place: int | str) -> int:
    """A seed of 63 bits that depends on a place in the training alone."""
    digest = hashlib.sha256(":".join(map(str, (seed, *place))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def with_words_left_out(
    captions: Sequence[str], share: float, draws: Sequence[np.random.Generator]
) -> list[str]:
    """Captions without some of their words, at least one of which stays."""
    shorter = []
    for caption, draw in zip(captions, draws, strict=True):
        words = caption.split()
        kept = [word for word, drawn in zip(words, draw.random(len(words)), strict=True)
                if drawn >= share]  # fmt: skip
        shorter.append(" ".join(kept or words[:1]))
    return shorter


class CaptionTokens:
    """The token ids of captions, made once."""

    def __init__(self, reader: CaptionReader, captions: Sequence[str]) -> None:
        self._reader, self._captions = reader, captions
        self._tokens: Tokens = reader.tokens(captions)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each caption."""
        return self._tokens.lengths

    def batch(self, pairs: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """The captions of some pairs, padded to the longest."""
        return self._tokens.batch(pairs, device)

    def disturbed(
        self,
        pairs: Sequence[int],
        share: float,
        draws: Sequence[np.random.Generator],
        device: torch.device,
    ) -> dict[str, Tensor]:
        """The same with words left out."""
        captions = with_words_left_out([self._captions[pair] for pair in pairs], share, draws)
        return self._reader.tokens(captions).batch(range(len(captions)), device)
