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
        return logmel_settings(normalize=config.normalize, resampler=config.resampler)
    raise _unavailable("audio", config.audio_encoder, "logmel")


def text_settings(config: EncodersConfig) -> Settings:
    """All that changes the values of the text encoder asked for.

    Raises:
        EncoderUnavailableError: it is not in this version.
    """
    if config.text_encoder == "hashing":
        return hashing_settings(normalize=config.normalize)
    raise _unavailable("text", config.text_encoder, "hashing")


def load_audio_encoder(
    config: EncodersConfig,
    *,
    store_windows: bool = False,  # noqa: ARG001 - logmel has one window, whose embedding it gives
) -> AudioEncoder:
    """The audio encoder asked for; the same object for the same settings, from any thread.

    Args:
        config: which, and how it runs.
        store_windows: have it give each window's embedding too.

    Raises:
        EncoderUnavailableError: it is not in this version.
    """
    return _held(
        _audio_encoders,
        fingerprint(audio_settings(config)),
        lambda: LogMelEncoder(normalize=config.normalize, resampler=config.resampler),
    )


def load_text_encoder(config: EncodersConfig) -> TextEncoder:
    """The text encoder asked for; the same object for the same settings, from any thread.

    Raises:
        EncoderUnavailableError: it is not in this version.
    """
    return _held(
        _text_encoders,
        fingerprint(text_settings(config)),
        lambda: HashingEncoder(normalize=config.normalize),
    )


def _held(encoders: dict[str, _T], key: str, load: Callable[[], _T]) -> _T:
    with _lock:
        if key not in encoders:
            encoders[key] = load()
        return encoders[key]


def _unavailable(side: str, name: str, available: str) -> EncoderUnavailableError:
    return EncoderUnavailableError(
        f"the {side} encoder is not in this version: got {name!r}, expected {available!r}, which "
        f"needs no weights. Use --{side}-encoder {available}."
    )
