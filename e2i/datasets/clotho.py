"""Captions in Clotho's form: one CSV row a clip, `file_name,caption_1,...,caption_n`.

Conventions: rows are counted without the header, from 1, blank lines left out; a message also gives
the line where the row starts. What is decided here:

- Any number of caption columns; a caption keeps its column's number. An empty cell is no caption.
  Columns that have nothing to do with captions are passed over.
- A row that has more or fewer cells than the header is wrong: it is what an unquoted comma or a
  file cut short looks like.

Source: K. Drossos, S. Lipping, T. Virtanen, "Clotho: an audio captioning dataset", ICASSP 2020;
Zenodo record 4783391.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from e2i.clips import Caption, CaptionedClips, Clip
from e2i.datasets.audio_root import audio_name_in
from e2i.datasets.metadata_file import collected, read_metadata_file, split_named_in
from e2i.errors import DatasetError
from e2i.storage import Folder

_SHOWN_COLUMNS = 10
_CAPTION_COLUMN = re.compile(r"caption_([1-9][0-9]*)")


def read_clotho(
    metadata: str,
    *,
    audio_root: str | None = None,
    split: str | None = None,
    dataset: str | None = None,
) -> CaptionedClips:
    """Read a caption file in Clotho's form.

    Args:
        metadata: path or fsspec URL of the CSV file.
        audio_root: folder or URL of the recordings. Default: in Clotho's layout
            `clotho_audio_files/<split>` beside the metadata's folder `clotho_csv_files`, else the
            metadata's folder.
        split: name of the split. Default: the one of `SPLITS` that the file's name holds, else
            `all`.
        dataset: name of the data set. Default: the name of the folder that holds the data: the one
            above `clotho_csv_files`, else the metadata's.

    Returns:
        The clips, in the order of the rows. `audio_root_url` is absolute; credentials in a URL
        stay in it, since the recordings are read with them.

    Raises:
        DatasetNotFoundError: there is no such file.
        DatasetError: it is not CSV, not UTF-8, has no rows or not the columns, or rows are wrong.
        StorageError: it cannot be read.
    """
    file = read_metadata_file(metadata)
    split = split or split_named_in(file.name)
    root = audio_root or file.default_audio_root(split)
    shown_root = Folder(root).url
    return CaptionedClips(
        dataset=dataset or file.default_dataset,
        split=split,
        audio_root_url=root if "://" in root else shown_root,
        clips=_parse(file.text("CSV"), file.source, shown_root),
        source=file.source,
    )


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    line: int
    cells: list[str]

    def __str__(self) -> str:
        return f"row {self.number} (line {self.line})"


def _parse(text: str, source: str, root_url: str) -> tuple[Clip, ...]:
    rows = _rows(text, source)
    header = next(rows, None)
    if header is None:
        raise DatasetError(
            f"metadata {source} is empty: got no text, expected a header and rows. Fetch the file "
            "again."
        )
    columns = _Columns.of(header.cells, source)
    clips: list[Clip] = []
    faults: list[str] = []
    seen: dict[str, _Row] = {}
    for row in rows:
        try:
            clip = columns.clip(row, root_url)
        except DatasetError as error:
            faults.append(f"{row}: {error}")
            continue
        if (first := seen.setdefault(clip.clip_id, row)) is not row:
            faults.append(
                f"{row}: file_name stands twice: got {clip.clip_id!r} here and in {first}, "
                "expected each recording once. Remove one of the rows."
            )
            continue
        clips.append(clip)
    if faults:
        raise collected(faults, source)
    if not clips:
        raise DatasetError(
            f"metadata {source} holds no clips: got a header and 0 rows, expected at least 1. "
            "Fetch the file again."
        )
    return tuple(clips)


def _rows(text: str, source: str) -> Iterator[_Row]:
    """All rows that are not blank; the header is number 0."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _unreadable(error, number, line, source) from error
        if any(cell.strip() for cell in cells) or len(cells) > 1:
            yield _Row(number, line, cells)
            number += 1


def _unreadable(error: csv.Error, number: int, line: int, source: str) -> DatasetError:
    where = f"row {number} (line {line})" if number else f"the header (line {line})"
    if "field limit" in str(error):
        return DatasetError(
            f"metadata {source} cannot be read at {where}: got a cell longer than "
            f"{csv.field_size_limit():,} characters, expected shorter ones. If no caption is that "
            "long, a quote that opens there is never closed: close it."
        )
    return DatasetError(
        f'metadata {source} cannot be read at {where}: got an unbalanced quote ("{error}"), '
        "expected cells with commas or quotes in double quotes, and quotes inside doubled. "
        "Correct the quotes."
    )


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the cells are: index of `file_name`, and (number, index) of each caption."""

    count: int
    file_name: int
    captions: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, header: list[str], source: str) -> _Columns:
        names = [name.strip() for name in header]
        captions = sorted(
            (int(match[1]), index)
            for index, name in enumerate(names)
            if (match := _CAPTION_COLUMN.fullmatch(name))
        )
        read = ["file_name", *(f"caption_{number}" for number, _ in captions)]
        if "file_name" not in names or not captions:
            wrong = "no column file_name" if "file_name" not in names else "no caption column"
        elif twice := [name for name in read if names.count(name) > 1]:
            wrong = f"column {twice[0]} twice"
        elif unread := [n for n in names if n.lower().startswith("caption") and n not in read]:
            wrong = f"caption column {unread[0]!r}"
        else:
            return cls(len(names), names.index("file_name"), tuple(captions))
        shown = ", ".join(repr(name[:40]) for name in names[:_SHOWN_COLUMNS])
        raise DatasetError(
            f"metadata {source} has not the columns of Clotho's form: got {wrong} (columns: "
            f"{shown}), expected file_name, caption_1, caption_2, ..., each once and separated by "
            "commas. Correct the header."
        )

    def clip(self, row: _Row, root_url: str) -> Clip:
        """The clip of a row.

        Raises:
            DatasetError: what is wrong with the row, without saying which row it is.
        """
        if len(row.cells) != self.count:
            raise DatasetError(
                f"wrong number of cells: got {len(row.cells)}, expected {self.count} as in the "
                "header. Put captions with commas in double quotes, or complete the row."
            )
        clip_id = row.cells[self.file_name]
        audio_name = audio_name_in(clip_id, root_url)
        captions = tuple(
            Caption(f"{clip_id}#{number}", clip_id, row.cells[index])
            for number, index in self.captions
            if row.cells[index].strip()
        )
        if not captions:
            raise DatasetError(
                f"no caption: got only empty cells for {clip_id!r}, expected at least one "
                "caption. Add one, or remove the row."
            )
        return Clip(clip_id, audio_name, captions, row.number)
