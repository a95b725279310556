"""What a sweep came to, in words: readings, points, and the one sentence on top."""

from __future__ import annotations

from collections.abc import Sequence

from e2i.report.wording import metric_words
from e2i.sweep.arms import ARM_WORDS
from e2i.sweep.config import ArmName, SweepConfig
from e2i.sweep.outcome import ArmOutcome


def points(value: float) -> str:
    """A difference of fractions in points of a hundred: `+1.3`, or with a true minus."""
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def sentence(config: SweepConfig, outcomes: Sequence[ArmOutcome]) -> str:
    """One sentence that says what came out."""
    metric = metric_words(config.metric)
    better = _named(outcomes, "better")
    if better:
        opening = f"By {metric}, the MLP on the embedding is beaten by {better}"
    else:
        opening = f"By {metric}, no head beats the MLP on the embedding at equal parameters"
    clauses = [opening]
    margin = f"{100 * config.margin:g} point{'' if config.margin == 0.01 else 's'}"
    for reading, words in (
        ("equivalent", f"equivalent within {margin}"),
        ("worse", "worse"),
        ("undecided", "undecided"),
    ):
        named = _named(outcomes, reading)
        if named:
            clauses.append(f"{words}: {named}")
    return "; ".join(clauses) + "."


def about_the_scores(best: ArmOutcome, steps: int) -> str:
    """Whose scores are shown where only those of one head are."""
    return (
        f"The scores are those of the best head by validation: {ARM_WORDS[best.arm]} of "
        f"{best.matched.parameters:,} parameters, the better one of its seeds by validation, after "
        f"{steps:,} steps."
    )


def _named(outcomes: Sequence[ArmOutcome], reading: str) -> str:
    """The arms that came out so, with their differences; with budgets where not all did."""
    found = {}
    budgets = len({outcome.budget for outcome in outcomes})
    arms: dict[ArmName, list[ArmOutcome]] = {}
    for outcome in outcomes:
        if outcome.difference is not None and outcome.difference.reading == reading:
            arms.setdefault(outcome.arm, []).append(outcome)
    for arm, some in arms.items():
        values = [one.difference.value for one in some if one.difference is not None]
        apart = " and ".join(points(value) for value in values)
        where = ""
        if len(some) < budgets:
            where = " at " + " and ".join(f"{one.budget:,}" for one in some)
        found[arm] = f"{ARM_WORDS[arm]}{where} ({apart})"
    names = list(found.values())
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
