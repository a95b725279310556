"""Prefect artifacts: tables of scores, links to records and logs, the sheet of pseudo-images.

Conventions: keys are `[a-z0-9-]`; an image artifact takes a data URL.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from e2i.retrieval.comparison import Difference
from e2i.store_layout import split_url


def artifact_key(*words: str) -> str:
    """A key that Prefect accepts, from words such as a split's name."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-") or "e2i"


def scores_artifact(
    metrics: Mapping[str, Mapping[str, float | None]],
    dataset: str,
    split: str,
    notes: Sequence[str],
    label: str = "",
) -> None:
    """Show scores as a table: value, interval, chance."""
    rows = [
        {
            "metric": name,
            **{column: _rounded(score[column]) for column in ("value", "low", "high", "chance")},
        }
        for name, score in metrics.items()
    ]
    description = " ".join(
        [f"Retrieval on {dataset} {split}; low and high: 95 % interval.", *notes]
    )
    create_table_artifact(
        table=rows, key=artifact_key("scores", split, label), description=description
    )


def comparison_artifacts(
    differences: Mapping[str, Difference], dataset: str, split: str, notes: Sequence[str], url: str
) -> None:
    """Show how scores differ from the last accepted ones as a table, and where the record lies."""
    rows = [
        {
            "metric": name,
            "today": round(one.first, 4),
            "accepted": round(one.second, 4),
            "difference": round(one.value, 4),
            "low": _rounded(one.low),
            "high": _rounded(one.high),
            "p": round(one.p_holm, 4),
        }
        for name, one in differences.items()
    ]
    description = " ".join(
        [
            f"Retrieval on {dataset} {split} beside the last accepted result; low and high: 95 % "
            "interval of the difference.",
            *notes,
        ]
    )
    create_table_artifact(
        table=rows, key=artifact_key("reevaluation", split), description=description
    )
    create_link_artifact(
        link=url if "://" in url else Path(url).as_uri(),
        link_text=split_url(url)[1],
        key=artifact_key("reevaluation-record", split),
        description=notes[0] if notes else None,
    )


def sweep_artifact(report: Mapping[str, Any]) -> None:
    """Show what a sweep came to as a table: one row an arm and budget."""
    rows = [
        {
            "arm": arm["words"],
            "budget": arm["budget"],
            "parameters": arm["parameters"],
            "score": _rounded(arm["mean"]),
            "deviation": _rounded(arm["deviation"]),
            **{
                name: _rounded(arm["difference"][name]) if arm["difference"] else None
                for name in ("value", "low", "high")
            },
            "reading": arm["difference"]["reading"] if arm["difference"] else "reference",
        }
        for arm in report["arms"]
    ]
    description = (
        f"{report['sentence']} value, low, high: the difference to the MLP on the embedding."
    )
    create_table_artifact(
        table=rows, key=artifact_key("sweep", report["data"]["split"]), description=description
    )


def sheet_artifact(png: bytes, dataset: str, split: str) -> None:
    """Show a sheet of pseudo-images."""
    create_image_artifact(
        image_url="data:image/png;base64," + base64.b64encode(png).decode(),
        key=artifact_key("pseudo-images", split),
        description=f"Pseudo-images of {dataset} {split}: each clip's beside its caption's.",
    )


def links_artifact(what: str, links: Mapping[str, str], facts: Mapping[str, str]) -> None:
    """Show where a run is logged, what it left, and what made it.

    Args:
        what: names the artifact, such as `train` and the label of an arm.
        links: locations by name; those on the web can be followed.
        facts: fingerprints, code version and the like.
    """
    rows = [
        f"| {name.replace('_', ' ')} | {f'<{url}>' if url.startswith('http') else f'`{url}`'} |"
        for name, url in links.items()
    ]
    rows += [f"| {name.replace('_', ' ')} | `{value}` |" for name, value in facts.items()]
    create_markdown_artifact(
        markdown="\n".join(["| what | where |", "|---|---|", *rows]),
        key=artifact_key("provenance", what),
        description=f"Where {what} is logged, what it left, and what made it.",
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
