"""How the encoders are fine-tuned: which they are, what lies behind them, how they are trained.

Conventions: what is trained is an audio encoder (PaSST), a text encoder (a transformers model) and
a head behind each. A preset changes the defaults of the other options; those that are given count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from e2i.cache.config import CacheConfig
from e2i.configuration import Configuration
from e2i.encoders.config import AudioArch, EncodersConfig, WindowingOption
from e2i.errors import ConfigError
from e2i.heads.config import HeadsConfig
from e2i.images.config import ImageChannelMode, ImageMode, ImageSize
from e2i.training.config import SelectionMetric, TrainingConfig

ModelType = Literal["baseline", "vision"]
PresetName = Literal["none", "dcase2025-baseline"]

SAMPLE_RATE = 32_000
"""What PaSST hears, in Hz."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "dcase2025-baseline": {
        "audio_arch": "passt_s_p16_s16_128_ap468",
        "windowing": "dcase2025",
        "text_model": "roberta-large",
        "text_pooling": "first",
        "max_text_length": 32,
        "text_dropout": 0.2,
        "mel_jitter_low": 10,
        "mel_jitter_high": 2000,
        "patchout_time": 15,
        "patchout_frequency": 2,
        "head_type": "linear",
        "projection_dim": 1024,
        "temperature": 0.05,
        "repeat_clips": True,
        "drop_last": True,
        "weight_decay": 0.0,
        "grad_clip_norm": 0.0,
        "max_lr": 2e-5,
        "min_lr": 1e-7,
        "warmup_epochs": 1,
        "decay_epochs": 15,
        "epochs": 20,
        "batch_size": 64,
        "precision": "float16",
    },
}
"""Options that a preset sets, where they are not given.

Source: the baseline of DCASE 2025 Task 6, language-based audio retrieval.
"""


def _said(model: type[Configuration], field: str) -> str:
    """The description that another configuration gives the same option."""
    return str(model.model_fields[field].description)


class FinetuneEncoders(Configuration):
    """Which encoders are fine-tuned, and how they hear and read."""

    audio_arch: AudioArch = Field(
        "passt_s_swa_p16_128_ap476",
        description="Architecture of PaSST, with its own strides, length of input and windows.",
    )
    audio_weights: str = Field(
        "",
        description="Weights of PaSST to start from: published name, local file or URL; default: "
        "the published ones.",
    )
    weights_dir: str = Field(
        "~/.cache/torch/hub/checkpoints",
        min_length=1,
        description="Local folder that fetched weights are kept in, and looked for first.",
    )
    windowing: WindowingOption = Field(
        "hear",
        description="Windows of a clip, as in cache-embeddings. hear: whole up to the model's "
        "window, longer ones in windows that overlap; segments: side by side; dcase2025: up to "
        "three of 10 s.",
    )
    sample_rate: int = Field(
        SAMPLE_RATE,
        ge=1,
        description="Rate of the waveforms in Hz. PaSST hears 32000 and nothing else.",
    )
    max_audio_seconds: float | None = Field(
        None,
        gt=0.2,
        le=3600,
        description="Longest part of a recording that is heard in training, in seconds; of a "
        "longer one a random part each time. Default: one window of the model (30 for dcase2025). "
        "Validation and test hear recordings whole.",
    )
    text_model: str = Field(
        "roberta-base", min_length=1, description=_said(EncodersConfig, "text_model")
    )
    text_pooling: Literal["mean", "first"] = Field(
        "mean", description="What stands for a caption: the mean over all tokens, or the first."
    )
    max_text_length: int = Field(
        32,
        ge=2,
        le=131_072,
        description="Most tokens of a caption that are read, special ones included.",
    )
    caption_form: Literal["auto", "as-is", "dcase2025"] = Field(
        "auto",
        description="Captions as they are, or in small letters and then without punctuation "
        "(dcase2025); auto: dcase2025 for first.",
    )
    normalize: bool = Field(
        False,
        description="Give each embedding length 1 (L2) before the heads, as cache-embeddings does "
        "by default.",
    )
    resampler: Literal["torchaudio", "soxr"] = Field(
        "torchaudio", description="How recordings get the encoder's sample rate."
    )

    def encoders(self, device: str) -> EncodersConfig:
        """The same encoders, as `e2i.encoders` takes them.

        Raises:
            ConfigError: they are to hear at another rate than they do.
        """
        if self.sample_rate != SAMPLE_RATE:
            raise ConfigError(
                f"sample_rate is not the encoder's: got {self.sample_rate}, expected "
                f"{SAMPLE_RATE}, which PaSST was made for. Leave --sample-rate out: recordings of "
                "any rate are resampled."
            )
        return EncodersConfig(
            audio_encoder="passt",
            text_encoder="hf",
            audio_arch=self.audio_arch,
            audio_weights=self.audio_weights,
            weights_dir=self.weights_dir,
            windowing=self.windowing,
            text_model=self.text_model,
            text_pooling=self.text_pooling,
            max_length=self.max_text_length,
            caption_form=self.caption_form,
            normalize=self.normalize,
            resampler=self.resampler,
            device=device,
        )


