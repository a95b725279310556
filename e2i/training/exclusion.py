"""Clips to leave out of training, from a list.

Conventions: a CSV with a header. A row names a clip by `clip_id` (or `file_name`, the same thing),
or clips by `sound_id`: a number of Freesound, which stands for every file of that name whatever its
folder and ending, as in the lists of the DCASE challenge. Columns `dataset` and `split`, where they
are there and not empty, hold a row to one data set or split. A file whose name ends in `.txt` is a
list of clip ids, one a line.

Source: DCASE 2024 and 2025 Task 6 (Task 8), "excluded Freesound ids": one column, `sound_id`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from e2i.clips import ClipKey
from e2i.errors import ConfigError, StorageNotFoundError
from e2i.storage import Folder
from e2i.store_layout import public_url, split_url

_CLIP_COLUMNS = ("clip_id", "file_name", "sound_id")


@dataclass(frozen=True, slots=True)
class Exclusions:
    """What a list names.

    Attributes:
        clips: (data set, split, clip id); an empty data set or split is any.
        sounds: likewise with the number of a Freesound sound.
    """

    clips: frozenset[ClipKey]
    sounds: frozenset[ClipKey]

    def kept(self, keys: Sequence[ClipKey]) -> NDArray[np.int64]:
        """Ascending indices of the clips that the list does not name."""
        return np.array(
            [index for index, key in enumerate(keys) if not self._names(key)], dtype=np.int64
        )

    def _names(self, key: ClipKey) -> bool:
        return _is_among(key, self.clips) or _is_among(
            key._replace(clip_id=PurePosixPath(key.clip_id).stem), self.sounds
        )


def _is_among(key: ClipKey, named: frozenset[ClipKey]) -> bool:
    return any(
        ClipKey(dataset, split, key.clip_id) in named
        for dataset in (key.dataset, "")
        for split in (key.split, "")
    )


def read_exclusions(url: str) -> Exclusions:
    """Read a list of clips to leave out.

    Args:
        url: file or URL.

    Raises:
        ConfigError: there is no such file, or it is no such list.
        StorageError: the store refused.
    """
    where = public_url(url)
    folder, name = split_url(url)
    try:
        text = Folder(folder).read(name).decode("utf-8-sig")
    except StorageNotFoundError as error:
        message = (
            f"the list of clips to leave out is not there: got {where}, expected a CSV with a "
            f"column {' or '.join(_CLIP_COLUMNS)}. Correct --exclude-ids."
        )
        raise ConfigError(message) from error
    except UnicodeDecodeError as error:
        message = (
            f"the list of clips to leave out is no text: got byte {error.object[error.start]:#x} "
            f"at {error.start} in {where}, expected UTF-8. Save it as a CSV in UTF-8."
        )
        raise ConfigError(message) from error
    if name.endswith(".txt"):
        ids = [line.strip() for line in text.splitlines() if line.strip()]
        return Exclusions(frozenset(ClipKey("", "", one) for one in ids), frozenset())
    try:
        return _from_csv(text, where)
    except csv.Error as error:
        message = (
            f"the list of clips to leave out is no CSV: got {error} in {where}, expected each "
            "field that begins with a quote to end with one. Correct the quotes."
        )
        raise ConfigError(message) from error


def _from_csv(text: str, where: str) -> Exclusions:
    # Strict: an open quote would swallow the rest of the list, and train on what it names.
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    columns = [column.strip() for column in reader.fieldnames or []]
    reader.fieldnames = columns
    column = next((name for name in _CLIP_COLUMNS if name in columns), None)
    if column is None:
        message = (
            f"the list of clips to leave out does not name clips: got columns {columns} in "
            f"{where}, expected one of {', '.join(_CLIP_COLUMNS)}. Give it a header."
        )
        raise ConfigError(message)
    named: set[ClipKey] = set()
    for row in reader:
        clip_id = (row[column] or "").strip()
        if not clip_id:
            message = (
                f"a row of the list of clips to leave out names none: got an empty {column} in "
                f"line {reader.line_num} of {where}, expected an id. Fill or delete the row."
            )
            raise ConfigError(message)
        dataset, split = ((row.get(name) or "").strip() for name in ("dataset", "split"))
        named.add(ClipKey(dataset, split, clip_id))
    if column == "sound_id":
        return Exclusions(frozenset(), frozenset(named))
    return Exclusions(frozenset(named), frozenset())
