"""Embedding one chunk of recordings and storing its shard.

Conventions: a recording that cannot be read, decoded or embedded costs itself only; a store that
is away costs the chunk, which can be tried again. Recordings are read and hashed first, so that
rows stored by somebody else in the meantime are found before anything is encoded. The next
recordings decode while the encoder runs.

Memory is bounded: small recordings are kept between hashing and decoding as far as there is room,
large ones are never held whole, and no more are decoded ahead of the encoder than fit, by what
their headers say that they will come to.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from e2i.cache.chunk_result import (
    ChunkResult,
    Progress,
    Stop,
    check_encoder,
    encoder_lock,
    record_failures,
    wrong_dimension,
)
from e2i.cache.decode_ahead import decoded_ahead
from e2i.cache.failures import Failure, chunk_failures_name, read_failure_file
from e2i.cache.header import SideSettings
from e2i.cache.layout import FAILURES_NAME, shard_name
from e2i.cache.plan import AudioChunk, WantedClip
from e2i.cache.shards import AudioRow, ShardStamp, audio_shard, shard_key
from e2i.cache.sources import (
    READERS,
    changed_meanwhile,
    digest_recording,
    find_recording,
    open_recording,
    read_recording,
)
from e2i.decoding.temporary import temporary_file
from e2i.encoders.protocols import AudioEmbedding, AudioEncoder
from e2i.errors import AudioError, CacheError, E2IError, is_transient
from e2i.storage import FileInfo, Folder

_KEPT_BYTES = 512 * 2**20
"""Bytes of recordings that a chunk keeps in memory; what is beyond is read again."""

_WHOLE_BYTES = 32 * 2**20
"""Larger recordings are read block by block."""

_DECODERS = 2
_SAMPLES_AHEAD = 64 * 2**20
"""Decoded samples, 256 MiB, that wait for the encoder; a recording may be longer, but is alone."""

_CLIPS_A_CALL = 16
_SAMPLES_A_CALL = 16 * 2**20
"""Samples given to the encoder at once, 64 MiB: over 8 minutes at 32 kHz."""


class Waveform(Protocol):
    """A decoded recording: float32 (T,) at the encoder's rate, and its length as stored."""

    @property
    def samples(self) -> NDArray[np.float32]: ...  # noqa: D102

    @property
    def duration_s(self) -> float: ...  # noqa: D102


LoadWaveform = Callable[[bytes | BinaryIO, int, str], Waveform]
"""Decodes a recording to a waveform at a rate (Hz); the name is for messages. Raises AudioError.

The recording comes as bytes or as an open file.
"""

MeasureWaveform = Callable[[BinaryIO, int, str], int | None]
"""How many samples `LoadWaveform` will come to, for an open file; None where its header does not
tell. Raises AudioError.
"""


