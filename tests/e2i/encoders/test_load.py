"""Which encoders there are, and that each is made once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import (
    audio_settings,
    load_audio_encoder,
    load_text_encoder,
    text_settings,
)

WEIGHTLESS = EncodersConfig(audio_encoder="logmel", text_encoder="hashing")


def test_the_defaults_are_the_originals() -> None:
    config = EncodersConfig()
    assert (config.audio_encoder, config.text_encoder, config.normalize) == ("passt", "hf", True)
    assert (config.batch_size, config.device) == (None, "auto")


def test_weightless_encoders_are_loaded_once_whatever_the_thread() -> None:
    with ThreadPoolExecutor(8) as pool:
        audio = list(pool.map(lambda _: load_audio_encoder(WEIGHTLESS), range(16)))
        text = list(pool.map(lambda _: load_text_encoder(WEIGHTLESS), range(16)))
    assert len({id(encoder) for encoder in audio}) == len({id(encoder) for encoder in text}) == 1
    assert audio[0].settings == audio_settings(WEIGHTLESS)
    assert text[0].settings == text_settings(WEIGHTLESS)


def test_settings_decide_whether_it_is_the_same_encoder() -> None:
    smaller = WEIGHTLESS.model_copy(update={"batch_size": 2})
    raw = WEIGHTLESS.model_copy(update={"normalize": False})
    assert load_audio_encoder(smaller) is load_audio_encoder(WEIGHTLESS)
    assert load_audio_encoder(raw) is not load_audio_encoder(WEIGHTLESS)
    assert load_text_encoder(raw).settings["normalize"] is False


@pytest.mark.parametrize(
    "device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12", "cuda:0,cuda:1", "cpu,cpu"]
)
def test_devices_that_there_may_be(device: str) -> None:
    assert EncodersConfig(device=device).device == device


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "gpu"},
        {"device": "cuda:"},
        {"device": "cuda:-1"},
        {"device": "cpu\n"},
        {"device": "auto,cpu"},
        {"device": "cuda:0,"},
        {"device": "cuda:0, cuda:1"},
        {"batch_size": 0},
        {"audio_encoder": "wav2vec"},
        {"text_encoder": "bert"},
        {"audio_arch": "passt"},
    ],
)
def test_wrong_options_name_their_field(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        EncodersConfig.model_validate(wrong)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("e2i.encoders.config", ("torch", "numpy", "prefect")),
        ("e2i.datasets.config", ("torch", "numpy", "prefect")),
        ("e2i.encoders.load", ("torch", "torchaudio", "prefect")),
    ],
)
def test_modules_stay_light(module: str, unwanted: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print([name for name in {unwanted!r} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert loaded.strip() == "[]"
