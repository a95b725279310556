"""Which clips answer a caption: the DCASE relevance file, read and joined to a split.

Conventions: a CSV in UTF-8 with the columns `query`, a caption as it stands in the split, and
`audio_filenames`, a Python list of the clip ids that answer it, as DCASE publishes it for Clotho's
evaluation split (`metadata_eval.csv`). Other columns are left alone. Row 1 is the first below the
header. The clip that a caption was written for counts only where the file names it.

Captions and clips that are not scored (those outside a test part, clips that could not be
embedded) leave the rows that name them; a row without a caption or clip left is left out and
counted. What the split never had is an error.
"""

from __future__ import annotations

import ast
import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from e2i.errors import DatasetError, DatasetNotFoundError, StorageNotFoundError
from e2i.retrieval.evaluation import RelevantClips
from e2i.storage import Folder

QUERY, CLIPS = "query", "audio_filenames"
_SHOWN_FAULTS = 10
_SHOWN_LETTERS = 80
_MAX_FIELD = 2**24


@dataclass(frozen=True, slots=True)
class RelevanceRow:
    """One caption and what answers it.

    Attributes:
        number: row of the file, from 1.
        query: the caption.
        clips: clip ids, each once, at least one.
    """

    number: int
    query: str
    clips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relevance:
    """A relevance file.

    Attributes:
        source: its location, without credentials.
        rows: in its order, each caption once.
    """

    source: str
    rows: tuple[RelevanceRow, ...]


def read_relevance(folder: Folder, name: str) -> Relevance:
    """Read a relevance file.

    Args:
        folder: where.
        name: of the file.

    Raises:
        DatasetNotFoundError: there is none.
        DatasetError: it is no CSV with these columns, or rows of it are wrong; they are named.
        StorageError: it cannot be read.
    """
    source = f"{folder.url.rstrip('/')}/{name}"
    if folder.local_path is not None and (folder.local_path / name).is_dir():
        raise DatasetError(
            f"the relevance file is a folder: got {source}, expected a CSV. Give the file in it as "
            "--relevance."
        )
    try:
        data = folder.read(name)
    except StorageNotFoundError as error:
        raise DatasetNotFoundError(
            f"there is no relevance file: got {source}, expected a CSV with the columns {QUERY} "
            f"and {CLIPS}. Correct --relevance."
        ) from error
    return parse_relevance(data, source)


