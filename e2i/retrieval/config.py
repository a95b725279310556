"""How retrieval is evaluated: what may be chosen, none of which moves a score's meaning."""

from __future__ import annotations

from pydantic import Field

from e2i.configuration import Configuration


class EvaluationConfig(Configuration):
    """Options of an evaluation: memory, and the resamples behind the 95 % intervals."""

    sim_batch_size: int = Field(
        default=512,
        ge=1,
        description="Queries whose similarity to all candidates is held at once. Bounds memory.",
    )
    bootstrap_resamples: int = Field(
        default=10_000,
        ge=0,
        le=1_000_000,
        description="Resamples of the clips behind the 95 % intervals; 0 leaves the intervals out.",
    )
    bootstrap_seed: int = Field(
        default=0,
        ge=0,
        description="Seed of the resamples: the same scores and seed give the same intervals.",
    )
