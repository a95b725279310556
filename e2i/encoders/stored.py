"""Encoders as a cache was made with, from what it has on record of them."""

from __future__ import annotations

from e2i.encoders.config import EncodersConfig
from e2i.encoders.protocols import Settings
from e2i.resampling import RESAMPLERS

_RESAMPLERS = {recorded: name for name, recorded in RESAMPLERS.items()}


def as_stored(given: EncodersConfig, audio: Settings, text: Settings) -> EncodersConfig:
    """The options given, with those left at their defaults taken from the settings on record.

    A published model is on record by name; of files and folders there is a digest alone, so their
    place has to be given again.

    Args:
        given: what was asked for.
        audio: settings of a cache's audio side.
        text: settings of its text side.

    Raises:
        ValidationError: the record names an encoder, or a setting, that this version has not.
    """
    recorded = {**_of_text(text), **_of_audio(audio)}
    taken = {
        name: value
        for name, value in recorded.items()
        if value is not None and getattr(given, name) == EncodersConfig.model_fields[name].default
    }
    return EncodersConfig.model_validate({**given.model_dump(), **taken})


def _of_audio(settings: Settings) -> dict[str, object]:
    """The options that an audio side was made with."""
    passt = settings.get("encoder") == "passt"
    resampler = settings.get("resampler")
    return {
        "audio_encoder": settings.get("encoder"),
        "audio_arch": settings.get("audio_arch"),
        "audio_weights": _published(settings),
        "windowing": settings.get("windowing") if passt else None,
        "resampler": _RESAMPLERS.get(str(resampler), resampler),
        **_of_both(settings),
    }


def _of_text(settings: Settings) -> dict[str, object]:
    """The options that a text side was made with."""
    return {
        "text_encoder": settings.get("encoder"),
        "text_model": _published(settings),
        "text_pooling": settings.get("pooling"),
        "max_length": settings.get("max_length"),
        "caption_form": settings.get("caption_form"),
        **_of_both(settings),
    }


def _of_both(settings: Settings) -> dict[str, object]:
    return {
        name: settings[name]
        for name in ("normalize", "precision")
        if settings.get(name) is not None
    }


def _published(settings: Settings) -> str | None:
    """Name and revision of a published model; None of anything else."""
    model, revision = settings.get("model"), settings.get("revision")
    return f"{model}@{revision}" if model and revision else None
