"""Which encoders, and how they run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from e2i.configuration import Configuration


class EncodersConfig(Configuration):
    """The audio encoder and the text encoder of a cache."""

    audio_encoder: Literal["passt", "logmel", "clap"] = Field(
        "passt",
        description="Audio encoder: passt, clap (weights are fetched), or logmel (log-mel "
        "statistics, nothing to fetch).",
    )
    text_encoder: Literal["hf", "hashing", "clap"] = Field(
        "hf",
        description="Text encoder: hf (a transformers model), clap (weights are fetched), or "
        "hashing (word and character n-grams, nothing to fetch).",
    )
    normalize: bool = Field(
        True, description="Give each embedding length 1 (L2). Part of the fingerprint."
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
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$",
        description="auto (CUDA, else MPS, else the CPU), cpu, cuda, cuda:<n> or mps. logmel and "
        "hashing always run on the CPU.",
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
