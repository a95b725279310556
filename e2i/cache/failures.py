"""Clips and captions that could not be embedded, with the reason.

Conventions: each chunk records its failures in a file of its own, before its shard, so that no two
task runs write to one file; `failures.jsonl` is made of these when the manifest is written. A
record counts for the fingerprint and generation that it was made under, and only as long as its
clip or caption is wanted and not stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from e2i.cache.header import CacheHeader
from e2i.cache.layout import FAILURES_FOLDER, FAILURES_NAME, SIDES, Side
from e2i.errors import CacheCorruptError, StorageNotFoundError
from e2i.storage import Folder


@dataclass(frozen=True, slots=True)
class Failure:
    """One clip or caption that could not be embedded.

    Attributes:
        side: audio or text.
        id: of the clip (audio) or the caption (text).
        name: the recording below the audio root; empty for text.
        error: class of the error.
        reason: its text.
        content_sha256: digest of the recording or caption; empty where it could not be read.
        fingerprint: of the encoder that it was to be embedded with.
        generation: of the side.
    """

    side: Side
    id: str
    name: str
    error: str
    reason: str
    content_sha256: str
    fingerprint: str
    generation: int


FailureKey = tuple[Side, str]


def chunk_failures_name(side: Side, chunk_key: str) -> str:
    """Where the failures of one chunk lie, below the cache folder."""
    return f"{FAILURES_FOLDER}/{side}-{chunk_key}.jsonl"


def encode_failures(failures: Iterable[Failure]) -> bytes:
    """JSON lines."""
    return b"".join(json.dumps(asdict(failure)).encode() + b"\n" for failure in failures)


@dataclass(frozen=True, slots=True)
class RecordedFailures:
    """All failures on record.

    Attributes:
        by_id: the latest record of each clip or caption.
        chunk_files: the chunks' own files that they were read from.
    """

    by_id: dict[FailureKey, Failure]
    chunk_files: tuple[str, ...]


def read_failures(folder: Folder, header: CacheHeader) -> RecordedFailures:
    """The failures on record under the header's fingerprints and generations.

    Raises:
        CacheCorruptError: a record cannot be read.
    """
    chunk_files = tuple(
        file.name for file in folder.files(FAILURES_FOLDER) if file.name.endswith(".jsonl")
    )
    of_chunks = [failure for name in chunk_files for failure in read_failure_file(folder, name)]
    # The merged file comes last: whoever deletes a chunk's file has written it before.
    merged = read_failure_file(folder, FAILURES_NAME)
    by_id: dict[FailureKey, Failure] = {}
    for failure in (*merged, *of_chunks):
        side = header.side(failure.side)
        if (failure.fingerprint, failure.generation) == (side.fingerprint, side.generation):
            by_id[failure.side, failure.id] = failure
    return RecordedFailures(by_id, chunk_files)


def read_failure_file(folder: Folder, name: str) -> list[Failure]:
    """The records of one file; none where it does not exist."""
    try:
        data = folder.read(name)
    except StorageNotFoundError:
        return []
    try:
        return [_parsed(line) for line in data.splitlines()]
    except (ValueError, TypeError) as error:
        raise CacheCorruptError(
            f"{folder.url}/{name} cannot be read: got {error}, expected failures as JSON lines. "
            "Delete that file: it only names clips that are tried again anyway."
        ) from error


def _parsed(line: bytes) -> Failure:
    failure = Failure(**json.loads(line))
    if failure.side not in SIDES:
        raise ValueError(f"side {failure.side!r}")
    return failure


def write_merged(folder: Folder, failures: Sequence[Failure]) -> None:
    """Write `failures.jsonl`, or delete it where nothing failed; untouched if it is the same."""
    data = encode_failures(failures)
    try:
        stored = folder.read(FAILURES_NAME)
    except StorageNotFoundError:
        stored = b""
    if data == stored:
        return
    if data:
        folder.write(FAILURES_NAME, data)
    else:
        folder.delete(FAILURES_NAME)
