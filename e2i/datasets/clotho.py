"""Captions in Clotho's form: one CSV row a clip, `file_name,caption_1,...,caption_n`.

Conventions: rows are counted without the header, from 1, blank lines left out; a message also gives
the line where the row starts. What is decided here:

- Text is UTF-8, with or without a byte order mark (Clotho's caption files are ASCII). Another
  encoding is an error, not a guess: read wrongly it would change captions without a word.
- Any number of caption columns; a caption keeps its column's number. An empty cell is no caption.
  Columns that have nothing to do with captions are passed over.
- A row that has more or fewer cells than the header is wrong: it is what an unquoted comma or a
  file cut short looks like.
- Faults of rows come together, the first ten of them.

Source: K. Drossos, S. Lipping, T. Virtanen, "Clotho: an audio captioning dataset", ICASSP 2020;
Zenodo record 4783391.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2i.clips import Caption, CaptionedClips, Clip
from e2i.datasets.audio_root import resolve_audio_name
from e2i.errors import DatasetError, DatasetNotFoundError, StorageNotFoundError
from e2i.storage import Folder

SPLITS = ("development", "validation", "evaluation")
ALL = "all"
"""The split of metadata whose name tells none."""
CSV_FOLDER = "clotho_csv_files"
AUDIO_FOLDER = "clotho_audio_files"

_SHOWN_FAULTS = 10
_CAPTION_COLUMN = re.compile(r"caption_([1-9][0-9]*)")
_SPLIT_NAME = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?![a-z])")


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
    parent, name = _split_location(metadata)
    folder = Folder(parent)
    source = f"{folder.url}{'' if folder.url.endswith('/') else '/'}{name}"
    try:
        data = folder.read(name)
    except (StorageNotFoundError, IsADirectoryError) as error:
        raise DatasetNotFoundError(
            f"metadata not found: got {source}, expected a caption file. Correct --metadata."
        ) from error
    split = split or split_named_in(name)
    root = audio_root or _default_audio_root(parent, folder.url, split)
    shown_root = Folder(root).url
    return CaptionedClips(
        dataset=dataset or _default_dataset(folder.url, name),
        split=split,
        audio_root_url=root if "://" in root else shown_root,
        clips=_parse(data, source, shown_root),
        source=source,
    )


def split_named_in(file_name: str) -> str:
    """The split that a file's name holds as a word, or `all` if it holds none or several."""
    found = set(_SPLIT_NAME.findall(file_name.lower()))
    return found.pop() if len(found) == 1 else ALL


def _split_location(metadata: str) -> tuple[str, str]:
    """Folder and name of a path or URL."""
    scheme, is_url, rest = metadata.partition("://")
    head, _, name = rest.rpartition("/") if is_url else ("", "", Path(metadata).name)
    if not name:
        raise DatasetError(
            f"metadata is a folder: got {metadata!r}, expected a caption file. Give the CSV file "
            "in it as --metadata."
        )
    return (f"{scheme}://{head}", name) if is_url else (str(Path(metadata).parent), name)


def _default_audio_root(parent: str, url: str, split: str) -> str:
    if _last_part(url) != CSV_FOLDER or split == ALL:
        return parent
    # Taken from the location as given: it may hold the credentials to read with.
    above = parent if "://" in parent else url
    return f"{above.rstrip('/').rpartition('/')[0]}/{AUDIO_FOLDER}/{split}"


def _default_dataset(url: str, name: str) -> str:
    above = url.rstrip("/").rpartition("/")[0]
    holder = above if _last_part(url) == CSV_FOLDER else url
    return _last_part(holder) or Path(name).stem


def _last_part(url: str) -> str:
    return url.partition("://")[2].rpartition("/")[2] if "://" in url else Path(url).name


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    line: int
    cells: list[str]

    def __str__(self) -> str:
        return f"row {self.number} (line {self.line})"


def _parse(data: bytes, source: str, root_url: str) -> tuple[Clip, ...]:
    rows = _rows(_decode(data, source), source)
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
        raise _collected(faults, source)
    if not clips:
        raise DatasetError(
            f"metadata {source} holds no clips: got a header and 0 rows, expected at least 1. "
            "Fetch the file again."
        )
    return tuple(clips)


def _decode(data: bytes, source: str) -> str:
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise DatasetError(
            f"metadata {source} is not UTF-8: got UTF-16, expected UTF-8. Save it as UTF-8, e.g. "
            "with `iconv -f UTF-16 -t UTF-8`."
        )
    if (position := data.find(b"\0")) >= 0:
        raise DatasetError(
            f"metadata {source} is not text: got a NUL byte in line {_line(data, position)} (byte "
            f"{position:,}), expected CSV in UTF-8. Check that it is the caption file."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"metadata {source} is not UTF-8: got byte 0x{data[error.start]:02x} in line "
            f"{_line(data, error.start)} (byte {error.start:,}), expected UTF-8. Save it as UTF-8, "
            "e.g. with `iconv -f ISO-8859-1 -t UTF-8` if that is what it is."
        ) from error


def _line(data: bytes, position: int) -> int:
    before = data[:position].replace(b"\r\n", b"\n")
    return before.count(b"\n") + before.count(b"\r") + 1


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
        shown = ", ".join(repr(name[:40]) for name in names[:_SHOWN_FAULTS])
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
        audio_name = resolve_audio_name(clip_id, root_url)
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


def _collected(faults: list[str], source: str) -> DatasetError:
    more = len(faults) - _SHOWN_FAULTS
    lines = [f"metadata {source} has {len(faults):,} wrong row{'s' * (len(faults) > 1)}:"]
    lines += [f"  {fault}" for fault in faults[:_SHOWN_FAULTS]]
    if more > 0:
        lines.append(f"  ... and {more:,} more.")
    return DatasetError("\n".join(lines))
