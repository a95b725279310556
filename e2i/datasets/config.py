"""Which metadata to read, and where its recordings are."""

from __future__ import annotations

from pydantic import Field

from e2i.configuration import Configuration


class MetadataConfig(Configuration):
    """A caption file, its split and the root of its recordings."""

    metadata: str | None = Field(
        None,
        min_length=1,
        description="Caption file in Clotho's form (columns file_name, caption_1, caption_2, ...): "
        "a path or any fsspec URL.",
    )
    split: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="Name of the split. Unset: the one named in the metadata's file name "
        "(development, validation or evaluation), else all.",
    )
    audio_root: str | None = Field(
        None,
        min_length=1,
        description="Folder or URL that the names of recordings are relative to. Unset: in "
        "Clotho's layout clotho_audio_files/<split> beside clotho_csv_files, else the metadata's "
        "folder.",
    )