def parse_relevance(data: bytes, source: str) -> Relevance:
    """The relevance file in a file's bytes; `source` is for messages.

    Raises:
        DatasetError: as `read_relevance`.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"the relevance file {source} is not UTF-8: got byte 0x{data[error.start]:02x} at "
            f"{error.start:,}, expected UTF-8. Save it as UTF-8."
        ) from error
    records = _records(text, source)
    rows: list[RelevanceRow] = []
    faults: list[str] = []
    first_at: dict[str, int] = {}
    for number, record in records:
        fault, clips = _clips_of(record.get(CLIPS))
        query = record.get(QUERY) or ""
        if not query.strip():
            fault = f"no caption: got {query!r} as {QUERY}, expected one. Remove the row."
        elif (first := first_at.setdefault(query, number)) != number:
            fault = (
                f"a caption that stands twice: got {_short(query)} as in row {first}, expected "
                "each once. Put all its clips into one row."
            )
        if fault:
            faults.append(f"row {number}: {fault}")
        rows.append(RelevanceRow(number, query, clips))
    _refuse(faults, source)
    if not rows:
        raise DatasetError(
            f"the relevance file {source} holds nothing: got 0 rows, expected at least 1. Fetch "
            "the file again."
        )
    return Relevance(source, tuple(rows))


def join_relevance(
    relevance: Relevance,
    captions: Sequence[str],
    clip_ids: Sequence[str],
    *,
    other_captions: Collection[str] = (),
    other_clips: Collection[str] = (),
    captions_may_be_missing: bool = False,
) -> tuple[RelevantClips, int]:
    """Join a relevance file to the captions and clips that are scored.

    Args:
        relevance: the file.
        captions: the texts that are scored; of equal ones the first is taken.
        clip_ids: the clips that are scored.
        other_captions: captions of the split that are not scored.
        other_clips: clips of the split that are not scored, or could not be embedded.
        captions_may_be_missing: whether captions of clips that could not be embedded are missing
            from both, so that a caption that is not found is no fault.

    Returns:
        Which clips answer which captions, and the number of rows left out.

    Raises:
        DatasetError: a row names a caption or clip that the split does not have, or no row is left.
    """
    caption_of: dict[str, int] = {}
    for index, text in enumerate(captions):
        caption_of.setdefault(text, index)
    caption_of.pop("", None)  # words that are not known
    clip_of = {clip_id: index for index, clip_id in enumerate(clip_ids)}
    elsewhere, unscored = set(other_captions), set(other_clips)
    found: dict[int, list[int]] = {}
    faults: list[str] = []
    for row in relevance.rows:
        known = row.query in caption_of or row.query in elsewhere or captions_may_be_missing
        strangers = [clip for clip in row.clips if clip not in clip_of and clip not in unscored]
        if not known:
            faults.append(
                f"row {row.number}: no caption of the split: got {_short(row.query)}, expected one "
                "that stands in the cache. Give the relevance file of this split."
            )
        elif strangers:
            faults.append(
                f"row {row.number}: no clip of the split: got {_short(strangers[0])}, expected "
                "clip ids that stand in the cache. Give the relevance file of this split."
            )
        elif row.query in caption_of:
            clips = [clip_of[clip] for clip in row.clips if clip in clip_of]
            if clips:
                found[caption_of[row.query]] = clips
    _refuse(faults, relevance.source)
    if not found:
        raise DatasetError(
            f"the relevance file {relevance.source} says nothing of the clips scored: got "
            f"{len(relevance.rows):,} rows about others, expected at least 1 about them. Give the "
            "relevance file of this split."
        )
    chosen = np.array(sorted(found), dtype=np.int64)
    columns = np.full((len(chosen), max(map(len, found.values()))), -1, dtype=np.int64)
    for place, caption in enumerate(chosen.tolist()):
        columns[place, : len(found[caption])] = sorted(found[caption])
    return RelevantClips(chosen, columns), len(relevance.rows) - len(found)


def _records(text: str, source: str) -> list[tuple[int, dict[str, str]]]:
    """The rows below the header with their numbers; empty lines are no rows."""
    before = csv.field_size_limit(_MAX_FIELD)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in (QUERY, CLIPS) if header.count(name) != 1]
        if missing:
            got = ", ".join(repr(name[:40]) for name in header[:10]) or "none"
            raise DatasetError(
                f"the relevance file {source} lacks columns: got {got}, expected {QUERY!r} and "
                f"{CLIPS!r}, each once. Give the file that DCASE publishes, or one like it."
            )
        rows = [record for record in reader if record]
    except csv.Error as error:
        raise DatasetError(
            f"the relevance file {source} is no CSV: got {error} in line {reader.line_num}, "
            "expected commas between columns and doubled quotes. Fetch the file again."
        ) from error
    finally:
        csv.field_size_limit(before)
    return [
        (number, dict(zip(header, record, strict=False)))
        for number, record in enumerate(rows, start=1)
    ]


def _clips_of(field: str | None) -> tuple[str, tuple[str, ...]]:
    """What is wrong with a list of clips, empty where nothing is, and the clips."""
    expected = "expected a list such as ['a.wav', 'b.wav']. Correct the row."
    if field is None:
        return f"no clips: got nothing as {CLIPS}, {expected}", ()
    try:
        value = ast.literal_eval(field.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return f"no list of clips: got {_short(field)} as {CLIPS}, {expected}", ()
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        return f"no list of clips: got {_short(field)} as {CLIPS}, {expected}", ()
    if not value:
        return f"no clips: got an empty list as {CLIPS}, {expected}", ()
    if len(set(value)) != len(value):
        twice = next(name for name in value if value.count(name) > 1)
        return f"a clip that stands twice: got {_short(twice)}, expected each once. Remove one.", ()
    return "", tuple(value)


def _refuse(faults: Sequence[str], source: str) -> None:
    if not faults:
        return
    rows = "row" if len(faults) == 1 else "rows"
    lines = [f"the relevance file {source} has {len(faults):,} wrong {rows}:"]
    lines += [f"  {fault}" for fault in faults[:_SHOWN_FAULTS]]
    if len(faults) > _SHOWN_FAULTS:
        lines.append(f"  ... and {len(faults) - _SHOWN_FAULTS:,} more.")
    raise DatasetError("\n".join(lines))


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS] + "...")
