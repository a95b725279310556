"""Recordings as stored bytes to waveforms.

Conventions: a waveform is float32 `(T,)`, mono, in [-1, 1]. Decoding is libsndfile's (wav with 8,
16, 24, 32 bits or floats, flac, ogg, mp3, aiff, …), told by content and never by name.

What is decided here:

- Mono is the mean of the channels.
- Floating-point and lossy formats can hold samples beyond full scale, and 32-bit field recorders
  make use of that. Where the mono mix exceeds 1, the whole clip is divided by its peak: that keeps
  its shape, which clipping would not. What rings over full scale in resampling is clipped, since
  the recording itself was at its limit there.
- A recording that is cut short is refused, not used as far as it goes: the clip would stand in the
  data with captions for what is no longer heard. That takes a length to compare with: the header's
  in wav, aiff, flac and mp3. An ogg file cut between two pages has none, nor has an mp3 without a
  Xing or Info header: that is read to its end, however long the header's bit rate makes it seem.
- Headers are not believed: memory is taken for what is decoded, block by block. So however long a
  recording is, `WaveformStream` needs memory for a block of it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from e2i.errors import AudioError
from e2i.mpeg import Frame, first_frame, frames_after, with_open_length
from e2i.resampling import RESAMPLERS, ResamplerName, open_resampler

MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 1_000_000
MAX_FRAMES = 2**30
"""Longest recording, in samples a channel: 6 h 12 min at 48 kHz."""

_LOUDEST = 1e30
_BLOCK_SAMPLES = 2**17
_UNKNOWN_LENGTH = 2**62
"""libsndfile gives 2⁶³ - 1 frames where the format leaves the length open."""
_SPARE_FRAMES = 4
"""Frames of MPEG audio that may be left at its end: encoders fill up what is then cut off."""

_CONTAINERS: dict[bytes, tuple[Literal["little", "big"], bytes]] = {
    b"RIFF": ("little", b"data"),
    b"RIFX": ("big", b"data"),
    b"FORM": ("big", b"SSND"),
}


@dataclass(frozen=True, slots=True)
class Waveform:
    """One recording, ready for an encoder.

    Attributes:
        samples: float32 (T,), mono, in [-1, 1], at the rate asked for.
        duration_s: length of the recording as stored, in seconds.
    """

    samples: NDArray[np.float32]
    duration_s: float


class WaveformStream:
    """A recording as an encoder takes it, block by block: mono, at one rate, in [-1, 1].

    Whether it goes over full scale is known at its end. So `blocks` are to be kept until they are
    through, and then, if `is_over` says so, each of them or all at once given to `level`.

    Args:
        source: the file, readable and seekable.
        sample_rate: rate wanted, in Hz.
        name: what the recording is called, for messages.
        resampler: which.

    Attributes:
        duration_s: length of the recording as stored, in seconds, once the blocks are through.
    """

    def __init__(
        self,
        source: BinaryIO,
        sample_rate: int,
        name: str,
        resampler: ResamplerName = "torchaudio",
    ) -> None:
        self.duration_s = 0.0
        self._source = source
        self._sample_rate = sample_rate
        self._name = name
        self._resampler: ResamplerName = resampler
        self._peak = 0.0
        self._highest = 0.0

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """The waveform, not yet levelled, float32 (T,) together; some of the blocks are empty.

        Raises:
            AudioError: as `decode`.
        """
        frames, source_hz, resampling = 0, 0, None
        for block, source_hz in _decode_blocks(self._source, self._name):
            mono = _mixed(block)
            frames += len(mono)
            self._peak = max(self._peak, _peak(mono))
            if self._peak > _LOUDEST:
                raise AudioError(
                    f"recording {self._name!r} is too loud to compute with: got a peak of "
                    f"{self._peak:.3g} times full scale, expected at most {_LOUDEST:.0e}. Export "
                    "it again."
                )
            if resampling is None:
                resampling = open_resampler(source_hz, self._sample_rate, self._resampler)
            yield self._noted(resampling.push(mono))
        if resampling is not None:
            yield self._noted(resampling.finish())
            self.duration_s = frames / source_hz

    def _noted(self, resampled: NDArray[np.float32]) -> NDArray[np.float32]:
        self._highest = max(self._highest, _peak(resampled))
        return resampled

    @property
    def is_over(self) -> bool:
        """Whether the recording, or its waveform as it came, goes over full scale."""
        return max(self._peak, self._highest) > 1

    def level(self, samples: NDArray[np.float32]) -> None:
        """Bring samples within [-1, 1], in place."""
        if self._peak > 1:
            samples /= np.float32(self._peak)
        np.clip(samples, -1, 1, out=samples)


def waveform_settings(resampler: ResamplerName) -> dict[str, str]:
    """What makes a waveform of a recording, for the fingerprint of audio encoders."""
    return {
        "downmix": "mean",
        "overload": "divide by peak",
        "resampler": RESAMPLERS[resampler],
    }


def decode(data: bytes, *, name: str) -> tuple[NDArray[np.float32], int]:
    """All channels of a recording, as stored.

    Args:
        data: the bytes of the file.
        name: what the recording is called, for messages.

    Returns:
        float32 (channels, T), integer formats scaled to [-1, 1], others as they are; and the
        sample rate in Hz.

    Raises:
        AudioError: empty, not audio, cut short, no samples, samples that are not finite, or a rate
            or length out of bounds.
    """
    blocks = list(_decode_blocks(io.BytesIO(data), name))
    return np.concatenate([block for block, _ in blocks]).T, blocks[0][1]


def expected_samples(source: BinaryIO, sample_rate: int, name: str) -> int | None:
    """T that a waveform will have, by the recording's header; None where that does not say.

    Args:
        source: the file, readable and seekable.
        sample_rate: rate wanted, in Hz.
        name: what the recording is called, for messages.

    Raises:
        AudioError: as `decode`, where the header alone shows it.
    """
    with _opened(source, name) as opened:
        if not opened.tells_length:
            return None
        return -(-int(opened.reader.frames) * sample_rate // int(opened.reader.samplerate))


def load_waveform(
    data: bytes, sample_rate: int, name: str, resampler: ResamplerName = "torchaudio"
) -> Waveform:
    """A recording as an encoder takes it: mono, at `sample_rate` (Hz), in [-1, 1].

    It is decoded in this process; `e2i.decoding` does so in another, which may hang or crash.

    Args:
        data: the bytes of the file.
        sample_rate: rate wanted, in Hz.
        name: what the recording is called, for messages.
        resampler: which.

    Raises:
        AudioError: as `decode`.
    """
    stream = WaveformStream(io.BytesIO(data), sample_rate, name, resampler)
    samples = np.concatenate(list(stream.blocks()))
    if stream.is_over:
        stream.level(samples)
    return Waveform(samples, stream.duration_s)


def _mixed(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the channels of (frames, channels); by columns, which is quick for a few."""
    if block.shape[1] == 1:
        return block[:, 0]
    mixed = block[:, 0].copy()
    with np.errstate(over="ignore"):
        for channel in range(1, block.shape[1]):
            mixed += block[:, channel]
    mixed /= np.float32(block.shape[1])
    return mixed


