"""From a configuration to encoders: one of each per process and place, held by its fingerprint.

Conventions: settings can be had without loading anything heavy, so that a plan can be made, and a
call refused, before an encoder is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from e2i.encoders.clap_settings import clap_audio_settings, clap_text_settings
from e2i.encoders.config import EncodersConfig
from e2i.encoders.finetuned import unpacked_audio, unpacked_text
from e2i.encoders.hashing import HashingEncoder, hashing_settings
from e2i.encoders.hf_settings import hf_settings
from e2i.encoders.logmel import LogMelEncoder, logmel_settings
from e2i.encoders.passt import PasstEncoder, PasstOptions, passt_settings
from e2i.encoders.passt_architectures import ARCHITECTURES
from e2i.encoders.places import Place, encoder_places
from e2i.encoders.protocols import AudioEncoder, Settings, TextEncoder, fingerprint
from e2i.encoders.weights import (
    MissingFile,
    PublishedFile,
    WeightsFile,
    find_weights,
    missing_file,
)

_T = TypeVar("_T")
_lock = threading.Lock()
_audio_encoders: dict[str, AudioEncoder] = {}
_text_encoders: dict[str, TextEncoder] = {}


def audio_settings(config: EncodersConfig) -> Settings:
    """All that changes the values of the audio encoder asked for; its weights are fetched.

    Raises:
        EncoderUnavailableError: its weights cannot be had.
    """
    config = unpacked_audio(config)
    if config.audio_encoder == "logmel":
        return logmel_settings(normalize=config.normalize, resampler=config.resampler)
    if config.audio_encoder == "passt":
        return passt_settings(passt_options(config), passt_weights(config))
    return clap_audio_settings(config)


def text_settings(config: EncodersConfig) -> Settings:
    """All that changes the values of the text encoder asked for.

    Raises:
        EncoderUnavailableError: its model cannot be had.
        ConfigError: it does not take captions as long as asked for.
    """
    config = unpacked_text(config)
    if config.text_encoder == "hashing":
        return hashing_settings(normalize=config.normalize)
    if config.text_encoder == "hf":
        return hf_settings(config)
    return clap_text_settings(config)


def missing_audio_weights(config: EncodersConfig) -> MissingFile | None:
    """The published weights that would have to be fetched; None where there are none."""
    if config.audio_encoder != "passt":
        return None
    return missing_file(_passt_weights_name(config), _published(), config.weights_dir)


def load_audio_encoder(
    config: EncodersConfig, *, store_windows: bool = False, place: Place | None = None
) -> AudioEncoder:
    """The audio encoder asked for; the same object for the same settings, from any thread.

    Args:
        config: which, and how it runs.
        store_windows: have it give each window's embedding too, where it has windows.
        place: one of `encoder_places`; None: the first. Those without weights have one for all.

    Raises:
        EncoderUnavailableError: its weights cannot be had or do not fit.
        ConfigError: the device cannot be used here.
    """
    config = unpacked_audio(config)
    key = fingerprint(audio_settings(config))
    if config.audio_encoder == "logmel":
        return _held(
            _audio_encoders,
            key,
            lambda: LogMelEncoder(normalize=config.normalize, resampler=config.resampler),
        )
    place = place or encoder_places(config)[0]
    config = config.model_copy(update={"device": place.device})
    key = f"{key} on {place}, {config.batch_size} at most, windows {store_windows}"
    if config.audio_encoder == "clap":
        from e2i.encoders.clap import ClapAudioEncoder  # noqa: PLC0415 - imports torch

        return _held(
            _audio_encoders, key, lambda: ClapAudioEncoder(config, store_windows=store_windows)
        )

    def load() -> PasstEncoder:
        encoder = PasstEncoder(
            passt_options(config),
            passt_weights(config),
            device=place.device,
            batch_size=config.batch_size,
            store_windows=store_windows,
        )
        encoder.check_weights()
        return encoder

    return _held(_audio_encoders, key, load)


def load_text_encoder(config: EncodersConfig, *, place: Place | None = None) -> TextEncoder:
    """The text encoder asked for; the same object for the same settings, from any thread.

    Args:
        config: which, and how it runs.
        place: as for `load_audio_encoder`.

    Raises:
        EncoderUnavailableError: its model cannot be had.
        ConfigError: the device cannot be used here, or the captions asked for are too long.
    """
    config = unpacked_text(config)
    key = fingerprint(text_settings(config))
    if config.text_encoder == "hashing":
        return _held(_text_encoders, key, lambda: HashingEncoder(normalize=config.normalize))
    place = place or encoder_places(config)[0]
    config = config.model_copy(update={"device": place.device})
    key = f"{key} on {place}, {config.batch_size} at most"
    if config.text_encoder == "clap":
        from e2i.encoders.clap import ClapTextEncoder  # noqa: PLC0415 - imports torch

        return _held(_text_encoders, key, lambda: ClapTextEncoder(config))
    from e2i.encoders.hf_text import HfTextEncoder  # noqa: PLC0415 - imports torch

    return _held(_text_encoders, key, lambda: HfTextEncoder(config))


def passt_options(config: EncodersConfig) -> PasstOptions:
    """What changes PaSST's embeddings, beside its weights."""
    return PasstOptions(
        ARCHITECTURES[config.audio_arch],
        windowing=config.windowing,
        precision=config.precision,
        normalize=config.normalize,
        resampler=config.resampler,
    )


def passt_weights(config: EncodersConfig) -> WeightsFile:
    """The file of PaSST's weights, fetched if it has to be.

    Raises:
        EncoderUnavailableError: it cannot be had.
    """
    return find_weights(
        _passt_weights_name(config), _published(), config.weights_dir, option="--audio-weights"
    )


def _passt_weights_name(config: EncodersConfig) -> str:
    return config.audio_weights or config.audio_arch


def _published() -> dict[str, PublishedFile]:
    return {name: architecture.published for name, architecture in ARCHITECTURES.items()}


def _held(encoders: dict[str, _T], key: str, load: Callable[[], _T]) -> _T:
    with _lock:
        if key not in encoders:
            encoders[key] = load()
        return encoders[key]
