"""Decoding: each format, each way in which a recording can be unusable, mono, levels, rates."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i import audio
from e2i.audio import decode, load_waveform
from e2i.errors import AudioError


def tone(seconds: float, rate: int, hz: float = 440.0, peak: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (peak * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def stored(samples: np.ndarray, rate: int, format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


LOSSLESS = [
    ("WAV", "PCM_U8", 2 / 128),
    ("WAV", "PCM_16", 2 / 2**15),
    ("WAV", "PCM_24", 2 / 2**23),
    ("WAV", "PCM_32", 1e-6),
    ("WAV", "FLOAT", 0),
    ("WAV", "DOUBLE", 1e-7),
    ("WAVEX", "PCM_16", 2 / 2**15),
    ("FLAC", "PCM_16", 2 / 2**15),
    ("FLAC", "PCM_24", 2 / 2**23),
    ("AIFF", "PCM_16", 2 / 2**15),
]


@pytest.mark.parametrize(("format", "subtype", "tolerance"), LOSSLESS)
def test_lossless_formats_come_back(format: str, subtype: str, tolerance: float) -> None:
    samples = np.stack([tone(0.1, 16_000), tone(0.1, 16_000, 1000)], axis=1)
    channels, rate = decode(stored(samples, 16_000, format, subtype), name="a")
    assert (rate, channels.dtype, channels.shape) == (16_000, np.float32, (2, 1600))
    np.testing.assert_allclose(channels, samples.T, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("format", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
)
def test_lossy_formats_sound_alike(format: str, subtype: str) -> None:
    samples = tone(1.0, 48_000)
    waveform = load_waveform(stored(samples, 48_000, format, subtype), 48_000, "a")
    assert waveform.duration_s == pytest.approx(1.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(waveform.samples[:48_000]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=2)
    assert np.abs(waveform.samples).max() == pytest.approx(0.5, abs=0.15)


def test_mono_is_the_mean_of_the_channels() -> None:
    left, right = tone(0.2, 8000), tone(0.2, 8000, 1000, peak=0.25)
    waveform = load_waveform(stored(np.stack([left, right], 1), 8000, "WAV", "FLOAT"), 8000, "a")
    np.testing.assert_allclose(waveform.samples, (left + right) / 2, atol=1e-7)
    assert waveform.samples.flags.c_contiguous


def test_opposite_channels_are_silence_and_many_channels_are_fine() -> None:
    left = tone(0.1, 8000)
    silent = load_waveform(stored(np.stack([left, -left], 1), 8000, "WAV", "FLOAT"), 8000, "a")
    assert not silent.samples.any()
    many = load_waveform(stored(np.tile(left[:, None], 24), 8000, "WAV", "FLOAT"), 8000, "a")
    np.testing.assert_allclose(many.samples, left, atol=1e-6)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored(np.random.default_rng(0).uniform(-1, 1, (5000, 2)), 8000)
    whole = load_waveform(data, 8000, "a").samples
    monkeypatch.setattr(audio, "_BLOCK_SAMPLES", 606)
    np.testing.assert_array_equal(load_waveform(data, 8000, "a").samples, whole)
    assert decode(data, name="a")[0].shape == (2, 5000)


def test_a_float_recording_over_full_scale_keeps_its_shape() -> None:
    samples = tone(0.1, 8000, peak=1.2)
    waveform = load_waveform(stored(samples, 8000, "WAV", "FLOAT"), 8000, "a")
    np.testing.assert_allclose(waveform.samples, samples / np.abs(samples).max(), atol=1e-6)
    channels, _ = decode(stored(samples, 8000, "WAV", "FLOAT"), name="a")
    np.testing.assert_array_equal(channels[0], samples)


def test_what_rings_over_full_scale_in_resampling_is_clipped() -> None:
    square = np.sign(tone(0.2, 44_100, 997)).astype(np.float32)
    loud = load_waveform(stored(square, 44_100), 32_000, "a").samples
    quiet = load_waveform(stored(square / 2, 44_100), 32_000, "a").samples
    assert np.abs(quiet).max() > 0.51
    assert np.abs(loud).max() == 1
    inside = np.abs(quiet) < 0.49
    np.testing.assert_allclose(loud[inside], 2 * quiet[inside], atol=2e-3)


@pytest.mark.parametrize("rate", [8000, 11_025, 11_127, 22_050, 31_999, 44_100, 48_000, 96_000])
def test_every_rate_keeps_duration_and_pitch(rate: int) -> None:
    samples = tone(0.5, rate, 440)
    waveform = load_waveform(stored(samples, rate), 32_000, "a")
    assert waveform.duration_s == len(samples) / rate
    assert abs(len(waveform.samples) - waveform.duration_s * 32_000) <= 1
    inner = slice(800, 15_000)
    np.testing.assert_allclose(waveform.samples[inner], tone(0.5, 32_000)[inner], atol=2e-3)


def test_silence_offset_and_a_single_sample_are_fine() -> None:
    assert not load_waveform(stored(np.zeros(100), 8000), 8000, "a").samples.any()
    offset = load_waveform(stored(np.full(100, 0.25), 8000), 8000, "a").samples
    np.testing.assert_allclose(offset, 0.25, atol=1e-4)
    assert load_waveform(stored(np.array([0.5]), 44_100), 32_000, "a").samples.shape == (1,)


def with_data_size(data: bytes, size: int) -> bytes:
    at = data.index(b"data") + 4
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


WAV = stored(tone(0.5, 8000), 8000)
FLAC = stored(tone(0.5, 8000), 8000, "FLAC")
FRAMES_AT = 8 + 13  # stream info: the low half of this byte and four more count the samples
UNUSABLE = [
    (b"", "recording 'a.wav' is empty: got 0 bytes, expected audio. Fetch"),
    (b"just some words\n" * 50, "cannot be decoded: got 'Format not recognised', expected wav"),
    (("words" * 50).encode("utf-16"), "cannot be decoded: got no audio, expected wav"),
    (b"PK\x03\x04" + bytes(500), "'a.wav' cannot be decoded"),
    (WAV[:30], "'a.wav' cannot be decoded"),
    (WAV[:12], "'a.wav' cannot be decoded"),
    (WAV[:-1], "is truncated: got 7,999 bytes of samples, expected the 8,000 that its header"),
    (WAV[:4044], "is truncated: got 4,000 bytes of samples, expected the 8,000 that its header"),
    (with_data_size(WAV, 2**32 - 1), "expected the 4,294,967,295 that its header promises. Fetch"),
    (with_data_size(WAV[:44], 0), "has no samples: got 0, expected at least 1. Fetch"),
    (stored(tone(0.5, 8000), 8000, "AIFF")[:4000], "'a.wav' is truncated"),
    (FLAC[: len(FLAC) // 2], "'a.wav' cannot be decoded"),
    (stored(tone(2, 8000), 8000, "MP3", "MPEG_LAYER_III")[:3000], "'a.wav' is truncated"),
    (
        stored(np.array([0, 0.5, np.nan]), 8000, "WAV", "FLOAT"),
        "'a.wav' holds samples that are not finite: got nan at sample 2, expected numbers. Export",
    ),
    (stored(np.array([0, np.inf]), 8000, "WAV", "FLOAT"), "got inf at sample 1"),
    (stored(np.array([1e300]), 8000, "WAV", "DOUBLE"), "got inf at sample 0"),
    (stored(tone(1, 50), 50), "unusable sample rate: got 50 Hz, expected 1,000 to 1,000,000"),
    (stored(tone(1e-5, 2_000_000_000), 2_000_000_000), "got 2,000,000,000 Hz"),
]


# The bytes hold the second at which they were written, so that they name no test.
@pytest.mark.parametrize(("data", "message"), UNUSABLE, ids=[text for _, text in UNUSABLE])
def test_what_cannot_be_used_is_named(
    data: bytes, message: str, recwarn: pytest.WarningsRecorder
) -> None:
    for load in (lambda: load_waveform(data, 32_000, "a.wav"), lambda: decode(data, name="a.wav")):
        with pytest.raises(AudioError) as raised:
            load()
        assert message in str(raised.value)
        assert "0x7f" not in str(raised.value)
    assert not recwarn.list


def test_a_flac_header_that_claims_hours_takes_no_memory() -> None:
    lying = bytearray(FLAC)
    lying[FRAMES_AT] |= 0x0F
    lying[FRAMES_AT + 1 : FRAMES_AT + 5] = b"\xff" * 4
    with pytest.raises(AudioError, match=r"got 4,000 samples, expected the 68,719,476,735"):
        load_waveform(bytes(lying), 8000, "a")


def test_a_flac_stream_of_open_length_is_read() -> None:
    open_ended = bytearray(FLAC)
    open_ended[FRAMES_AT] &= 0xF0
    open_ended[FRAMES_AT + 1 : FRAMES_AT + 5] = bytes(4)
    expected = load_waveform(FLAC, 8000, "a").samples
    np.testing.assert_array_equal(load_waveform(bytes(open_ended), 8000, "a").samples, expected)


def test_too_long_is_refused_while_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_FRAMES", 3999)
    with pytest.raises(AudioError, match="too long: got more than 3,999 samples a channel"):
        load_waveform(WAV, 8000, "a")


@settings(deadline=None, max_examples=80)
@given(
    kind=st.sampled_from(
        [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("AU", "PCM_16")]
    ),
    edits=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    keep=st.floats(0, 1),
)
def test_damaged_files_are_read_or_refused(
    kind: tuple[str, str], edits: list[tuple[int, int]], keep: float
) -> None:
    damaged = bytearray(stored(tone(0.05, 8000), 8000, *kind))
    for at, value in edits:
        damaged[at] = value
    try:
        samples = load_waveform(bytes(damaged[: int(len(damaged) * keep)]), 8000, "a").samples
    except AudioError:
        return
    assert samples.size
    assert np.abs(samples).max() <= 1
