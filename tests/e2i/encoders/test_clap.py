"""CLAP: as transformers computes it, window by window, and each clip for itself."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from e2i.encoders.clap import ClapAudioEncoder, ClapTextEncoder
from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import (
    audio_settings,
    load_audio_encoder,
    load_text_encoder,
    text_settings,
)
from e2i.encoders.protocols import fingerprint
from e2i.errors import EncoderUnavailableError
from tiny_models import make_clap

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 48_000
WINDOW = 10 * RATE
CAPTIONS = ["A dog barks far away.", "Rain.", "Water drips, then somebody walks away, whistling."]


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clap(tmp_path_factory.mktemp("models") / "clap")


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clap(tmp_path_factory.mktemp("models") / "fused", fused=True)


def configured(folder: Path, **changes: object) -> EncodersConfig:
    options = {"audio_encoder": "clap", "audio_weights": str(folder), "device": "cpu"}
    return EncodersConfig(**{**options, "text_encoder": "clap", **changes})


def recording(samples: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(samples)
    return (0.1 * noise + 0.3 * np.sin(np.arange(samples) * (seed + 1) / 50)).astype(np.float32)


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    off = np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    return float(off.max())


@cache
def loaded(folder: Path):
    return (
        ClapModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
        ClapFeatureExtractor.from_pretrained(folder),
    )


def by_transformers(folder: Path, waveform: np.ndarray) -> np.ndarray:
    """Window by window, each alone, none marked as longer than the model hears."""
    model, _, extractor = loaded(folder)
    windows = []
    for start in range(0, len(waveform), WINDOW):
        inputs = extractor(
            waveform[start : start + WINDOW], sampling_rate=RATE, return_tensors="pt"
        )
        inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
        with torch.no_grad():
            windows.append(model.get_audio_features(**inputs).pooler_output[0].numpy())
    mean = np.mean(windows, axis=0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("samples", [1, 777, 3 * RATE, WINDOW, WINDOW + 1, 25 * RATE])
def test_a_clip_is_what_transformers_makes_of_its_windows(clap: Path, samples: int) -> None:
    encoder = load_audio_encoder(configured(clap))
    assert encoder.sample_rate == RATE
    (made,) = encoder.encode([recording(samples)])
    assert made.num_windows == -(-samples // WINDOW)
    assert made.embedding.dtype == np.float32
    expected = by_transformers(clap, recording(samples))
    assert relative_error(made.embedding, expected) < 1e-5


def test_a_fused_model_hears_its_windows_too(fused: Path) -> None:
    waveform = recording(12 * RATE)
    (made,) = load_audio_encoder(configured(fused)).encode([waveform])
    assert relative_error(made.embedding, by_transformers(fused, waveform)) < 1e-5


@pytest.mark.parametrize("padding", ["repeat", "repeatpad", "pad"])
def test_the_last_window_is_filled_as_the_extractor_does(tmp_path: Path, padding: str) -> None:
    folder = make_clap(tmp_path / "clap")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "padding": padding}))
    waveform = recording(3 * RATE + 5)
    (made,) = ClapAudioEncoder(configured(folder)).encode([waveform])
    assert relative_error(made.embedding, by_transformers(folder, waveform)) < 1e-5


def test_captions_are_as_transformers_makes_them(clap: Path) -> None:
    model, tokenizer, _ = loaded(clap)
    expected = []
    for caption in CAPTIONS:
        with torch.no_grad():
            inputs = tokenizer(caption, return_tensors="pt")
            expected.append(model.get_text_features(**inputs).pooler_output[0].numpy())
    got = load_text_encoder(configured(clap)).encode(CAPTIONS)
    assert relative_error(got, np.stack(expected)) < 1e-5


@given(data=st.data())
@settings(max_examples=5)
def test_an_embedding_depends_on_its_clip_alone(clap: Path, data) -> None:
    lengths = data.draw(
        st.lists(st.sampled_from([0, 40, RATE, WINDOW, WINDOW + 99]), min_size=1, max_size=4)
    )
    order = data.draw(st.permutations(range(len(lengths))))
    batch_size = data.draw(st.sampled_from([None, 1, 3]))
    waveforms = [recording(length, seed) for seed, length in enumerate(lengths)]
    together = load_audio_encoder(configured(clap, batch_size=batch_size)).encode(
        [waveforms[place] for place in order]
    )
    encoder = load_audio_encoder(configured(clap))
    for place, made in zip(order, together, strict=True):
        (alone,) = encoder.encode([waveforms[place]])
        assert relative_error(made.embedding, alone.embedding) < 1e-5


@given(data=st.data())
@settings(max_examples=20)
def test_an_embedding_depends_on_its_caption_alone(clap: Path, data) -> None:
    captions = data.draw(st.lists(st.text(max_size=40), min_size=1, max_size=8))
    batch_size = data.draw(st.sampled_from([None, 1, 3]))
    together = load_text_encoder(configured(clap, batch_size=batch_size)).encode(captions)
    encoder = load_text_encoder(configured(clap))
    for row, caption in enumerate(captions):
        assert relative_error(together[row : row + 1], encoder.encode([caption])) < 1e-5


def test_odd_clips_and_captions_have_an_embedding(clap: Path) -> None:
    waveforms = [
        np.empty(0, dtype=np.float32),
        np.zeros(RATE, dtype=np.float32),
        np.ones(RATE, dtype=np.float32),
        np.sign(recording(RATE)).astype(np.float32),
    ]
    for made in load_audio_encoder(configured(clap)).encode(waveforms):
        assert np.isfinite(made.embedding).all()
        assert np.linalg.norm(made.embedding) == pytest.approx(1, abs=1e-5)
    captions = ["", " ", "x" * 100_000, "word " * 20_000, "\ud800", "\U0001f415\u200d\U0001f9ba"]
    assert np.isfinite(load_text_encoder(configured(clap)).encode(captions)).all()
    assert load_text_encoder(configured(clap)).encode([]).shape == (0, 16)
    assert load_audio_encoder(configured(clap)).encode([]) == []


def test_a_clip_may_be_mapped_from_disk(clap: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip"
    samples = np.memmap(path, dtype=np.float32, mode="w+", shape=2 * WINDOW + 7)
    samples[:] = recording(2 * WINDOW + 7)
    encoder = load_audio_encoder(configured(clap))
    (mapped,) = encoder.encode([np.memmap(path, dtype=np.float32, mode="r")])
    (plain,) = encoder.encode([np.array(samples)])
    assert np.array_equal(mapped.embedding, plain.embedding)


def test_windows_are_kept_where_they_are_asked_for(clap: Path) -> None:
    waveform = recording(12 * RATE)
    (made,) = load_audio_encoder(configured(clap), store_windows=True).encode([waveform])
    assert made.windows is not None
    assert made.windows.shape == (2, 16)
    assert np.allclose(np.linalg.norm(made.windows, axis=1), 1, atol=1e-5)
    (raw,) = load_audio_encoder(configured(clap, normalize=False)).encode([waveform])
    assert raw.windows is None
    assert np.allclose(raw.embedding, made.windows.mean(axis=0), atol=1e-6)
    assert relative_error(made.embedding, raw.embedding / np.linalg.norm(raw.embedding)) < 1e-5


def test_random_states_are_left_alone_and_change_nothing(fused: Path) -> None:
    results = []
    for seed in (1, 2):
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = str(np.random.get_state()), torch.get_rng_state()
        (made,) = ClapAudioEncoder(configured(fused)).encode([recording(12 * RATE)])
        ClapTextEncoder(configured(fused)).encode(CAPTIONS)
        results.append(made.embedding)
        assert str(np.random.get_state()) == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])
    assert np.array_equal(*results)


def test_a_batch_that_does_not_fit_is_halved(
    clap: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = ClapAudioEncoder(configured(clap, batch_size=8))
    waveforms = [recording(RATE, seed) for seed in range(4)]
    expected = encoder.encode(waveforms)
    model = encoder._ready().model
    forward = model.forward

    def cramped(input_features, **others):
        if len(input_features) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(input_features=input_features, **others)

    monkeypatch.setattr(model, "forward", cramped)
    for made, wanted in zip(encoder.encode(waveforms), expected, strict=True):
        assert relative_error(made.embedding, wanted.embedding) < 1e-5
    assert "out of memory with a batch of 4: halved" in caplog.text


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_shorter_numbers_are_close(clap: Path, precision: str) -> None:
    exact, shorter = configured(clap), configured(clap, precision=precision)
    assert fingerprint(audio_settings(exact)) != fingerprint(audio_settings(shorter))
    (wanted,) = load_audio_encoder(exact).encode([recording(RATE)])
    (made,) = load_audio_encoder(shorter).encode([recording(RATE)])
    assert relative_error(made.embedding, wanted.embedding) < 0.1
    captions = [load_text_encoder(config).encode(CAPTIONS) for config in (shorter, exact)]
    assert relative_error(*captions) < 0.1


def test_either_option_names_the_model_of_both_sides(clap: Path, fused: Path) -> None:
    by_audio = configured(clap)
    by_text = configured(clap, audio_weights="", text_model=str(clap))
    assert audio_settings(by_audio) == audio_settings(by_text)
    assert text_settings(by_audio) == text_settings(by_text)
    both = configured(clap, text_model=str(fused))
    assert audio_settings(both) == audio_settings(by_audio)
    assert text_settings(both)["model_sha256"] != text_settings(by_audio)["model_sha256"]
    beside_hf = configured(clap, audio_weights="", text_encoder="hf", text_model=str(fused))
    with pytest.raises(EncoderUnavailableError, match="'laion/clap-htsat-unfused'"):
        audio_settings(beside_hf)


def test_another_kind_of_model_is_refused(roberta: Path) -> None:
    with pytest.raises(EncoderUnavailableError) as refused:
        audio_settings(configured(roberta))
    assert str(refused.value) == (
        f"the model cannot be used: got {str(roberta)!r}, of which the model type is 'roberta' and "
        "not 'clap', expected a transformers model with its tokenizer. Choose another model."
    )
