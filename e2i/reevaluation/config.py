"""How what is published is looked at again."""

from __future__ import annotations

from pydantic import Field

from e2i.configuration import Configuration


class ReevaluationConfig(Configuration):
    """When a re-evaluation fails, and how it looks for drift."""

    max_drop: float = Field(
        0.01,
        ge=0.0,
        le=1.0,
        description="Drop of a recall or mean average precision, against the last accepted result, "
        "that is tolerated: the run fails where one dropped by more and by more than luck (p below "
        "0.05).",
    )
    drift_sample: int = Field(
        64,
        ge=0,
        le=100_000,
        description="Clips drawn at random whose recording and captions are embedded anew and "
        "compared with what is stored; 0 leaves that out.",
    )
    drift_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Of the draw. Unset: another one each run, which the record has.",
    )
    accept: bool = Field(
        False,
        description="Accept today's result whatever it is: the next ones are compared with it.",
    )
