"""From a configuration to a tracker."""

from __future__ import annotations

import datetime as dt
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from e2i.storage import Folder
from e2i.tracking.config import TrackingConfig
from e2i.tracking.jsonl import JsonLines
from e2i.tracking.tracker import Tracker, Trackers, Warn
from e2i.tracking.wandb_run import RunLabels, WandbAccess, WandbRun, choose_mode

Kind = Literal["train", "eval", "finetune", "sweep"]
SHORT_ID = 8


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Which run it is.

    Attributes:
        id: the same when the run is tried again; letters, digits, `-` and `_`.
        started: when it began, the same when it is tried again.
        labels: what it is found and grouped by.
    """

    id: str
    started: dt.datetime
    labels: RunLabels = field(default_factory=RunLabels)

    @property
    def default_name(self) -> str:
        """Start (UTC) and short id: `20260131-235959-1a2b3c4d`."""
        moment = self.started.astimezone(dt.UTC)
        return f"{moment:%Y%m%d-%H%M%S}-{self.id[:SHORT_ID]}"


def open_tracker(
    kind: Kind,
    config: TrackingConfig,
    run: RunIdentity,
    wandb_access: WandbAccess,
    warn: Warn,
) -> Trackers:
    """A tracker for one run, that never raises; call its `start`, or use `tracked`.

    Args:
        kind: the folder below the logs.
        config: as asked for; its `log_dir` is not empty.
        run: which run. Trackers of one id are one run at W&B.
        wandb_access: what the environment says about W&B.
        warn: told of what cannot be logged.
    """
    name = config.run_name or run.default_name
    trackers: dict[str, Tracker] = {}  # W&B first, as its address is known when it has started
    lines: JsonLines | None = None
    local: Path | None = None
    try:
        logs = Folder(config.log_dir)
        lines, local = JsonLines(logs.folder(kind), name, run.id), logs.local_path
    except (OSError, ValueError) as error:
        warn(f"the log file is off for this run: {error}")
    mode = choose_mode(config.wandb_mode, wandb_access)
    if mode != "disabled":
        folder = local or Path(tempfile.gettempdir()) / "e2i-logs"
        trackers["W&B"] = WandbRun(
            mode,
            config.wandb_project,
            run_name=name,
            run_id=run.id,
            folder=folder,
            warn=warn,
            labels=run.labels,
        )
    if lines is not None:
        trackers["the log file"] = lines
    return Trackers(trackers, warn)
