from __future__ import annotations

import pytest
from pydantic import ValidationError

from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import audio_settings, text_settings
from e2i.encoders.stored import as_stored

WEIGHTLESS = EncodersConfig(audio_encoder="logmel", text_encoder="hashing")


def test_what_was_left_open_is_as_on_record() -> None:
    stored = as_stored(
        EncodersConfig(device="cpu"), audio_settings(WEIGHTLESS), text_settings(WEIGHTLESS)
    )
    assert stored == WEIGHTLESS.model_copy(update={"device": "cpu"})
    plain = WEIGHTLESS.model_copy(update={"normalize": False})
    assert as_stored(EncodersConfig(), audio_settings(plain), text_settings(plain)) == plain


def test_what_was_given_stays() -> None:
    given = EncodersConfig(audio_encoder="clap", text_encoder="clap")
    stored = as_stored(given, audio_settings(WEIGHTLESS), text_settings(WEIGHTLESS))
    assert (stored.audio_encoder, stored.text_encoder) == ("clap", "clap")


def test_an_encoder_that_nobody_knows() -> None:
    with pytest.raises(ValidationError, match="audio_encoder"):
        as_stored(EncodersConfig(), {"encoder": "of tomorrow"}, text_settings(WEIGHTLESS))
