"""What a user may choose about the generated data set: its sizes and its seed.

Conventions: a clip depends on the seed, its split and its position there, and on nothing else. So
a larger size keeps every clip of a smaller one, name and bytes.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from e2i.configuration import Configuration
from e2i.errors import ConfigError

SPLITS: Final = ("development", "validation", "evaluation")


class SoundscapesConfig(Configuration):
    """Sizes and seed of the generated data set."""

    num_development: int = Field(
        default=320, ge=1, le=100_000, description="Clips generated for development (training)."
    )
    num_validation: int = Field(
        default=100, ge=1, le=100_000, description="Clips generated for validation (selection)."
    )
    num_evaluation: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Clips generated for evaluation; 1,000 and more resolve small differences.",
    )
    dataset_seed: int = Field(
        default=13, ge=0, le=2**32 - 1, description="Seed of the generated clips and captions."
    )

    def num_clips(self, split: str) -> int:
        """Clips asked for in one split.

        Raises:
            ConfigError: there is no such split.
        """
        if split not in SPLITS:
            raise ConfigError(
                f"unknown split of the generated data set: got {split!r}, expected one of "
                f"{', '.join(SPLITS)}. Choose one of these."
            )
        sizes = (self.num_development, self.num_validation, self.num_evaluation)
        return sizes[SPLITS.index(split)]
