"""Which encoders, and how they run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from e2i.configuration import Configuration

AudioArch = Literal[
    "passt_s_swa_p16_128_ap476",
    "passt_s_kd_p16_128_ap486",
    "passt_l_kd_p16_128_ap47",
    "passt_s_p16_s16_128_ap468",
    "openmic",
    "fsd50k",
    "fsd50k-n",
    "stfthop100",
    "stfthop160",
    "passt_20sec",
    "passt_30sec",
    "passt_u600_f128_p16_s16_ap_460",
    "passt_b_f128_p16_s16_ap_459",
    "passt_deit_bd_p16_384",
]
"""Architectures of PaSST, by the names of hear21passt."""

WindowingOption = Literal["hear", "segments", "dcase2025"]

CheckpointName = Annotated[str, Field(pattern=r"^checkpoint:.")]
"""An encoder that was fine-tuned, by the file that holds it."""


class EncodersConfig(Configuration):
    """The audio encoder and the text encoder of a cache."""

    audio_encoder: Literal["passt", "logmel", "clap"] | CheckpointName = Field(
        "passt",
        description="Audio encoder: passt, clap (weights are fetched), logmel (log-mel statistics, "
        "nothing to fetch), or checkpoint:<path or URL> of what finetune wrote.",
    )
    text_encoder: Literal["hf", "hashing", "clap"] | CheckpointName = Field(
        "hf",
        description="Text encoder: hf (a transformers model), clap (weights are fetched), hashing "
        "(word and character n-grams, nothing to fetch), or checkpoint:<path or URL> of what "
        "finetune wrote; its other options are then those of the checkpoint.",
    )
    audio_arch: AudioArch = Field(
        "passt_s_swa_p16_128_ap476",
        description="passt: architecture, with its own strides, length of input and windows. Part "
        "of the fingerprint.",
    )
    audio_weights: str = Field(
        "",
        description="Weights of the audio encoder: published name, local file or folder, or URL; "
        "default: the published ones, for clap laion/clap-htsat-unfused. Part of the fingerprint.",
    )
    weights_dir: str = Field(
        "~/.cache/torch/hub/checkpoints",
        min_length=1,
        description="passt: local folder that fetched weights are kept in, and looked for first.",
    )
    models_dir: str = Field(
        "~/.cache/e2i/models",
        min_length=1,
        description="hf, clap, checkpoint: local folder that models below URLs are copied to, and "
        "checkpoints unpacked, once. Published models are in the Hugging Face cache (HF_HOME).",
    )
    windowing: WindowingOption = Field(
        "hear",
        description="passt: windows of a clip. hear: whole up to the model's window, longer ones "
        "in windows that overlap, as hear21passt; segments: side by side; dcase2025: up to three "
        "of 10 s. Part of the fingerprint.",
    )
    text_model: str = Field(
        "roberta-base",
        min_length=1,
        description="Model of the text encoder: published name (with @revision, if another than "
        "the newest), local folder, or URL.",
    )
    text_pooling: Literal["mean", "first"] = Field(
        "mean",
        description="hf: mean over all tokens, or the first token alone. Part of the fingerprint.",
    )
    max_length: int | None = Field(
        None,
        ge=2,
        le=131_072,
        description="hf, clap: most tokens of a caption that are read, special ones included. "
        "Unset: 256 for mean, 32 for first, 512 for clap, or what the model takes. Part of the "
        "fingerprint.",
    )
    caption_form: Literal["auto", "as-is", "dcase2025"] = Field(
        "auto",
        description="hf: captions as they are, or in small letters and then without punctuation "
        "(dcase2025); auto: dcase2025 for first. Part of the fingerprint.",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Number format of the models' arithmetic. Part of the fingerprint."
    )
    normalize: bool = Field(
        True, description="Whether each embedding gets length 1 (L2). Part of the fingerprint."
    )
    resampler: Literal["torchaudio", "soxr"] = Field(
        "torchaudio",
        description="How recordings get the encoder's sample rate: torchaudio (its default filter, "
        "as the original) or soxr (its VHQ setting: flatter, and steeper at the edge). Part of the "
        "fingerprint.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Most windows or captions in one forward pass of a model. Unset: by device. "
        "Never changes an embedding.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|(cpu|mps|cuda(:[0-9]{1,3})?)(,(cpu|mps|cuda(:[0-9]{1,3})?)){0,63})$",
        description="auto (all CUDA devices, else MPS, else the CPU), cpu, cuda, cuda:<n>, mps, or "
        "several as cuda:0,cuda:1: each embeds chunks of its own. logmel and hashing always run on "
        "the CPU.",
    )
    decode_workers: int | None = Field(
        None,
        ge=1,
        le=512,
        description="Processes that decode recordings ahead of the encoder. Default: one a core. "
        "Never changes an embedding.",
    )
    decode_timeout: float = Field(
        60.0,
        ge=0.1,
        le=86_400,
        description="Seconds that decoding may go without a further block of samples "
        "before it is killed and its recording counts as failed.",
    )
