"""The dashboard of a W&B project, as code: a workspace made of the numbers that e2i logs.

Decides: scores on the evaluation split first, each arm beside the others, then how training went,
then what differs between the runs. Runs are grouped as they were logged, the best on top.

Source: https://docs.wandb.ai/models/track/workspaces, by the package wandb-workspaces.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from wandb_workspaces import expr
from wandb_workspaces import workspaces as ws
from wandb_workspaces.reports.v2.interface import BarPlot, LinePlot, RunComparer
from wandb_workspaces.workspaces import internal

from e2i.errors import RunFailedError
from e2i.tracking.bounded_calls import call_within
from e2i.tracking.names import (
    ARMS,
    EPOCH_NUMBERS,
    SELECTION,
    SHOWN_SCORES,
    of_arm,
    score,
    validation,
)
from e2i.tracking.tracker import described
from e2i.tracking.wandb_run import no_answer_from_wandb, silence

NAME = "e2i"
SPLIT = "evaluation"
SAVE_LIMIT_S = 60.0
_AXIS = "step"
_PINNED_CONFIG = ("audio_fingerprint", "text_fingerprint", "code.code_sha256", "flow_run.name")


def dashboard(entity: str, project: str, split: str = SPLIT) -> ws.Workspace:
    """The workspace of a project.

    Args:
        entity: user or team at W&B.
        project: project of the runs.
        split: whose scores are shown.
    """
    best = score(split, SELECTION)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            ws.Section(name=f"Scores on {split}", is_open=True, panels=list(_score_panels(split))),
            ws.Section(name="Training", is_open=True, panels=list(_training_panels())),
            ws.Section(name="What differs", panels=[RunComparer(diff_only=True)]),
        ],
        settings=ws.WorkspaceSettings(x_axis=_AXIS, max_runs=30),
        runset_settings=ws.RunsetSettings(
            groupby=[expr.Metric("group")],
            order=[expr.Ordering(item=expr.Summary(best), ascending=False)],
            pinned_columns=[
                *(f"summary:{score(split, name)}" for name in SHOWN_SCORES[:3]),
                *(f"config:{name}.value" for name in _PINNED_CONFIG),
            ],
        ),
    )


def specification(workspace: ws.Workspace) -> dict[str, Any]:
    """What is sent to W&B, as plain values."""
    model: dict[str, Any] = workspace._to_model().model_dump(by_alias=True, mode="json")
    return model


def save_dashboard(entity: str, project: str, split: str = SPLIT, view_url: str = "") -> str:
    """Save the dashboard at W&B, as a new view or in place of a saved one; its address.

    Args:
        entity: user or team; empty: the one that the key belongs to.
        project: project of the runs.
        split: whose scores are shown.
        view_url: address of the view that is replaced, whose entity and project count; empty: none.

    Raises:
        RunFailedError: W&B does not answer in time, or refuses.
    """
    scratch = Path(tempfile.gettempdir())
    if reason := no_answer_from_wandb(scratch):
        raise RunFailedError(
            f"W&B cannot be had: got {reason.rstrip('.')}, expected an answer. Try again with a "
            "network, or print the specification with --dry-run."
        )

    expected = f"a view of project {project!r}. Look at key, --wandb-entity and --wandb-project"
    if view_url:
        expected = f"the view {view_url} to be there. Look at key and --view"

    def save() -> str:
        import wandb  # noqa: PLC0415 - takes seconds

        silence(scratch)
        if view_url:
            workspace = _in_place_of(view_url, split)
        else:
            workspace = dashboard(entity or str(wandb.Api().default_entity), project, split)
        return str(workspace.save().url)  # type: ignore[no-untyped-call]

    try:
        return call_within(save, SAVE_LIMIT_S, "save the dashboard", "Try again later.")
    except RunFailedError:
        raise
    except Exception as error:
        raise RunFailedError(
            f"W&B did not take the dashboard: got {described(error)}, expected {expected}."
        ) from error


def _in_place_of(view_url: str, split: str) -> ws.Workspace:
    """The workspace under the name and id of a saved one, whatever that shows.

    Raises:
        ValueError: no such view is there.
    """
    address = urlsplit(view_url)
    entity, project = (unquote(part) for part in address.path.strip("/").split("/"))
    (name,) = parse_qs(address.query)["nw"]
    held = internal.get_view_dict(entity, project, name)
    workspace = dashboard(entity, project, split)
    workspace._internal_name = internal._url_query_str_to_internal_name(name)
    workspace._internal_id = str(held["id"])
    return workspace


def _score_panels(split: str) -> list[BarPlot]:
    return [
        BarPlot(
            title=name.replace("_", " "), metrics=[of_arm(arm, score(split, name)) for arm in ARMS]
        )
        for name in SHOWN_SCORES
    ]


def _training_panels() -> list[LinePlot]:
    shown = (validation(SELECTION), *EPOCH_NUMBERS)
    return [
        LinePlot(title=name.replace("_", " "), x=_AXIS, y=[of_arm(arm, name) for arm in ARMS])
        for name in shown
    ]
