"""The length of MPEG audio (mp3): what its own headers say of it, and what to do where they do not.

libsndfile takes the length of an mp3 from the Xing or Info header in its first frame, and stops
there. Where there is none (streams, recorders, files that were cut or put together), it works one
out from the size of the first frame, which is right only by luck: a variable bit rate makes it a
fraction, or a multiple. So such a file is shown to it with a header in front that claims more
frames than can be there, and then it reads to the end.

Conventions: offsets and sizes in bytes. Frames of "free format", which have no size in their
header, are not known here.

Source: ISO/IEC 11172-3 and 13818-3 for the headers of frames; for Xing, Info and VBRI what LAME and
the encoders of Fraunhofer write; ID3v2.4 and APEv2 for tags.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import BinaryIO

_MPEG_1, _LAYER_1, _LAYER_3, _MONO = 3, 3, 1, 3
_BIT_RATES = {
    # Version 1 or another, layer: kbit/s by index from 1.
    (True, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_SMALLEST_FRAME = 24
_LENGTH_GIVEN = 1
_ID3_HEADER, _ID3_FOOTER_FLAG, _ID3V1 = 10, 0x10, 128
_APE_FOOTER, _APE_HEADER_FLAG = 32, 1 << 31


@dataclass(frozen=True, slots=True)
class Frame:
    """The header of one frame.

    Attributes:
        header: its 4 bytes.
        size: of the frame, header included.
        sample_rate: in Hz.
    """

    header: bytes
    size: int
    sample_rate: int

    @property
    def is_layer_3(self) -> bool:
        """Whether it is mp3, which alone may tell its length."""
        return self.header[1] >> 1 & 3 == _LAYER_3

    @property
    def side_info(self) -> int:
        """Bytes between header and Xing or Info, in layer 3."""
        mono = self.header[3] >> 6 == _MONO
        if self.header[1] >> 3 & 3 == _MPEG_1:
            return 17 if mono else 32
        return 9 if mono else 17

    def fits(self, other: Frame) -> bool:
        """Whether the two can stand in one stream."""
        same = self.header[1] & 0x1E == other.header[1] & 0x1E
        return same and self.sample_rate == other.sample_rate


def frame_at(file: BinaryIO, offset: int) -> Frame | None:
    """The frame that begins at an offset, or None."""
    file.seek(offset)
    header = file.read(4)
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    rate_index, bits_index = header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or layer == 0 or rate_index == 3 or not 0 < bits_index < 15:
        return None
    return Frame(header, _size(header), _RATES[version][rate_index])


def _size(header: bytes) -> int:
    """The size of a frame with this header."""
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    rate = _RATES[version][header[2] >> 2 & 3]
    bits = 1000 * _BIT_RATES[version == _MPEG_1, layer][(header[2] >> 4) - 1]
    padding = header[2] >> 1 & 1
    if layer == _LAYER_1:
        return 4 * (12 * bits // rate + padding)
    slots = 72 if layer == _LAYER_3 and version != _MPEG_1 else 144
    return slots * bits // rate + padding


def first_frame(file: BinaryIO) -> tuple[int, Frame] | None:
    """Offset and header of the first frame of MPEG audio; None for everything else."""
    offset = 0
    while True:
        file.seek(offset)
        tag = file.read(_ID3_HEADER)
        if len(tag) < _ID3_HEADER or not tag.startswith(b"ID3"):
            break
        length = 0
        for byte in tag[6:10]:
            length = length << 7 | byte & 0x7F
        footer = _ID3_HEADER if tag[5] & _ID3_FOOTER_FLAG else 0
        offset += _ID3_HEADER + length + footer
    frame = frame_at(file, offset)
    return None if frame is None else (offset, frame)


def frames_after(file: BinaryIO, offset: int, like: Frame, most: int) -> int:
    """How many frames of the same stream follow each other from an offset on, at most so many."""
    count = 0
    while count < most:
        frame = frame_at(file, offset)
        if frame is None or not frame.fits(like):
            break
        offset += frame.size
        count += 1
    return count


def with_open_length(file: BinaryIO) -> BinaryIO | None:
    """An mp3 that does not tell its length, as one that claims to be longer than it can be.

    None where the file tells its length, or is no mp3.
    """
    found = first_frame(file)
    if found is None or not found[1].is_layer_3:
        return None
    start, frame = found
    file.seek(start)
    content = file.read(frame.size)
    info = content[4 + frame.side_info :]
    if info[:4] in {b"Xing", b"Info"}:
        if info[7] & _LENGTH_GIVEN and any(info[8:12]):
            return None
        start += frame.size
    elif content[36:40] == b"VBRI":
        start += frame.size
    end = _end_of_audio(file)
    header = _header(frame, (end - start) // _SMALLEST_FRAME + 1)
    return io.BufferedReader(_Joined(header, file, start, end))


def _header(like: Frame, frames: int) -> bytes:
    """A frame without sound that says how many follow it."""
    # Without a checksum, at a bit rate that leaves room for what it says.
    header = bytes([0xFF, like.header[1] | 1, like.header[2] & 0x0C | 0xA0, like.header[3]])
    frame = replace(like, header=header, size=_size(header))
    said = b"Info" + _LENGTH_GIVEN.to_bytes(4, "big") + frames.to_bytes(4, "big")
    return (header + bytes(frame.side_info) + said).ljust(frame.size, b"\0")


def _end_of_audio(file: BinaryIO) -> int:
    """Where the tags at the end begin."""
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - _ID3V1))
    if file.read(3) == b"TAG":
        end -= _ID3V1
    file.seek(max(0, end - _APE_FOOTER))
    footer = file.read(_APE_FOOTER)
    if footer.startswith(b"APETAGEX"):
        header = _APE_FOOTER if int.from_bytes(footer[20:24], "little") & _APE_HEADER_FLAG else 0
        end -= int.from_bytes(footer[12:16], "little") + header
    return max(0, end)


class _Joined(io.RawIOBase):
    """Some bytes, and a range of a file after them."""

    def __init__(self, head: bytes, file: BinaryIO, start: int, end: int) -> None:
        super().__init__()
        self._head, self._file = head, file
        self._shift = start - len(head)
        self._size = len(head) + max(0, end - start)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("a seek before the start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._size - self._position))
        if self._position < len(self._head):
            data = self._head[self._position : self._position + wanted]
        else:
            self._file.seek(self._position + self._shift)
            data = self._file.read(wanted)
        memoryview(buffer).cast("B")[: len(data)] = data
        self._position += len(data)
        return len(data)
