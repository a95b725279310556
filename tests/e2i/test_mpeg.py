"""An mp3 is read to its end, whatever its headers say of its length, or refused by name."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from e2i.audio import decode
from e2i.errors import AudioError
from e2i.mpeg import first_frame, frame_at, with_open_length

LAME_DELAY = 576
"""Samples that LAME puts in front, and tells of in the header that is taken away here."""

ID3V2 = b"ID3\x04\x00\x00\x00\x00\x07\x68" + bytes(1000)
ID3V1 = b"TAG" + bytes(125)
APE = (
    b"APETAGEX" + b"\xd0\x07\x00\x00" + (2032).to_bytes(4, "little") + bytes(4)
    + (5 << 29).to_bytes(4, "little") + bytes(8)
    + bytes(2000)
    + b"APETAGEX" + b"\xd0\x07\x00\x00" + (2032).to_bytes(4, "little") + bytes(4)
    + (1 << 31).to_bytes(4, "little") + bytes(8)
)  # fmt: skip


def mp3(rate: int, mode: str, channels: int = 1, seconds: float = 3.0) -> bytes:
    """A tone that noise joins half-way, so that a variable bit rate varies."""
    time = np.arange(round(seconds * rate)) / rate
    samples = 0.3 * np.sin(2 * np.pi * 440 * time)
    samples[len(time) // 2 :] += 0.2 * np.random.default_rng(0).standard_normal(-(-len(time) // 2))
    file = io.BytesIO()
    soundfile.write(
        file, np.tile(samples[:, None], channels), rate, format="MP3",
        subtype="MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.5,
    )  # fmt: skip
    return file.getvalue()


def without_header(data: bytes) -> bytes:
    """The same frames without the one that holds the Xing or Info header."""
    found = first_frame(io.BytesIO(data))
    assert found is not None
    return data[found[1].size :]


@pytest.mark.parametrize("rate", [48_000, 44_100, 32_000, 22_050, 16_000, 8_000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_without_a_header_the_whole_recording_is_there(rate: int, mode: str) -> None:
    for channels in (1, 2):
        data = mp3(rate, mode, channels)
        expected, _ = decode(data, name="a")
        assert expected.shape == (channels, 3 * rate)
        bare = without_header(data)
        for whole in (bare, ID3V2 + bare, bare + ID3V1, bare + APE + ID3V1):
            got, got_rate = decode(whole, name="a")
            assert got_rate == rate
            assert expected.shape[1] <= got.shape[1] - LAME_DELAY <= expected.shape[1] + 2500
            heard = got[:, LAME_DELAY : LAME_DELAY + expected.shape[1]]
            np.testing.assert_allclose(heard[:, :-2500], expected[:, :-2500], atol=1e-6)


def test_libsndfile_alone_loses_most_of_it() -> None:
    """The reason for all of this; where it fails, libsndfile has learnt to do without."""
    bare = without_header(mp3(44_100, "VARIABLE"))
    assert len(soundfile.read(io.BytesIO(bare))[0]) < 100_000 < decode(bare, name="a")[0].shape[1]


@pytest.mark.parametrize("change", ["no frames", "not given", "VBRI"])
def test_a_header_that_gives_no_length_is_none(change: str) -> None:
    data = bytearray(mp3(44_100, "VARIABLE"))
    at = data.index(b"Xing")
    if change == "no frames":
        data[at + 8 : at + 12] = bytes(4)
    elif change == "not given":
        data[at + 7] &= 0xFE
    else:
        data[at : at + 4] = bytes(4)
        data[36:40] = b"VBRI"
    got = decode(bytes(data), name="a")[0]
    expected = decode(without_header(bytes(data)), name="a")[0]
    np.testing.assert_array_equal(got, expected)


def test_a_header_that_gives_the_length_is_believed() -> None:
    data = mp3(44_100, "VARIABLE")
    assert with_open_length(io.BytesIO(data)) is None
    with pytest.raises(AudioError, match=r"'a' is truncated: got .* samples, expected the 132,300"):
        decode(data[: len(data) // 2], name="a")


def test_what_goes_on_behind_its_end_is_refused() -> None:
    data = mp3(44_100, "CONSTANT")
    with pytest.raises(AudioError) as raised:
        decode(data + data, name="a.mp3")
    assert str(raised.value) == (
        "recording 'a.mp3' is longer than its header says: got more frames behind its end, "
        "expected none. It was put together of several, or is no mp3 but an older format; convert "
        "it to wav."
    )
    bare = without_header(data)
    alone, twice = (decode(bare * times, name="a")[0].shape[1] for times in (1, 2))
    assert twice > 2 * alone - 2000


@pytest.mark.parametrize(
    ("header", "size", "rate"),
    [
        ("fffb9000", 417, 44_100),  # version 1, layer III, 128 kbit/s
        ("fffb9200", 418, 44_100),  # padded
        ("fff38400", 192, 24_000),  # version 2, 64 kbit/s
        ("ffe31800", 72, 8_000),  # version 2.5, 8 kbit/s
        ("fffda400", 576, 48_000),  # layer II, 192 kbit/s
        ("ffffc400", 384, 48_000),  # layer I, 384 kbit/s
    ],
)
def test_sizes_of_frames(header: str, size: int, rate: int) -> None:
    frame = frame_at(io.BytesIO(bytes.fromhex(header)), 0)
    assert frame is not None
    assert (frame.size, frame.sample_rate) == (size, rate)


@pytest.mark.parametrize(
    "header", ["", "fffb", "fffbf000", "fffb0000", "fffb9c00", "ffeb9000", "fff99000", "52494646"]
)
def test_what_is_no_frame(header: str) -> None:
    assert first_frame(io.BytesIO(bytes.fromhex(header))) is None
