"""What changes the values of CLAP's two sides; known without torch or transformers.

Decides: where only one of `--audio-weights` and `--text-model` names a CLAP model, it is that of
both sides, since two models make two spaces; where neither does, it is `DEFAULT_MODEL`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from e2i.audio import waveform_settings
from e2i.encoders.config import EncodersConfig
from e2i.encoders.hf_settings import TEXT_MODEL_OPTION, SettingValues, max_length
from e2i.encoders.model_files import ModelFiles, model_files

DEFAULT_MODEL = "laion/clap-htsat-unfused"
AUDIO_WEIGHTS_OPTION = "--audio-weights"

_VERSION = 1
_DIM = 512  # of the joint space, where a configuration leaves it out
_TEXT_LENGTH = 512
_EXTRACTOR = {
    "feature_size": 64,
    "sampling_rate": 48_000,
    "hop_length": 480,
    "max_length_s": 10,
    "fft_window_size": 1024,
    "truncation": "fusion",
    "padding": "repeatpad",
}


@dataclass(frozen=True, slots=True)
class ClapExtractor:
    """What a CLAP model hears: parameters of its feature extractor, as stored beside it.

    Attributes:
        sampling_rate: of waveforms, in Hz.
        max_length_s: length of a window.
        fused: whether the model takes four spectrograms a window.
        padding: `repeatpad`, `repeat` or `pad`: how a shorter window is filled.
        parameters: all of them, for transformers' extractor.
    """

    sampling_rate: int
    max_length_s: int
    fused: bool
    padding: str
    parameters: dict[str, Any]

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return self.max_length_s * self.sampling_rate


def clap_files(config: EncodersConfig, side: str) -> tuple[ModelFiles, str]:
    """The CLAP model of a side, and the option that names it.

    Raises:
        EncoderUnavailableError: it cannot be had, or is no CLAP model.
    """
    named = {AUDIO_WEIGHTS_OPTION: config.audio_weights if config.audio_encoder == "clap" else ""}
    default = EncodersConfig.model_fields["text_model"].default
    if config.text_encoder == "clap" and config.text_model != default:
        named[TEXT_MODEL_OPTION] = config.text_model
    own = AUDIO_WEIGHTS_OPTION if side == "audio" else TEXT_MODEL_OPTION
    option = own if named.get(own) else next((o for o, name in named.items() if name), own)
    files = model_files(named.get(option) or DEFAULT_MODEL, option, config.models_dir)
    kind = files.config.get("model_type")
    if kind != "clap":
        raise files.unusable(f"the model type is {kind!r} and not 'clap'")
    return files, option


def clap_text_settings(config: EncodersConfig) -> SettingValues:
    """All that changes the values of CLAP's text side.

    Raises:
        EncoderUnavailableError: the model cannot be had.
        ConfigError: it does not take captions as long as asked for.
    """
    files, _ = clap_files(config, "text")
    text = {"model_type": "clap_text_model", **(files.config.get("text_config") or {})}
    return {
        "encoder": "clap",
        "version": _VERSION,
        **files.pins,
        "dim": clap_width(files),
        "max_length": max_length(files, text, config.max_length, _TEXT_LENGTH),
        "normalize": config.normalize,
        "precision": config.precision,
    }


def clap_audio_settings(config: EncodersConfig) -> SettingValues:
    """All that changes the values of CLAP's audio side.

    Raises:
        EncoderUnavailableError: the model cannot be had.
    """
    files, _ = clap_files(config, "audio")
    extractor = clap_extractor(files)
    return {
        "encoder": "clap",
        "version": _VERSION,
        **files.pins,
        "dim": clap_width(files),
        "sample_rate": extractor.sampling_rate,
        "windowing": "segments",
        "window_s": extractor.max_length_s,
        "padding": extractor.padding,
        "pooling": "mean of windows of length 1",
        "normalize": config.normalize,
        "precision": config.precision,
        **waveform_settings(config.resampler),
    }


def clap_width(files: ModelFiles) -> int:
    """D, dimensions of the joint space."""
    return int(files.config.get("projection_dim") or _DIM)


def clap_extractor(files: ModelFiles) -> ClapExtractor:
    """What lies beside the model about its feature extractor.

    Raises:
        EncoderUnavailableError: nothing does.
    """
    stored = files.read("preprocessor_config.json")
    stored = stored or files.read("processor_config.json").get("feature_extractor") or {}
    if not stored:
        raise files.unusable("preprocessor_config.json is missing")
    parameters = {**_EXTRACTOR, **stored}
    return ClapExtractor(
        sampling_rate=int(parameters["sampling_rate"]),
        max_length_s=int(parameters["max_length_s"]),
        fused=parameters["truncation"] == "fusion",
        padding=str(parameters["padding"]),
        parameters=parameters,
    )
