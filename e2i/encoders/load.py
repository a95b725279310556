"""Encoders by name."""
from __future__ import annotations
from e2i.encoders.config import EncodersConfig
from e2i.encoders.protocols import AudioEncoder, Settings, TextEncoder
from e2i.errors import EncoderUnavailableError

def _check(config: EncodersConfig) -> None:
    if config.audio_encoder != "logmel":
        raise EncoderUnavailableError(f"the audio encoder {config.audio_encoder} is not in this version: ...")

def audio_settings(config: EncodersConfig) -> Settings:
    return load_audio_encoder(config).settings

def text_settings(config: EncodersConfig) -> Settings:
    return load_text_encoder(config).settings

def load_audio_encoder(config: EncodersConfig) -> AudioEncoder:
    _check(config)
    from e2i.encoders.logmel import LogMelEncoder
    return LogMelEncoder(normalize=config.normalize)

def load_text_encoder(config: EncodersConfig) -> TextEncoder:
    from e2i.encoders.hashing import HashingEncoder
    return HashingEncoder(normalize=config.normalize)
