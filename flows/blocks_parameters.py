"""What `e2i setup-blocks` takes."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro
from pydantic import Field

from e2i.configuration import Configuration


class SetupBlocksParameters(Configuration):
    """Store the credentials of this environment in Prefect blocks, for runs on workers."""

    service: Annotated[
        tuple[Literal["storage", "hub", "wandb"], ...], tyro.conf.UseAppendAction
    ] = Field(
        (),
        description="Whose credentials: storage (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
        "AWS_ENDPOINT_URL, ...), hub (HF_TOKEN) or wandb (WANDB_API_KEY); give it again for more. "
        "Default: all that the environment has a login for.",
    )