def _peak(samples: NDArray[np.float32]) -> float:
    return max(float(samples.max()), -float(samples.min())) if len(samples) else 0.0


class _ForwardReader(soundfile.SoundFile):  # type: ignore[misc]
    """Reads without seeking, which fails for FLAC streams that leave their length open."""

    def seekable(self) -> bool:
        return False


class _Source:
    """Stays where it is on a seek before its start, which broken headers make libsndfile try."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell
        self.readinto = file.readinto  # type: ignore[attr-defined]

    def read(self, count: int) -> bytes:
        return self._file.read(count)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError):
            return self._file.tell()


@dataclass(frozen=True, slots=True)
class _Opened:
    """A recording that libsndfile reads.

    Attributes:
        reader: of libsndfile.
        tells_length: whether its header does.
        mpeg: the first frame, where it is MPEG audio that libsndfile ends by itself.
    """

    reader: soundfile.SoundFile
    tells_length: bool
    mpeg: Frame | None


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[_Opened]:
    if not file.seek(0, io.SEEK_END):
        raise AudioError(
            f"recording {name!r} is empty: got 0 bytes, expected audio. Fetch the file again."
        )
    _check_whole(file, name)
    mpeg, open_ended = first_frame(file), with_open_length(file)
    guessed = mpeg is not None and not mpeg[1].is_layer_3
    file.seek(0)
    try:
        with _ForwardReader(_Source(open_ended or file)) as reader:
            _check_rate(reader.samplerate, name)
            tells = open_ended is None and not guessed and reader.frames < _UNKNOWN_LENGTH
            yield _Opened(reader, tells, mpeg[1] if mpeg and open_ended is None else None)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"recording {name!r} cannot be decoded: got {_reason(error)}, expected wav, flac, ogg, "
            "mp3 or another format of libsndfile. Check that the file is whole, or convert it to "
            "wav."
        ) from error


def _decode_blocks(file: BinaryIO, name: str) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Blocks (frames, channels), at least one of at least a frame, each with the sample rate."""
    with _opened(file, name) as opened:
        for block in _read_all(opened, name):
            yield block, int(opened.reader.samplerate)
        if opened.mpeg is not None:
            _check_over(file, opened.mpeg, name)


