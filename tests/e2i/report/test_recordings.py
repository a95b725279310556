from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from e2i.audio import load_waveform
from e2i.errors import AudioError
from e2i.report.recordings import playable


def encoded(container, seconds=2.0, rate=44_100, subtype=None):
    times = np.arange(int(seconds * rate)) / rate
    stereo = np.stack([0.4 * np.sin(2 * np.pi * 440 * times)] * 2, axis=1)
    file = io.BytesIO()
    soundfile.write(file, stereo, rate, format=container, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("container", "media_type"), [("WAV", "audio/wav"), ("FLAC", "audio/flac")]
)
def test_what_browsers_play_goes_in_as_it_is_stored(container, media_type):
    data = encoded(container)
    recording = playable(data, "a", len(data))
    assert (recording.media_type, recording.data) == (media_type, data)


@pytest.mark.parametrize(
    "data", [encoded("WAV"), encoded("OGG"), encoded("AIFF")], ids=["large wav", "ogg", "aiff"]
)
def test_others_become_a_mono_mp3_of_the_same_sound(data):
    recording = playable(data, "a", 50_000)
    assert recording.media_type == "audio/mpeg"
    assert len(recording.data) < 20_000
    with soundfile.SoundFile(io.BytesIO(recording.data)) as file:
        assert (file.format, file.channels, file.samplerate) == ("MP3", 1, 24_000)
    heard = load_waveform(recording.data, 8_000, "a").samples[4_000:12_000]
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert np.argmax(spectrum) == 440


def test_what_stays_too_large_is_left_out():
    assert playable(encoded("WAV", seconds=9), "a", 2_000) is None


def test_one_too_long_for_any_mp3_of_that_size_is_not_decoded(monkeypatch):
    def decoded(*_, **__):
        raise AssertionError("its header tells that it is too long")

    monkeypatch.setattr("e2i.decoding.pool.DecodingPool.load", decoded)
    assert playable(encoded("FLAC", seconds=30), "a", 20_000) is None


def test_a_decoder_that_crashes_leaves_the_recording_out(monkeypatch):
    def crashes(*_, **__):
        raise AudioError("its decoder crashed")

    monkeypatch.setattr("e2i.decoding.pool.DecodingPool.load", crashes)
    assert playable(encoded("WAV"), "a", 10_000_000) is None


@pytest.mark.parametrize("data", [b"", b"RIFF, but no sound", b"ID3\x03<script>"])
def test_what_cannot_be_decoded_is_left_out(data):
    assert playable(data, "a", 50_000) is None
