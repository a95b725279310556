from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from e2i.encoders import hf_settings
from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import audio_settings, text_settings
from e2i.encoders.model_files import ModelFiles
from e2i.encoders.passt import PasstOptions, passt_settings
from e2i.encoders.passt_architectures import ARCHITECTURES
from e2i.encoders.stored import as_stored
from e2i.encoders.weights import WeightsFile

WEIGHTLESS = EncodersConfig(audio_encoder="logmel", text_encoder="hashing")


def test_what_was_left_open_is_as_on_record() -> None:
    stored = as_stored(
        EncodersConfig(device="cpu"), audio_settings(WEIGHTLESS), text_settings(WEIGHTLESS)
    )
    assert stored == WEIGHTLESS.model_copy(update={"device": "cpu"})
    plain = WEIGHTLESS.model_copy(update={"normalize": False})
    assert as_stored(EncodersConfig(), audio_settings(plain), text_settings(plain)) == plain


@pytest.mark.parametrize("resampler", ["torchaudio", "soxr"])
def test_options_that_the_record_has_under_other_names(
    resampler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = EncodersConfig(
        audio_encoder="passt",
        audio_arch="passt_s_p16_s16_128_ap468",
        windowing="dcase2025",
        text_encoder="hf",
        text_model="owner/name@a1b2",
        text_pooling="first",
        max_length=24,
        caption_form="as-is",
        precision="bfloat16",
        resampler=resampler,
    )
    options = PasstOptions(
        ARCHITECTURES[made.audio_arch],
        windowing=made.windowing,
        precision=made.precision,
        resampler=made.resampler,
    )
    audio = passt_settings(options, WeightsFile(tmp_path / "weights.pt", "0" * 64, "weights"))
    (tmp_path / "config.json").write_text('{"model_type": "roberta", "hidden_size": 8}')
    pins = {"model": "owner/name", "revision": "a1b2"}
    files = ModelFiles("owner/name", tmp_path, pins, "owner/name", "a1b2")
    monkeypatch.setattr(hf_settings, "model_files", lambda *_: files)
    assert as_stored(EncodersConfig(), audio, hf_settings.hf_settings(made)) == made


def test_what_was_given_stays() -> None:
    given = EncodersConfig(audio_encoder="clap", text_encoder="clap")
    stored = as_stored(given, audio_settings(WEIGHTLESS), text_settings(WEIGHTLESS))
    assert (stored.audio_encoder, stored.text_encoder) == ("clap", "clap")


def test_an_encoder_that_nobody_knows() -> None:
    with pytest.raises(ValidationError, match="audio_encoder"):
        as_stored(EncodersConfig(), {"encoder": "of tomorrow"}, text_settings(WEIGHTLESS))
