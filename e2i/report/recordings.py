"""Recordings small enough to lie in a report.

Decides: a recording that browsers play and that is small enough goes in as it is stored; others as
a mono MP3 at 24 kHz, about 45 kbit a second, if that is small enough. The MP3 is for listening: no
number is made from it. Recordings are decoded in the decoding processes, where they may hang or
crash; one too long for any MP3 of that size is not turned into one.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import soundfile

from e2i.decoding.pool import WaveformLoader
from e2i.errors import AudioError

_SAMPLE_RATE_HZ = 24_000
_COMPRESSION = 0.5
_LEAST_BYTES_A_S = 1_000
"""Of an MP3 at this rate, whatever it sounds like: 8 kbit a second."""

_PLAYED_AS_STORED = {b"RIFF": "audio/wav", b"fLaC": "audio/flac", b"ID3\x03": "audio/mpeg"}


@dataclass(frozen=True, slots=True)
class Recording:
    """A file that browsers play.

    Attributes:
        media_type: such as `audio/mpeg`.
        data: its bytes.
    """

    media_type: str
    data: bytes


def playable(data: bytes, name: str, max_bytes: int) -> Recording | None:
    """A recording for a report, or None where it would be too large or cannot be decoded.

    Args:
        data: the file as stored, in any format that `e2i.audio` reads.
        name: what the recording is called.
        max_bytes: largest size that it may have in the report.
    """
    stored_type = _PLAYED_AS_STORED.get(data[:4]) if len(data) <= max_bytes else None
    most = int(max_bytes / _LEAST_BYTES_A_S * _SAMPLE_RATE_HZ)
    load = WaveformLoader()
    try:
        if stored_type is None and (load.measure(data, _SAMPLE_RATE_HZ, name) or 0) > most:
            return None
        samples = load(data, _SAMPLE_RATE_HZ, name).samples
    except AudioError:
        return None
    if stored_type is not None:
        return Recording(stored_type, data)
    if len(samples) > most:
        return None
    file = io.BytesIO()
    soundfile.write(
        file,
        samples,
        _SAMPLE_RATE_HZ,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=_COMPRESSION,
    )
    encoded = file.getvalue()
    return Recording("audio/mpeg", encoded) if len(encoded) <= max_bytes else None
