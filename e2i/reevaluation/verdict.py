"""What a comparison with the last accepted result comes to.

The rule of acceptance. A result is accepted, and what later ones are compared with, unless
- a recall or mean average precision dropped by more than luck (p below 0.05), by however little:
  the result stays with the former, so that small drops add up against one and the same result;
- text→audio mAP@10 dropped by more than `max_drop`, by luck or not: likewise;
- embeddings moved, or the checkpoint is not what was published: likewise.

It fails the run where a drop is more than luck and larger than `max_drop`, where no clip is left
to compare, or where the checkpoint is not what was published. `accept` takes a result by hand, and
then nothing fails but the last.

Conventions: the p of text→audio mAP@10 is its own, those of the others are adjusted (Holm), as in
`e2i.retrieval.comparison`. A median rank has another unit than `max_drop`: it is shown and decides
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from e2i.reevaluation.config import ReevaluationConfig
from e2i.retrieval.comparison import FIRST_METRIC, LEVEL, Difference

Outcome = Literal["unchanged", "accepted", "lower", "drifted", "incomparable", "dropped", "damaged"]
"""`unchanged` and `accepted` are accepted; the last three fail the run."""

FAILING: tuple[Outcome, ...] = ("incomparable", "dropped", "damaged")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it.

    Attributes:
        outcome: in one word.
        accepted: whether later results are compared with this one.
        fell: metrics that dropped by more than luck, the largest drop first.
        dropped: those among them that dropped by more than is tolerated.
    """

    outcome: Outcome
    accepted: bool
    fell: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the run is to fail."""
        return not self.accepted and self.outcome in FAILING


def judge(
    differences: Mapping[str, Difference],
    config: ReevaluationConfig,
    *,
    moved: bool,
    damaged: bool,
) -> Verdict:
    """Decide on a result.

    Args:
        differences: by key, today's less the last accepted.
        config: what is tolerated.
        moved: whether embeddings moved.
        damaged: whether the checkpoint is not what was published.
    """
    shares = {name: one for name, one in differences.items() if "@" in name}
    fell = sorted(
        (name for name, one in shares.items() if one.value < 0 and one.p_holm < LEVEL),
        key=lambda name: shares[name].value,
    )
    dropped = [name for name in fell if -shares[name].value > config.max_drop]
    first = shares.get(FIRST_METRIC)
    outcome: Outcome
    if damaged:
        outcome = "damaged"
    elif not differences:
        outcome = "incomparable"
    elif dropped:
        outcome = "dropped"
    elif moved:
        outcome = "drifted"
    elif fell or (first is not None and -first.value > config.max_drop):
        outcome = "lower"
    elif all(one.value == 0 and one.p == 1 for one in differences.values()):
        outcome = "unchanged"
    else:
        outcome = "accepted"
    by_itself = outcome in ("unchanged", "accepted")
    return Verdict(
        outcome=outcome,
        accepted=by_itself or (config.accept and not damaged),
        fell=tuple(fell),
        dropped=tuple(dropped),
    )


def drop_in_words(name: str, one: Difference) -> str:
    """Which metric fell, by how much, with its interval and p."""
    interval = (
        f", 95 % interval {-one.high:.3f} to {-one.low:.3f}"
        if one.low is not None and one.high is not None
        else ""
    )
    return (
        f"{name} fell by {-one.value:.3f} ({one.second:.3f} to {one.first:.3f}{interval}, "
        f"p = {one.p_holm:.4f})"
    )
