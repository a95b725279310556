"""Where things lie in a cache, and how its JSON documents are read.

Conventions: a document is a frozen pydantic model with a `schema_version`, written with its fields
in the order of the model and without a time of day, so that equal contents are equal bytes.
"""

from __future__ import annotations

import json
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from e2i.errors import CacheCorruptError, SchemaVersionError

Side = Literal["audio", "text"]
SIDES: tuple[Side, Side] = ("audio", "text")

SCHEMA_VERSION = 1
HEADER_NAME = "cache.json"
MANIFEST_NAME = "manifest.json"
FAILURES_NAME = "failures.jsonl"
FAILURES_FOLDER = "failures"
SNAPSHOT_AUDIO_NAME = "audio_embeddings.pt"
SNAPSHOT_TEXT_NAME = "text_embeddings.pt"
SNAPSHOT_METADATA_NAME = "metadata.json"
SNAPSHOT_NAMES = (SNAPSHOT_AUDIO_NAME, SNAPSHOT_TEXT_NAME, SNAPSHOT_METADATA_NAME)

_SHARD_PREFIX, _SHARD_SUFFIX = "shard-", ".parquet"


def shard_name(side: Side, key: str) -> str:
    """The shard's name below the cache folder."""
    return f"{side}/{_SHARD_PREFIX}{key}{_SHARD_SUFFIX}"


def is_shard(name: str, side: Side) -> bool:
    """Whether a name below the cache folder is a shard's."""
    folder, _, file = name.rpartition("/")
    return folder == side and file.startswith(_SHARD_PREFIX) and file.endswith(_SHARD_SUFFIX)


class Document(BaseModel):
    """Base of what is stored as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def as_bytes(self) -> bytes:
        """The JSON text."""
        return self.model_dump_json(indent=1).encode() + b"\n"


DocumentT = TypeVar("DocumentT", bound=Document)


def parse_document(model: type[DocumentT], data: bytes, url: str) -> DocumentT:
    """A stored document.

    Raises:
        SchemaVersionError: another version of e2i wrote it.
        CacheCorruptError: it is no such document.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        version = _schema_version(data)
        if isinstance(version, int) and version != SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{url} is of another schema version: got {version}, expected {SCHEMA_VERSION}. "
                "Use the version of e2i that wrote the cache, or another --cache-dir."
            ) from error
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise CacheCorruptError(
            f"{url} cannot be read: got {where}: {first['msg']}, expected what e2i writes. "
            "Restore the file, or choose another --cache-dir."
        ) from error


def _schema_version(data: bytes) -> object:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document.get("schema_version") if isinstance(document, dict) else None
