"""Encoders as a cache was made with, from what it has on record of them."""

from __future__ import annotations

from e2i.encoders.config import EncodersConfig
from e2i.encoders.protocols import Settings

_NAME = "encoder"


def as_stored(given: EncodersConfig, audio: Settings, text: Settings) -> EncodersConfig:
    """The options given, with those left at their defaults taken from the settings on record.

    Args:
        given: what was asked for.
        audio: settings of a cache's audio side.
        text: settings of its text side.

    Raises:
        ValidationError: the record names an encoder, or a setting, that this version has not.
    """
    recorded = {**audio, **text, "audio_encoder": audio.get(_NAME), "text_encoder": text.get(_NAME)}
    taken = {
        name: recorded[name]
        for name, field in EncodersConfig.model_fields.items()
        if recorded.get(name) is not None and getattr(given, name) == field.default
    }
    return EncodersConfig.model_validate({**given.model_dump(), **taken})
