"""What `e2i wandb-dashboard` takes."""

from __future__ import annotations

from pydantic import Field

from e2i.configuration import Configuration
from e2i.tracking.config import TrackingConfig

_PROJECT = TrackingConfig.model_fields["wandb_project"]


class WandbDashboardParameters(Configuration):
    """Save the dashboard of a Weights & Biases project as a view: scores, training, runs."""

    wandb_project: str = Field(
        _PROJECT.default,
        min_length=1,
        max_length=128,
        pattern=r"^[^/\\#?%:\x00-\x1f]*$",
        description="Project whose runs it shows.",
    )
    wandb_entity: str = Field(
        "",
        max_length=128,
        pattern=r"^[^/\\#?%:\x00-\x1f]*$",
        description="User or team of the project. Empty: the one that the key belongs to.",
    )
    score_split: str = Field(
        "evaluation",
        pattern=r"^\w[\w.-]*$",
        description="Split whose scores are shown.",
    )
    view: str = Field(
        "",
        pattern=r"^(https?://[^/?#]+/[^/?#]+/[^/?#]+/?\?([^#]*&)?nw=[A-Za-z0-9]+(&[^#]*)?)?$",
        description="Address of a saved view, as this command gave it: replaced in place, and its "
        "entity and project count. Empty: a new view.",
    )
    dry_run: bool = Field(
        False,
        description="Print what would be sent, as JSON, and send nothing; needs neither key nor "
        "network.",
    )
