"""The quick command `compare`, which needs no Prefect."""

from __future__ import annotations

import time

from e2i.report.comparison import compare_scores
from flows.parameters import CompareParameters
from flows.summary import RunSummary


def compare(parameters: CompareParameters) -> RunSummary:
    """Compare two evaluations: differences, their intervals, and a test of each.

    Raises:
        ConfigError: they are of different clips, captions or candidates.
        ReportError: a record cannot be read.
    """
    started = time.monotonic()
    found = compare_scores(
        parameters.first, parameters.second, parameters.reports_dir, parameters.comparison
    )
    return RunSummary(
        command="compare",
        locations={"first": found.first.url, "second": found.second.url},
        counts={"clips": found.num_clips, "captions": found.num_captions},
        metrics={
            name: {
                "value": d.value,
                "low": d.low,
                "high": d.high,
                "chance": None,
                "first": d.first,
                "second": d.second,
                "p": d.p,
                "p_holm": d.p_holm,
            }
            for name, d in found.differences.items()
        },
        notes=found.notes,
        details={"seen": found.first.seen or found.second.seen},
        seconds=time.monotonic() - started,
    )
