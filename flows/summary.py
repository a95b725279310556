"""What a command did: the JSON object of `--json`, and what is printed without it."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TextIO

VISION = "vision_"
"""Metrics of the CNN on pseudo-images start with it, where both heads are scored."""


@dataclass(frozen=True)
class RunSummary:
    """The outcome of one command.

    Attributes:
        command: as typed.
        flow_run_id: of the Prefect flow run; empty for the quick commands.
        locations: what lies where: cache, checkpoint, images, report, …
        counts: clips, captions, embedded, reused, failed, …; `embedded`, `reused` and `failed`
            count clips, `captions_embedded` and `captions_reused` captions.
        metrics: name to value, low, high (95 % interval) and chance; of a comparison value is the
            difference, beside `first`, `second`, `p` and `p_holm`.
        notes: sentences that the reader of the scores needs.
        details: what a command has to say beyond these.
        seconds: wall time of the flow.
    """

    command: str
    flow_run_id: str = ""
    locations: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    details: Mapping[str, object] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(asdict(self), ensure_ascii=True)


def print_summary(summary: RunSummary, out: TextIO) -> None:
    """The outcome for a person: scores first, then counts and locations.

    A specification that was asked for stands alone, for whoever reads it.
    """
    if "specification" in summary.details:
        out.write(json.dumps(summary.details["specification"], indent=2) + "\n")
        return
    vision = {
        name.removeprefix(VISION): score
        for name, score in summary.metrics.items()
        if name.startswith(VISION)
    }
    plain = {n: score for n, score in summary.metrics.items() if not n.startswith(VISION)}
    if any("p" in score for score in plain.values()):
        out.write("\n" + differences_as_text(plain) + "\n\n")
    elif vision:
        out.write("\nMLP on embeddings\n" + scores_as_text(plain) + "\n")
        out.write("\nCNN on pseudo-images\n" + scores_as_text(vision) + "\n\n")
    elif plain:
        out.write("\n" + scores_as_text(plain) + "\n\n")
    for note in summary.notes:
        out.write(_wrapped(note, out) + "\n")
    if summary.counts:
        counted = ", ".join(
            f"{name.replace('_', ' ')} {count:,}" for name, count in summary.counts.items()
        )
        out.write("\n" + _wrapped(f"counts      {counted}", out, indent=12) + "\n")
    width = max((len(name) for name in summary.locations), default=0)
    for name, url in summary.locations.items():
        out.write(f"{name:<{max(width, 11)}} {url}\n")
    if summary.flow_run_id:
        out.write(f"{'flow run':<{max(width, 11)}} {summary.flow_run_id}\n")
    out.write(f"{'seconds':<{max(width, 11)}} {summary.seconds:.1f}\n")


def _wrapped(line: str, out: TextIO, *, indent: int = 0) -> str:
    """The line, on a terminal broken between words; whole elsewhere."""
    if not out.isatty():
        return line
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def scores_as_text(metrics: Mapping[str, Mapping[str, float | None]]) -> str:
    """Scores as an aligned table, one row a metric: value, interval, chance."""
    rows = [("", "value", "95 % interval", "chance")]
    rows += [
        (
            name,
            _number(name, score["value"]),
            _interval(name, score),
            _number(name, score["chance"]),
        )
        for name, score in metrics.items()
    ]
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left, a line under the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            f"{cell:>{width}}" if place else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def differences_as_text(metrics: Mapping[str, Mapping[str, float | None]]) -> str:
    """Differences of two evaluations as an aligned table, one row a metric."""
    rows = [("", "first", "second", "difference", "95 % interval", "p", "p (Holm)")]
    rows += [
        (
            name,
            _number(name, score["first"]),
            _number(name, score["second"]),
            _number(name, score["value"]),
            _interval(name, score),
            _p(score["p"]),
            _p(score["p_holm"]),
        )
        for name, score in metrics.items()
    ]
    return _aligned(rows)


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if name.endswith("median_rank") else f"{value:.3f}"


def _interval(name: str, score: Mapping[str, float | None]) -> str:
    if score["low"] is None or score["high"] is None:
        return "-"
    return f"{_number(name, score['low'])} to {_number(name, score['high'])}"