def _read_all(opened: _Opened, name: str) -> Iterator[NDArray[np.float32]]:
    reader, frames = opened.reader, 0
    while True:
        block = reader.read(
            max(1, _BLOCK_SAMPLES // reader.channels), dtype="float32", always_2d=True
        )
        if not len(block):
            break
        _check_finite(block, frames, name)
        frames += len(block)
        if frames > MAX_FRAMES:
            raise AudioError(
                f"recording {name!r} is too long: got more than {MAX_FRAMES:,} samples a channel, "
                f"expected at most that many. Cut it into clips."
            )
        yield block
    if frames == 0:
        raise AudioError(
            f"recording {name!r} has no samples: got 0, expected at least 1. Fetch the file again."
        )
    if opened.tells_length and frames < reader.frames:
        raise _truncated(name, f"{frames:,} samples", f"{reader.frames:,}")


def _check_rate(sample_rate: int, name: str) -> None:
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError(
            f"recording {name!r} has an unusable sample rate: got {sample_rate:,} Hz, expected "
            f"{MIN_SAMPLE_RATE:,} to {MAX_SAMPLE_RATE:,}. Check its header, or resample it."
        )


def _check_finite(block: NDArray[np.float32], frames_before: int, name: str) -> None:
    finite = np.isfinite(block)
    if not finite.all():
        frame, channel = np.argwhere(~finite)[0]
        raise AudioError(
            f"recording {name!r} holds samples that are not finite: got {block[frame, channel]} at "
            f"sample {frames_before + int(frame):,}, expected numbers. Export it again."
        )


def _check_whole(file: BinaryIO, name: str) -> None:
    """Compare what a wav or aiff header promises with the bytes that are there.

    libsndfile reads such files as far as they go, without a word.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    kind = file.read(4)
    if kind not in _CONTAINERS:
        return
    order, wanted = _CONTAINERS[kind]
    position = 12
    while position + 8 <= size:
        file.seek(position)
        chunk, promised = file.read(4), int.from_bytes(file.read(4), order)
        position += 8
        if chunk == wanted:
            there = size - position
            if promised > there:
                raise _truncated(name, f"{there:,} bytes of samples", f"{promised:,}")
            return
        position += promised + promised % 2


def _check_over(file: BinaryIO, like: Frame, name: str) -> None:
    """Refuse MPEG audio that goes on where its header says that it ends."""
    if frames_after(file, file.tell(), like, _SPARE_FRAMES + 1) > _SPARE_FRAMES:
        raise AudioError(
            f"recording {name!r} is longer than its header says: got more frames behind its end, "
            "expected none. It was put together of several, or is no mp3 but an older format; "
            "convert it to wav."
        )


def _truncated(name: str, got: str, promised: str) -> AudioError:
    return AudioError(
        f"recording {name!r} is truncated: got {got}, expected the {promised} that its header "
        "promises. Fetch the file again; if it was streamed to disk without a length, convert it "
        "once more, to a file."
    )


def _reason(error: soundfile.LibsndfileError) -> str:
    """The library's reason, without the object that it read from."""
    reason = str(error.error_string).strip().rstrip(".")
    # What libsndfile says when it took the bytes for mp3 and found no frame in them.
    return "no audio" if reason.startswith("File does not exist") else f"{reason!r}"
