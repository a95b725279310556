"""Recordings as stored 16-bit waveforms: decoded once, read in parts, heard in windows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_world import RATE, write_recordings

from e2i.audio import load_waveform
from e2i.clips import CaptionedClips
from e2i.datasets.config import MetadataConfig
from e2i.datasets.tabular import read_metadata
from e2i.encoders.windows import Windowing
from e2i.storage import Folder
from e2i.training.finetune.examples import (
    Examples,
    Hearing,
    Listener,
    generator_of,
    with_words_left_out,
)
from e2i.training.finetune.waveforms import WaveformStore


@pytest.fixture
def clips(tmp_path: Path) -> CaptionedClips:
    write_recordings(tmp_path, 5)
    return read_metadata(MetadataConfig(metadata=str(tmp_path / "clips.csv")))


class Decoder:
    """Decodes in this process, and counts."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, data: bytes, rate: int, name: str):
        self.names.append(name)
        return load_waveform(data, rate, name)


@pytest.mark.parametrize("where", ["file", "memory"])
def test_a_recording_is_decoded_once(tmp_path: Path, clips: CaptionedClips, where: str) -> None:
    url = f"{tmp_path}/kept" if where == "file" else f"memory://{tmp_path.name}/kept"
    decoder, root = Decoder(), Folder(clips.audio_root_url)
    told: list[int] = []
    stored, failed, decoded = WaveformStore(Folder(url), "torchaudio").prepare(
        root, clips.clips, decoder, 2, told.append
    )
    assert (decoded, failed, sum(told)) == (5, [], 5)
    again = WaveformStore(Folder(url), "torchaudio")
    assert again.prepare(root, clips.clips, decoder, 2) == (stored, [], 0)
    assert len(decoder.names) == 5
    # Of 16 bits, mono, at the encoder's rate: kept exactly.
    for clip in clips.clips:
        samples, _ = soundfile.read(tmp_path / clip.audio_name, dtype="int16")
        waveform = stored[clip.clip_id]
        np.testing.assert_array_equal(again.read(waveform, 0, waveform.num_samples), samples)
        np.testing.assert_array_equal(again.read(waveform, 7, 11), samples[7:18])
    # A recording that changed is decoded again, and that one alone.
    changed = tmp_path / clips.clips[0].audio_name
    soundfile.write(changed, np.zeros(RATE), RATE)
    os.utime(changed, ns=(1, 1))
    _, _, decoded = again.prepare(root, clips.clips, decoder, 2)
    assert decoded == 1
    assert decoder.names[-1] == clips.clips[0].audio_name


def test_a_long_waveform_is_read_in_parts(
    tmp_path: Path, clips: CaptionedClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2i.training.finetune.waveforms._WHOLE_BYTES", 1000)
    store = WaveformStore(Folder(tmp_path / "kept"), "torchaudio")

    def decode(data: object, rate: int, name: str):
        return load_waveform(data if isinstance(data, bytes) else data.read(), rate, name)

    stored, failed, _ = store.prepare(Folder(clips.audio_root_url), clips.clips, decode, 1)
    assert not failed
    samples, _ = soundfile.read(tmp_path / clips.clips[1].audio_name, dtype="int16")
    np.testing.assert_array_equal(store.read(stored[clips.clips[1].clip_id], 5, 9), samples[5:14])
    assert not store._kept


def test_what_cannot_be_decoded_costs_itself_only(tmp_path: Path, clips: CaptionedClips) -> None:
    (tmp_path / clips.clips[1].audio_name).write_text("no sound")
    (tmp_path / clips.clips[2].audio_name).unlink()
    store = WaveformStore(Folder(tmp_path / "kept"), "torchaudio")
    stored, failed, decoded = store.prepare(Folder(clips.audio_root_url), clips.clips, Decoder(), 2)
    assert decoded == 3
    assert [failure.clip_id for failure in failed] == ["clip 1.wav", "clip 2.wav"]
    assert "there is no recording: got 'clip 2.wav'" in failed[1].reason
    examples = Examples.of(clips, stored)
    assert [key.clip_id for key in examples.keys] == ["clip 0.wav", "clip 3.wav", "clip 4.wav"]
    assert len(examples.captions) == 6


def heard(tmp_path: Path, clips: CaptionedClips, hearing: Hearing, draw=None) -> np.ndarray:
    store = WaveformStore(Folder(tmp_path / "kept"), "torchaudio")
    stored, _, _ = store.prepare(Folder(clips.audio_root_url), clips.clips, Decoder(), 1)
    listener = Listener(store, 2)
    try:
        (group,) = listener.groups(
            [stored["clip 0.wav"]], hearing, None if draw is None else [draw]
        )
    finally:
        listener.close()
    assert float(group.weights.sum()) == pytest.approx(1)
    return group.samples.numpy()


WHOLE = Windowing("hear", 320_000, 80_000, 4_801)


def test_a_long_clip_is_heard_through_a_random_part(tmp_path: Path, clips: CaptionedClips) -> None:
    samples, _ = soundfile.read(tmp_path / "clip 0.wav", dtype="int16")
    parts = [
        heard(tmp_path, clips, Hearing(WHOLE, 5_000), generator_of(0, "clip", epoch, 0))[0]
        for epoch in range(4)
    ]
    starts = {
        next(s for s in range(len(samples)) if np.array_equal(samples[s : s + 5_000], part))
        for part in parts
    }
    assert len(starts) == 4
    again = heard(tmp_path, clips, Hearing(WHOLE, 5_000), generator_of(0, "clip", 0, 0))[0]
    np.testing.assert_array_equal(again, parts[0])
    # Without a generator, as in validation, all of it is heard.
    np.testing.assert_array_equal(heard(tmp_path, clips, Hearing(WHOLE, 5_000))[0], samples)


def test_gain_and_roll_change_nothing_else(tmp_path: Path, clips: CaptionedClips) -> None:
    samples, _ = soundfile.read(tmp_path / "clip 0.wav", dtype="float32")
    louder = heard(tmp_path, clips, Hearing(WHOLE, gain_db=6.0), generator_of(1))[0]
    gain = np.linalg.norm(louder) / np.linalg.norm(samples)
    np.testing.assert_allclose(louder, gain * samples, atol=1e-6)
    assert 10 ** (-6 / 20) <= gain <= 10 ** (6 / 20)
    assert abs(gain - 1) > 1e-3
    rolled = heard(tmp_path, clips, Hearing(WHOLE, roll=True), generator_of(1))[0]
    shift = next(s for s in range(len(samples)) if np.allclose(np.roll(samples, s), rolled))
    assert shift > 0


def test_words_are_left_out_and_one_stays() -> None:
    caption = "a dog barks far away while rain falls"
    draws = [generator_of(seed) for seed in range(200)]
    shorter = with_words_left_out([caption] * 200, 0.5, draws)
    kept = sum(len(words.split()) for words in shorter) / (200 * 8)
    assert 0.45 < kept < 0.55
    assert all(shorter)
    assert with_words_left_out(["dog"], 0.99, [generator_of(0)]) == ["dog"]
    assert with_words_left_out([caption], 0.0, [generator_of(0)]) == [caption]
