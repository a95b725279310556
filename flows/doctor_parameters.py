"""What `e2i doctor` takes."""

from __future__ import annotations

from typing import Annotated

import tyro
from pydantic import Field

from e2i.configuration import Configuration
from e2i.encoders.config import EncodersConfig


class DoctorParameters(Configuration):
    """Say what is missing before a long run; a probe in the store is taken away again."""

    store_url: str = Field(
        "",
        description="Folder or URL of the store: whether it can be written to, and the splits of "
        "the data sets in it. Empty: not looked at.",
    )
    metadata: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = Field(
        (),
        description="Caption file whose recordings are looked for; given several times, recordings "
        "that stand in two of them are found too.",
    )
    audio_root: str = Field(
        "",
        description="Folder or URL that the names of recordings are relative to. Empty: as for "
        "cache-embeddings.",
    )
    encoders: Annotated[EncodersConfig, tyro.conf.arg(name="")] = EncodersConfig()
