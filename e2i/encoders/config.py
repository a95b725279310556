"""Which encoders, and how they run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from e2i.configuration import Configuration


class EncodersConfig(Configuration):
    """Which encoders, and how they run."""

    audio_encoder: Literal["passt", "logmel", "clap"] = Field("passt", description="Encoder of recordings.")
    text_encoder: Literal["hf", "hashing", "clap"] = Field("hf", description="Encoder of captions.")
    normalize: bool = Field(True, description="Give each embedding length 1.")
    batch_size: int | None = Field(None, ge=1, description="Windows or captions of one forward pass, at most. Default: by device.")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:<n> or mps.")
