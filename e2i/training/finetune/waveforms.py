"""Recordings as 16-bit waveforms at the encoder's rate, stored once and read in parts.

Decides: a recording is decoded and resampled once, by the decoders that caches are embedded with;
later epochs, later runs and other machines read what is stored. A waveform's name is a hash of the
recording's place, size and version (modification time or ETag) and of what made it, so a recording
that changed is decoded again and nothing is ever stale. What is above 16 bits is lost: 96 dB below
full scale. A recording of 16 bits, mono, at that rate is kept exactly.

Conventions: a stored waveform is int16 little endian, (T,), without a header; a value of 32,768
would be 1.0. What was read stays in memory as far as there is room.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2i.audio import waveform_settings
from e2i.cache.embed_audio import LoadWaveform
from e2i.cache.sources import digest_recording, look_up, open_recording, read_recording
from e2i.clips import Clip
from e2i.errors import AudioError, AudioNotFoundError, E2IError, is_transient
from e2i.resampling import ResamplerName
from e2i.storage import FileInfo, Folder
from e2i.training.finetune.config import SAMPLE_RATE

_BYTES_A_SAMPLE = 2
_SCALE = 32_768
_WHOLE_BYTES = 32 * 2**20
_KEPT_BYTES = 2 * 2**30
_BLOCK = 2**22


@dataclass(frozen=True, slots=True)
class StoredWaveform:
    """A waveform that lies in the store.

    Attributes:
        name: of the object.
        num_samples: T.
    """

    name: str
    num_samples: int


@dataclass(frozen=True, slots=True)
class Unusable:
    """A recording that cannot be decoded.

    Attributes:
        clip_id: of its clip.
        reason: why.
    """

    clip_id: str
    reason: str


class WaveformStore:
    """The waveforms of any number of recordings, in one folder.

    Args:
        folder: where they lie.
        resampler: what they are made with.
    """

    def __init__(self, folder: Folder, resampler: ResamplerName) -> None:
        self._folder = folder
        self._made_by = {"sample_rate": SAMPLE_RATE, "bits": 16, **waveform_settings(resampler)}
        self._kept: OrderedDict[str, NDArray[np.int16]] = OrderedDict()
        self._kept_bytes = 0
        self._guard = threading.Lock()

    def prepare(
        self,
        audio_root: Folder,
        clips: Sequence[Clip],
        load_waveform: LoadWaveform,
        at_once: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> tuple[dict[str, StoredWaveform], list[Unusable], int]:
        """Decode and store what is not stored yet.

        Args:
            audio_root: where the recordings lie.
            clips: of which recordings.
            load_waveform: decodes one; called from `at_once` threads.
            at_once: recordings to decode at once.
            progress: told of clips as they are done.

        Returns:
            Waveforms by clip id, what cannot be used, and how many were decoded.

        Raises:
            StorageError: a store refused.
        """
        infos = look_up(audio_root, [clip.audio_name for clip in clips])
        stored = {file.name: file.size_bytes for file in self._folder.files()}
        found: dict[str, StoredWaveform] = {}
        lacking: list[Clip] = []
        for clip in clips:
            info = infos.get(clip.audio_name)
            name = self._name(audio_root, clip, info) if info is not None else ""
            if name in stored:
                found[clip.clip_id] = StoredWaveform(name, stored[name] // _BYTES_A_SAMPLE)
            else:
                lacking.append(clip)
        progress(len(found))
        failed: list[Unusable] = []

        def decode(clip: Clip) -> StoredWaveform | Unusable:
            try:
                made = self._decoded(audio_root, clip, infos.get(clip.audio_name), load_waveform)
            except (E2IError, OSError) as error:
                if is_transient(error) or not isinstance(error, AudioError):
                    raise
                return Unusable(clip.clip_id, str(error))
            finally:
                progress(1)
            return made

        with ThreadPoolExecutor(at_once) as pool:
            for clip, outcome in zip(lacking, pool.map(decode, lacking), strict=True):
                if isinstance(outcome, Unusable):
                    failed.append(outcome)
                else:
                    found[clip.clip_id] = outcome
        self._folder.flush()
        return found, failed, len(lacking) - len(failed)

    def read(self, waveform: StoredWaveform, start: int, count: int) -> NDArray[np.int16]:
        """Samples of a waveform: int16 (count,), or fewer at its end; not to be changed.

        Raises:
            StorageError: it cannot be read.
        """
        if waveform.num_samples * _BYTES_A_SAMPLE > _WHOLE_BYTES:
            with self._folder.open(waveform.name) as file:
                file.seek(start * _BYTES_A_SAMPLE)
                return np.frombuffer(file.read(count * _BYTES_A_SAMPLE), dtype="<i2")
        with self._guard:
            samples = self._kept.get(waveform.name)
            if samples is not None:
                self._kept.move_to_end(waveform.name)
        if samples is None:
            samples = np.frombuffer(self._folder.read(waveform.name), dtype="<i2")
            self._keep(waveform.name, samples)
        return samples[start : start + count]

    def _keep(self, name: str, samples: NDArray[np.int16]) -> None:
        with self._guard:
            if name in self._kept:
                return
            self._kept[name] = samples
            self._kept_bytes += samples.nbytes
            while self._kept_bytes > _KEPT_BYTES:
                _, gone = self._kept.popitem(last=False)
                self._kept_bytes -= gone.nbytes

    def _name(self, audio_root: Folder, clip: Clip, info: FileInfo) -> str:
        facts = [audio_root.url, clip.audio_name, info.size_bytes, info.version, self._made_by]
        return f"{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]}.i16"

    def _decoded(
        self,
        audio_root: Folder,
        clip: Clip,
        info: FileInfo | None,
        load_waveform: LoadWaveform,
    ) -> StoredWaveform:
        """Decode and store one recording."""
        name = clip.audio_name
        if info is None:
            raise AudioNotFoundError(
                f"there is no recording: got {name!r}, expected a file below {audio_root.url}. "
                "Correct the metadata or --audio-root."
            )
        if info.size_bytes > _WHOLE_BYTES:
            sha256 = digest_recording(audio_root, name)
            with open_recording(audio_root, name, info, sha256) as file:
                samples = load_waveform(file, SAMPLE_RATE, name).samples
        else:
            samples = load_waveform(read_recording(audio_root, name), SAMPLE_RATE, name).samples
        data = bytearray()
        for first in range(0, len(samples), _BLOCK):
            data += _as_int16(samples[first : first + _BLOCK]).tobytes()
        stored = StoredWaveform(self._name(audio_root, clip, info), len(samples))
        self._folder.write(stored.name, bytes(data), durable=False)
        return stored


def _as_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    rounded = np.rint(samples * np.float32(_SCALE))
    clipped: NDArray[np.int16] = np.clip(rounded, -_SCALE, _SCALE - 1).astype("<i2")
    return clipped
