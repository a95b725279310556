"""What a projection head looks like."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from e2i.configuration import Configuration


class HeadsConfig(Configuration):
    """Two projection heads, one a side: Linear, activation, dropout, Linear."""

    hidden_dim: int = Field(512, ge=1, le=65_536, description="Width of the hidden layer.")
    out_dim: int = Field(
        256, ge=1, le=65_536, description="Length of a projection, in the space both sides share."
    )
    activation: Literal["relu", "gelu"] = Field(
        "relu", description="Nonlinearity between the two layers."
    )
    dropout: float = Field(
        0.1, ge=0.0, lt=1.0, description="Share of hidden units dropped in training."
    )
    standardize_input: bool = Field(
        False,
        description="Give each input dimension mean 0 and deviation 1, by the statistics of the "
        "training clips and captions, which the checkpoint keeps.",
    )