class FinetuneHeads(Configuration):
    """What lies behind the encoders."""

    model_type: ModelType = Field(
        "baseline",
        description="What projects the audio embedding: 'baseline', a head on the embedding, or "
        "'vision', its pseudo-image and a CNN, through which the encoder learns.",
    )
    head_type: Literal["mlp", "linear"] = Field("mlp", description=_said(HeadsConfig, "head_type"))
    projection_dim: int = Field(1024, ge=1, le=65_536, description=_said(HeadsConfig, "out_dim"))
    hidden_dim: int = Field(1024, ge=1, le=65_536, description=_said(HeadsConfig, "hidden_dim"))
    activation: Literal["relu", "gelu"] = Field(
        "relu", description=_said(HeadsConfig, "activation")
    )
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description=_said(HeadsConfig, "dropout"))
    vision_base_channels: int = Field(
        32, ge=1, le=1024, description=_said(HeadsConfig, "vision_base_channels")
    )
    vision_hidden_dim: int = Field(
        512, ge=1, le=65_536, description=_said(HeadsConfig, "vision_hidden_dim")
    )
    vision_image_size: ImageSize = Field(128, description=_said(HeadsConfig, "vision_image_size"))
    vision_image_mode: ImageMode = Field(
        "nearest", description=_said(HeadsConfig, "vision_image_mode")
    )
    vision_image_channel_mode: ImageChannelMode = Field(
        "split", description=_said(HeadsConfig, "vision_image_channel_mode")
    )

    def heads(self) -> HeadsConfig:
        """The same heads, as `e2i.heads` takes them."""
        return HeadsConfig(
            input_type="vision" if self.model_type == "vision" else "embedding",
            head_type=self.head_type,
            hidden_dim=self.hidden_dim,
            out_dim=self.projection_dim,
            activation=self.activation,
            dropout=self.dropout,
            vision_base_channels=self.vision_base_channels,
            vision_hidden_dim=self.vision_hidden_dim,
            vision_image_source="generated",
            vision_image_size=self.vision_image_size,
            vision_image_mode=self.vision_image_mode,
            vision_image_channel_mode=self.vision_image_channel_mode,
        )


class FinetuneNoise(Configuration):
    """What training changes at random, and validation and test never; off by default."""

    patchout_time: int = Field(
        0,
        ge=0,
        le=1000,
        description="Columns of patches left out of a full window in training (patch-out over "
        "time); of a shorter window in proportion.",
    )
    patchout_frequency: int = Field(
        0, ge=0, le=11, description="Rows of patches left out in training (over frequency)."
    )
    mel_jitter_low: int = Field(
        0,
        ge=0,
        le=1000,
        description="Lowest edge of the mel bands: up to so many Hz higher, at random.",
    )
    mel_jitter_high: int = Field(
        0,
        ge=0,
        le=2000,
        description="Highest edge of the mel bands: at random within so many Hz about 15 kHz.",
    )
    gain_db: float = Field(
        0.0, ge=0.0, le=30.0, description="Recordings up to so many dB louder or softer, at random."
    )
    roll: bool = Field(
        False, description="Recordings begun at a random place, what was before it at the end."
    )
    text_dropout: float | None = Field(
        None,
        ge=0.0,
        lt=1.0,
        description="Dropout within the text encoder. Unset: as its configuration says.",
    )
    word_dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of a caption's words left out, at random."
    )


