"""Score records as they lie somewhere, read without what is needed to make them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2i.errors import ReportError, ReportNotFoundError, StorageNotFoundError
from e2i.storage import Folder

RECORD_KIND = "e2i scores"
_NEEDED = (
    "checkpoints",
    "queries",
    "seen",
    "dataset",
    "split",
    "part",
    "num_clips",
    "num_captions",
    "captions_sha256",
    "distractors_sha256",
)


@dataclass(frozen=True, slots=True)
class StoredScores:
    """A score record and where it lies.

    Attributes:
        folder: that it lies in, and its tables below.
        name: of the record's file.
        content: the record.
    """

    folder: Folder
    name: str
    content: Mapping[str, Any]

    @property
    def url(self) -> str:
        """Its location."""
        return f"{self.folder.url.rstrip('/')}/{self.name}"

    @property
    def seen(self) -> bool:
        """Whether the clips were seen in training or selection."""
        return bool(self.content["seen"])


def read_scores(folder: Folder, name: str) -> StoredScores:
    """Read a score record.

    Raises:
        ReportNotFoundError: there is none.
        ReportError: it is something else.
        StorageError: it cannot be read.
    """
    where = f"{folder.url.rstrip('/')}/{name}"
    try:
        data = folder.read(name)
    except StorageNotFoundError as error:
        raise ReportNotFoundError(
            f"there are no scores: got {where}, expected a record that eval-projection wrote. "
            "Evaluate first, or correct the location."
        ) from error
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("kind") != RECORD_KIND:
        raise ReportError(
            f"this is no score record: got {where}, expected a JSON file that eval-projection "
            "wrote. Give <reports-dir>/<run name>.json, or a checkpoint."
        )
    lacking = [key for key in _NEEDED if key not in content]
    if lacking:
        raise ReportError(
            f"the score record lacks entries: got {where} without {', '.join(lacking)}, expected "
            "what eval-projection writes. Evaluate again."
        )
    return StoredScores(folder, name, content)


def stored_scores(folder: Folder) -> list[StoredScores]:
    """The score records of a folder; other files are passed by."""
    found = []
    for file in folder.files():
        if "/" not in file.name and file.name.endswith(".json"):
            try:
                found.append(read_scores(folder, file.name))
            except ReportError:
                continue
    return found
