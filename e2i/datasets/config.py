"""Which metadata to read, and where its recordings are."""

from __future__ import annotations

from pydantic import Field

from e2i.configuration import Configuration


class MetadataConfig(Configuration):
    """A caption file, its split and the root of its recordings."""

    metadata: str | None = Field(
        None,
        min_length=1,
        description="Caption file: CSV in Clotho's form (columns file_name, caption_1, caption_2, "
        "...), JSON (a list of objects) or JSONL (an object a line); a path or any fsspec URL.",
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
    id_key: str = Field(
        "id",
        min_length=1,
        description="JSON and JSONL: key of a clip's id, a string or whole number, unique.",
    )
    audio_key: str = Field(
        "audio",
        min_length=1,
        description="JSON and JSONL: key of the recording, a path or URL below the audio root. "
        "Entries of one recording are one clip.",
    )
    text_key: str = Field(
        "text",
        min_length=1,
        description="JSON and JSONL: key of the caption, a string or a list of strings.",
    )
    sample_rate_key: str = Field(
        "sample_rate",
        min_length=1,
        description="JSON and JSONL: key of the sample rate in Hz; it may be missing. It has to "
        "be a rate, but the one that counts is the recording's own.",
    )
