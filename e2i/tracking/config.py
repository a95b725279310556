"""Where a run is logged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from e2i.configuration import Configuration

WandbMode = Literal["auto", "online", "offline", "disabled"]


class TrackingConfig(Configuration):
    """Where a run is logged: JSON lines, and Weights & Biases."""

    log_dir: str = Field(
        "logs",
        description="Folder or URL of the logs: train, eval or finetune/<run name>.jsonl. "
        "Empty: the folder logs of the store.",
    )
    run_name: str = Field(
        "",
        max_length=128,
        pattern=r"^(\w[\w .:+=@,-]*)?$",  # a count here would cost 20 ms at each start
        description="Name of the run in the logs. Empty: the time of its start and a short id. "
        "Logging under a name again adds to its log.",
    )
    wandb_mode: WandbMode = Field(
        "auto",
        description="Weights & Biases: online, offline (in the folder wandb beside the logs, for "
        "`wandb sync`), disabled, or auto (WANDB_MODE if it is set, else online if there is an "
        "API key, else offline).",
    )
    wandb_project: str = Field(
        "e2i",
        min_length=1,
        max_length=128,
        pattern=r"^[^/\\#?%:\x00-\x1f]*$",
        description="Project of the run at Weights & Biases.",
    )
    wandb_group: str = Field(
        "",
        max_length=128,
        pattern=r"^[^/\\#?%:\x00-\x1f]*$",
        description="Group of the run at Weights & Biases. Empty: the name of the flow run, which "
        "says the data set and the encoders.",
    )
