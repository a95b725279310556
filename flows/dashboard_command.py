"""The quick command `wandb-dashboard`, which needs no Prefect."""

from __future__ import annotations

import os
import time
from pathlib import Path

from e2i.errors import ConfigError
from flows.dashboard_parameters import WandbDashboardParameters
from flows.summary import RunSummary


def create(parameters: WandbDashboardParameters) -> RunSummary:
    """Save the dashboard, or say what it would be.

    Raises:
        ConfigError: there is no key for W&B.
        RunFailedError: W&B does not answer, or refuses.
    """
    from tasks.wandb_environment import wandb_access

    started = time.monotonic()
    if not parameters.dry_run and not wandb_access(os.environ, Path.home()).has_key:
        raise ConfigError(
            "there is no key for W&B: got none in WANDB_API_KEY or ~/.netrc, expected one. Set it, "
            "or print what would be sent with --dry-run."
        )
    from e2i.tracking.dashboard import dashboard, save_dashboard, specification

    entity, project = parameters.wandb_entity, parameters.wandb_project
    if parameters.dry_run:
        workspace = dashboard(entity or "(of the key)", project, parameters.score_split)
        return RunSummary(
            command="wandb-dashboard",
            details={"specification": specification(workspace)},
            seconds=time.monotonic() - started,
        )
    url = save_dashboard(entity, project, parameters.score_split, parameters.view)
    return RunSummary(
        command="wandb-dashboard",
        locations={"dashboard": url},
        seconds=time.monotonic() - started,
    )