class FinetuneTraining(Configuration):
    """How encoders and heads are trained."""

    freeze: Literal["none", "audio", "text", "both"] = Field(
        "none",
        description="Encoders that stay as they are: they are neither trained nor disturbed, and "
        "embed each clip or caption once.",
    )
    epochs: int = Field(10, ge=1, le=10_000, description=_said(TrainingConfig, "epochs"))
    batch_size: int = Field(
        32,
        ge=2,
        le=65_536,
        description="Pairs in a batch, over all devices: each has all others as negatives.",
    )
    grad_cache: int = Field(
        0,
        ge=0,
        le=65_536,
        description="Pairs that a device encodes at once, where a batch does not fit: the batch is "
        "encoded twice, part by part, for the gradients of the whole (GradCache, "
        "arXiv 2101.06983). 0: all at once.",
    )
    accumulate: int = Field(
        1,
        ge=1,
        le=10_000,
        description="Batches whose gradients are averaged into one step. It adds no negatives; "
        "--grad-cache does.",
    )
    max_lr: float = Field(
        3e-6, gt=0.0, le=1.0, description="Highest learning rate, at the end of the warm-up."
    )
    min_lr: float = Field(
        1e-7, ge=0.0, le=1.0, description="Learning rate at the first step and after the decay."
    )
    head_lr: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Highest learning rate of the heads, which start at random; default: max_lr.",
    )
    warmup_epochs: int = Field(
        1,
        ge=0,
        le=10_000,
        description="Epochs in which the learning rate rises from min_lr to max_lr, by step.",
    )
    decay_epochs: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Epochs of the cosine from max_lr to min_lr behind the warm-up; constant from "
        "then on. Default: all that are left.",
    )
    layer_decay: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="Factor of the learning rate from each layer of an encoder to the one below.",
    )
    weight_decay: float = Field(
        0.0, ge=0.0, le=10.0, description="Weight decay of AdamW, of matrices alone."
    )
    grad_clip_norm: float = Field(
        1.0, ge=0.0, le=1e6, description="Longest gradient of a step; 0 leaves all as they are."
    )
    temperature: float = Field(
        0.07, ge=0.01, le=1.0, description=_said(TrainingConfig, "temperature")
    )
    learn_temperature: bool = Field(False, description=_said(TrainingConfig, "learn_temperature"))
    repeat_clips: bool = Field(False, description=_said(TrainingConfig, "repeat_clips"))
    drop_last: bool = Field(
        False,
        description="Leave out what does not fill a batch at the end of an epoch; off, batches are "
        "made equally large.",
    )
    val_fraction: float = Field(
        0.1,
        gt=0.0,
        lt=1.0,
        description="Share of the clips held out for validation where there is no other metadata.",
    )
    test_fraction: float = Field(
        0.1,
        ge=0.0,
        lt=1.0,
        description="Share of the clips held out for the test where there is no other metadata.",
    )
    selection_metric: SelectionMetric = Field(
        "text_to_audio_mAP@10", description=_said(TrainingConfig, "selection_metric")
    )
    metric_mode: Literal["auto", "min", "max"] = Field(
        "auto",
        description="Whether the lowest or the highest value of the selection metric is best; "
        "auto, and anything else is refused: as the metric has it.",
    )
    seed: int = Field(
        13, ge=0, lt=2**63, description="Of the heads, batches, noise and the parts held out."
    )
    device: str = Field("auto", min_length=1, description="auto, cpu, cuda, cuda:<n> or mps.")
    devices: int = Field(
        1,
        ge=1,
        le=1024,
        description="GPUs (or processes, on the CPU) that share each batch; negatives are gathered "
        "from all.",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="What the encoders multiply in while training; weights, heads, loss and all "
        "scores stay float32.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute each layer's results again when they are needed: less memory, a third "
        "more time.",
    )
    max_failures: float | None = Field(None, ge=0, description=_said(CacheConfig, "max_failures"))
    decode_timeout: float = Field(
        60.0, ge=0.1, le=86_400, description=_said(EncodersConfig, "decode_timeout")
    )
    num_workers: int = Field(
        4, ge=1, le=512, description="Processes that decode recordings, and threads that read them."
    )
    save_every: int = Field(
        500,
        ge=1,
        le=1_000_000,
        description="Steps after which the state is stored, beside the end of each epoch: what a "
        "kill may cost.",
    )

    @field_validator("max_failures")
    @classmethod
    def _count_failures(cls, value: float | None) -> float | None:
        try:
            return CacheConfig(max_failures=value).max_failures
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(reason) from error

    @model_validator(mode="after")
    def _choose_the_best(self) -> Self:
        metric = self.selection_metric
        right = "min" if metric == "val_loss" or metric.endswith("median_rank") else "max"
        if self.metric_mode not in {"auto", right}:
            message = (
                f"metric_mode would choose the worst epoch: got {self.metric_mode!r} for {metric}, "
                f"expected {right!r} or 'auto'. Leave --metric-mode out."
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _rates_and_epochs_fit(self) -> Self:
        faults = []
        if self.min_lr > self.max_lr:
            faults.append(
                f"min_lr is above max_lr: got {self.min_lr:g} and {self.max_lr:g}, expected at "
                "most as much. Lower --min-lr or raise --max-lr."
            )
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 1:
            faults.append(
                f"the warm-up takes all epochs: got warmup_epochs {self.warmup_epochs} of epochs "
                f"{self.epochs}, expected fewer. Lower one or raise the other."
            )
        if self.val_fraction + self.test_fraction >= 1.0:
            faults.append(
                "val_fraction and test_fraction leave nothing to train on: got "
                f"{self.val_fraction:g} + {self.test_fraction:g}, expected a sum below 1. Lower "
                "one of them."
            )
        if self.devices > self.batch_size:
            faults.append(
                f"a device would be left without a pair: got batch_size {self.batch_size} for "
                f"{self.devices} devices, expected at least one each. Raise --batch-size."
            )
        if faults:
            raise ValueError(" ".join(faults))
        return self

    def allowed_failures(self, num_clips: int) -> int:
        """How many of `num_clips` clips may fail."""
        return CacheConfig(max_failures=self.max_failures).allowed_failures(num_clips)

    def selection(self) -> TrainingConfig:
        """What validation of heads takes of this."""
        return TrainingConfig(
            batch_size=self.batch_size,
            seed=self.seed,
            selection_metric=self.selection_metric,
        )


class FinetuneConfig(FinetuneEncoders, FinetuneHeads, FinetuneNoise, FinetuneTraining):
    """Encoders, heads and how both are trained."""

    preset: PresetName = Field(
        "none",
        description="Published recipe whose values are the defaults of the other options: "
        "dcase2025-baseline, of DCASE 2025 Task 6.",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_the_presets_defaults(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        preset = given.get("preset")
        return {**PRESETS.get(preset, {}), **given} if isinstance(preset, str) else given
