"""From a configuration to encoders: one of each per process, held by its fingerprint.

Conventions: settings can be had without loading anything heavy, so that a plan can be made, and a
call refused, before an encoder is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from e2i.encoders.config import EncodersConfig
from e2i.encoders.hashing import HashingEncoder, hashing_settings
from e2i.encoders.hf_settings import hf_settings
from e2i.encoders.logmel import LogMelEncoder, logmel_settings
from e2i.encoders.protocols import AudioEncoder, Settings, TextEncoder, fingerprint
from e2i.errors import EncoderUnavailableError

_T = TypeVar("_T")
_lock = threading.Lock()
_audio_encoders: dict[str, AudioEncoder] = {}
_text_encoders: dict[str, TextEncoder] = {}


def audio_settings(config: EncodersConfig) -> Settings:
    """All that changes the values of the audio encoder asked for.

    Raises:
        EncoderUnavailableError: it is not in this version.
    """
    if config.audio_encoder == "logmel":
        return logmel_settings(normalize=config.normalize)
    raise _unavailable("audio", config.audio_encoder, "logmel")


def text_settings(config: EncodersConfig) -> Settings:
    """All that changes the values of the text encoder asked for.

    Raises:
        EncoderUnavailableError: it is not in this version.
    """
    if config.text_encoder == "hashing":
        return hashing_settings(normalize=config.normalize)
    if config.text_encoder == "hf":
        return hf_settings(config)
    raise _unavailable("text", config.text_encoder, "hashing")


def load_audio_encoder(config: EncodersConfig) -> AudioEncoder:
    """The audio encoder asked for; the same object for the same settings, from any thread.

    Raises:
        EncoderUnavailableError: it is not in this version.
    """
    return _held(
        _audio_encoders,
        fingerprint(audio_settings(config)),
        lambda: LogMelEncoder(normalize=config.normalize),
    )


def load_text_encoder(config: EncodersConfig) -> TextEncoder:
    """The text encoder asked for; the same object for the same settings, from any thread.

    Raises:
        EncoderUnavailableError: it is not in this version.
    """
    key = fingerprint(text_settings(config))
    if config.text_encoder == "hf":
        from e2i.encoders.hf_text import HfTextEncoder  # noqa: PLC0415 - torch takes seconds

        return _held(_text_encoders, _where(key, config), lambda: HfTextEncoder(config))
    return _held(_text_encoders, key, lambda: HashingEncoder(normalize=config.normalize))


def _held(encoders: dict[str, _T], key: str, load: Callable[[], _T]) -> _T:
    with _lock:
        if key not in encoders:
            encoders[key] = load()
        return encoders[key]


def _where(key: str, config: EncodersConfig) -> str:
    """A model is held once for each device and batch size."""
    return f"{key} {config.device} {config.batch_size}"


def _unavailable(side: str, name: str, available: str) -> EncoderUnavailableError:
    return EncoderUnavailableError(
        f"the {side} encoder is not in this version: got {name!r}, expected {available!r}, which "
        f"needs no weights. Use --{side}-encoder {available}."
    )
