"""Scores and groups in words, the same in plots and text."""

from __future__ import annotations

from e2i.report.breakdown import Breakdown

Row = tuple[float, float | None, float | None]
"""Value, and both ends of its interval where it has one."""


def metric_words(key: str) -> str:
    """A score's key as it is shown: `text_to_audio_R@10` is `text→audio R@10`."""
    for direction in ("text_to_audio", "audio_to_text"):
        if key.startswith(direction):
            name = key.removeprefix(f"{direction}_").replace("_", " ")
            return f"{direction.replace('_to_', '→')} {name}"
    return {"val_loss": "loss"}.get(key, key.replace("_", " "))


def group_labels(breakdown: Breakdown) -> tuple[str, ...]:
    """What the groups are called: `5–7`, or `3.2–5.1` where the values are no whole numbers."""
    ends = [end for group in breakdown.groups for end in (group.low, group.high)]
    whole = all(end == round(end) for end in ends)

    def shown(value: float) -> str:
        return f"{value:.0f}" if whole else f"{value:.1f}"

    return tuple(
        shown(group.low)
        if shown(group.low) == shown(group.high)
        else f"{shown(group.low)}–{shown(group.high)}"
        for group in breakdown.groups
    )


def is_share(metric: str) -> bool:
    """Whether a score is a fraction, shown in percent."""
    return "R@" in metric or "mAP@" in metric


def percent_words(row: Row) -> str:
    """A share with its interval: `92.0% (88.2% to 94.4%)`."""
    value, low, high = row
    interval = "" if low is None or high is None else f" ({low:.1%} to {high:.1%})"
    return f"{value:.1%}{interval}"
