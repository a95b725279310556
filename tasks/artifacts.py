"""Prefect artifacts: the table of scores, the sheet of pseudo-images.

Conventions: keys are `[a-z0-9-]`; an image artifact takes a data URL.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import create_image_artifact, create_table_artifact


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


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