def embed_audio_chunk(
    folder: Folder,
    audio_root: Folder,
    chunk: AudioChunk,
    encoder: AudioEncoder,
    load_waveform: LoadWaveform,
    *,
    measure: MeasureWaveform | None = None,
    decoders: int = _DECODERS,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> ChunkResult:
    """Embed the recordings of a chunk and store them, unless they are stored by now.

    Args:
        folder: the cache.
        audio_root: where the recordings lie.
        chunk: as planned.
        encoder: the one that the chunk was planned for.
        load_waveform: decodes a recording; called from several threads at once.
        measure: tells what a recording will come to, likewise. Without it recordings decode one by
            one, as no one can tell how many fit.
        decoders: how many recordings to decode at once.
        progress: told of clips as they are done.
        stop: asked between calls of the encoder; True stores what is there and ends.

    Raises:
        FingerprintMismatchError: the encoder is another one.
        CacheError: embeddings have another length than the encoder says.
        StorageError: the store refused; nothing half-written is left.
    """
    started = time.perf_counter()
    check_encoder(chunk.stamp, SideSettings.of(encoder))
    work = _ChunkWork(
        audio_root, chunk.stamp, encoder, load_waveform, measure, decoders, progress, stop
    )
    recordings = work.read(chunk.clips)
    lacking = _not_stored(folder, chunk, recordings)
    reused = len(recordings) - len(lacking)
    work.tell(reused)
    rows = work.embed(lacking)
    record_failures(folder, chunk.stamp, chunk.key, work.failed)
    result = ChunkResult(
        reused=reused,
        failed=tuple(work.failed),
        left=len(lacking) - len(rows) - work.failed_after_reading,
    )
    if rows:
        key = shard_key(chunk.stamp, ((row.clip_id, row.content_sha256) for row in rows))
        data = audio_shard(chunk.stamp, rows)
        if folder.create(shard_name("audio", key), data):
            result = replace(result, embedded=len(rows), stored_bytes=len(data))
        else:
            result = replace(result, discarded=len(rows))
    return replace(result, seconds=time.perf_counter() - started)


def embed_recordings(
    audio_root: Folder,
    stamp: ShardStamp,
    clips: Sequence[WantedClip],
    encoder: AudioEncoder,
    load_waveform: LoadWaveform,
    *,
    measure: MeasureWaveform | None = None,
    decoders: int = _DECODERS,
) -> tuple[list[AudioRow], list[Failure]]:
    """Embed recordings as a chunk does, and store nothing; the rows, and what failed.

    Args:
        audio_root: where they lie.
        stamp: of the cache whose rows they are to be like.
        clips: which.
        encoder: the one that the stamp names.
        load_waveform: decodes a recording; called from several threads at once.
        measure: tells what a recording will come to, likewise; as for a chunk.
        decoders: how many recordings to decode at once.

    Raises:
        FingerprintMismatchError: the encoder is another one.
        CacheError: embeddings have another length than the encoder says.
        StorageError: the store refused.
    """
    check_encoder(stamp, SideSettings.of(encoder))
    work = _ChunkWork(audio_root, stamp, encoder, load_waveform, measure, decoders, None, None)
    rows = work.embed(work.read(clips))
    return rows, work.failed


@dataclass(frozen=True, slots=True)
class _Recording:
    """A recording that could be read; `data` is None where it is to be read again."""

    clip: WantedClip
    info: FileInfo
    sha256: str
    data: bytes | None


def _not_stored(
    folder: Folder, chunk: AudioChunk, recordings: list[_Recording]
) -> list[_Recording]:
    """The recordings that no other run has stored as this chunk.

    A run in which some of them failed has stored the others: its records tell which.
    """
    if not recordings:
        return []
    if _is_stored(folder, chunk, recordings):
        return []
    records = [
        *read_failure_file(folder, chunk_failures_name("audio", chunk.key)),
        *read_failure_file(folder, FAILURES_NAME),
    ]
    failed = {(record.id, record.content_sha256) for record in records}
    fine = [r for r in recordings if (r.clip.clip_id, r.sha256) not in failed]
    if len(fine) < len(recordings) and fine and _is_stored(folder, chunk, fine):
        return [r for r in recordings if (r.clip.clip_id, r.sha256) in failed]
    return recordings


def _is_stored(folder: Folder, chunk: AudioChunk, recordings: list[_Recording]) -> bool:
    key = shard_key(chunk.stamp, ((r.clip.clip_id, r.sha256) for r in recordings))
    return folder.info(shard_name("audio", key)) is not None


@dataclass(slots=True)
class _ChunkWork:
    """Reads, decodes and encodes the recordings of one chunk, and collects what failed."""

    audio_root: Folder
    stamp: ShardStamp
    encoder: AudioEncoder
    load_waveform: LoadWaveform
    measure: MeasureWaveform | None
    decoders: int
    progress: Progress | None
    stop: Stop | None
    failed: list[Failure] = field(default_factory=list)
    failed_after_reading: int = 0
    _kept_bytes: int = 0
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, done: int) -> None:
        """Pass progress on."""
        if self.progress is not None and done:
            self.progress(done)

    def read(self, clips: Sequence[WantedClip]) -> list[_Recording]:
        """The recordings that can be read, in the order given; the others have failed."""
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(self._read_one, clips))
        for clip, outcome in zip(clips, found, strict=True):
            if isinstance(outcome, Exception):
                self._fail(clip, "", outcome)
        return [outcome for outcome in found if isinstance(outcome, _Recording)]

    def embed(self, recordings: Sequence[_Recording]) -> list[AudioRow]:
        """Rows of the recordings that can be embedded, in the order given."""
        rows: list[AudioRow] = []
        batch: list[tuple[_Recording, Waveform]] = []
        decoded = decoded_ahead(
            recordings, self._decode, decoders=self.decoders, samples=_SAMPLES_AHEAD
        )
        with contextlib.closing(decoded):
            for recording, outcome in decoded:
                if isinstance(outcome, AudioError):
                    self._fail(recording.clip, recording.sha256, outcome, after_reading=True)
                    continue
                batch.append((recording, outcome))
                if len(batch) == _CLIPS_A_CALL or _num_samples(batch) >= _SAMPLES_A_CALL:
                    rows += self._encode(batch)
                    batch = []
                    if self.stop is not None and self.stop():
                        return rows
        return rows + self._encode(batch)

    def _read_one(self, clip: WantedClip) -> _Recording | Exception:
        try:
            info = find_recording(self.audio_root, clip.audio_name)
            if info.size_bytes > _WHOLE_BYTES:
                sha256 = digest_recording(self.audio_root, clip.audio_name)
                return _Recording(clip, info, sha256, None)
            data = read_recording(self.audio_root, clip.audio_name)
        except (E2IError, OSError) as error:
            if is_transient(error):
                raise
            return error
        sha256 = hashlib.sha256(data).hexdigest()
        with self._guard:
            keep = self._kept_bytes + len(data) <= _KEPT_BYTES
            self._kept_bytes += len(data) if keep else 0
        return _Recording(clip, info, sha256, data if keep else None)

    def _decode(
        self, recording: _Recording, wait_for_room: Callable[[int | None], None]
    ) -> Waveform:
        """The waveform of a recording, begun when there is room for it."""
        name, rate = recording.clip.audio_name, self.encoder.sample_rate
        large = recording.data is None and recording.info.size_bytes > _WHOLE_BYTES
        with contextlib.ExitStack() as stack:
            if large:
                if self.audio_root.local_path is None:
                    wait_for_room(None)  # its copy takes room too
                source = stack.enter_context(
                    open_recording(self.audio_root, name, recording.info, recording.sha256)
                )
                if self.audio_root.local_path is not None:
                    wait_for_room(self._expected(source, name))
                return self.load_waveform(source, rate, name)
            data = recording.data if recording.data is not None else self._read_again(recording)
            if self.measure is None:
                wait_for_room(None)
                return self.load_waveform(data, rate, name)
            source = stack.enter_context(temporary_file(data))
            wait_for_room(self._expected(source, name))
            return self.load_waveform(source, rate, name)

    def _expected(self, source: BinaryIO, name: str) -> int | None:
        if self.measure is None:
            return None
        return self.measure(source, self.encoder.sample_rate, name)

    def _read_again(self, recording: _Recording) -> bytes:
        name = recording.clip.audio_name
        data = read_recording(self.audio_root, name)
        if hashlib.sha256(data).hexdigest() != recording.sha256:
            raise changed_meanwhile(name)
        return data

    def _encode(self, batch: Sequence[tuple[_Recording, Waveform]]) -> list[AudioRow]:
        """Rows of a batch; if the encoder refuses a waveform, the others go on without it."""
        if not batch:
            return []
        try:
            with encoder_lock(self.encoder):
                made = self.encoder.encode([waveform.samples for _, waveform in batch])
        except AudioError as error:
            if len(batch) > 1:
                return [row for one in batch for row in self._encode([one])]
            recording = batch[0][0]
            self._fail(recording.clip, recording.sha256, error, after_reading=True)
            return []
        if len(made) != len(batch):
            raise wrong_dimension(self.stamp, (len(made),))
        rows = [
            row
            for (recording, waveform), embedded in zip(batch, made, strict=True)
            if (row := self._row(recording, waveform, embedded)) is not None
        ]
        self.tell(len(rows))
        return rows

    def _row(
        self, recording: _Recording, waveform: Waveform, made: AudioEmbedding
    ) -> AudioRow | None:
        embedding = np.asarray(made.embedding, dtype=np.float32)
        if embedding.shape != (self.stamp.dim,):
            raise wrong_dimension(self.stamp, embedding.shape)
        windows = self._windows(made) if self.stamp.store_windows else None
        if not (np.isfinite(embedding).all() and (windows is None or np.isfinite(windows).all())):
            error = AudioError(
                f"a recording cannot be embedded: got values that are not finite for "
                f"{recording.clip.audio_name!r}, expected finite ones. Look at the recording."
            )
            self._fail(recording.clip, recording.sha256, error, after_reading=True)
            return None
        return AudioRow(
            clip_id=recording.clip.clip_id,
            content_sha256=recording.sha256,
            source_bytes=recording.info.size_bytes,
            source_version=recording.info.version,
            embedding=embedding,
            duration_s=float(waveform.duration_s),
            num_windows=int(made.num_windows),
            windows=windows,
        )

    def _windows(self, made: AudioEmbedding) -> NDArray[np.float32]:
        """(W, D) of a clip; what is made of one window is that window's embedding."""
        if made.windows is None and made.num_windows == 1:
            return np.asarray(made.embedding, dtype=np.float32)[None]
        if made.windows is None:
            raise CacheError(
                f"the audio encoder gives no embeddings of windows: got {made.num_windows} windows "
                "and one embedding, expected one a window. Leave --store-windows out."
            )
        windows = np.asarray(made.windows, dtype=np.float32)
        if windows.shape != (made.num_windows, self.stamp.dim):
            raise wrong_dimension(self.stamp, windows.shape)
        return windows

    def _fail(
        self, clip: WantedClip, sha256: str, error: Exception, *, after_reading: bool = False
    ) -> None:
        self.failed.append(
            Failure(
                side="audio",
                id=clip.clip_id,
                name=clip.audio_name,
                error=type(error).__name__,
                reason=str(error),
                content_sha256=sha256,
                fingerprint=self.stamp.fingerprint,
                generation=self.stamp.generation,
            )
        )
        self.failed_after_reading += after_reading
        self.tell(1)


def _num_samples(batch: Sequence[tuple[_Recording, Waveform]]) -> int:
    return sum(len(waveform.samples) for _, waveform in batch)
