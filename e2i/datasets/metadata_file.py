"""A metadata file as it lies somewhere: its bytes, its text, and what its place tells.

Conventions: `source` is for messages and records, without credentials; `parent` is the folder as
the caller gave it, with the credentials to read with. What is decided here:

- Text is UTF-8, with or without a byte order mark. Another encoding is an error, not a guess: read
  wrongly it would change captions without a word.
- Faults of rows come together, the first ten of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2i.errors import DatasetError, DatasetNotFoundError, StorageNotFoundError
from e2i.storage import Folder

SPLITS = ("development", "validation", "evaluation")
ALL = "all"
"""The split of metadata whose name tells none."""
CSV_FOLDER = "clotho_csv_files"
AUDIO_FOLDER = "clotho_audio_files"

_SHOWN_FAULTS = 10
_SPLIT_NAME = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?![a-z])")


@dataclass(frozen=True, slots=True)
class MetadataFile:
    """A metadata file that was read.

    Attributes:
        parent: its folder, as given.
        folder_url: its folder, absolute, without credentials.
        name: its name there.
        data: its bytes.
    """

    parent: str
    folder_url: str
    name: str
    data: bytes

    @property
    def source(self) -> str:
        """Its location, without credentials."""
        return f"{self.folder_url}{'' if self.folder_url.endswith('/') else '/'}{self.name}"

    @property
    def default_dataset(self) -> str:
        """Name of the folder that holds the data: above `clotho_csv_files`, else the file's."""
        return dataset_named_in(self.source) or Path(self.name).stem

    def default_audio_root(self, split: str) -> str:
        """In Clotho's layout `clotho_audio_files/<split>`, else the folder of the file."""
        if _last_part(self.folder_url) != CSV_FOLDER or split == ALL:
            return self.parent
        # Taken from the location as given: it may hold the credentials to read with.
        above = self.parent if "://" in self.parent else self.folder_url
        return f"{above.rstrip('/').rpartition('/')[0]}/{AUDIO_FOLDER}/{split}"

    def text(self, form: str) -> str:
        """Its text, without a byte order mark.

        Args:
            form: what is expected, for messages: CSV or JSON.

        Raises:
            DatasetError: it is not UTF-8, or no text at all.
        """
        data, source = self.data, self.source
        if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
            raise DatasetError(
                f"metadata {source} is not UTF-8: got UTF-16, expected UTF-8. Save it as UTF-8, "
                "e.g. with `iconv -f UTF-16 -t UTF-8`."
            )
        if (position := data.find(b"\0")) >= 0:
            raise DatasetError(
                f"metadata {source} is not text: got a NUL byte in line {_line(data, position)} "
                f"(byte {position:,}), expected {form} in UTF-8. Check that it is the caption file."
            )
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"metadata {source} is not UTF-8: got byte 0x{data[error.start]:02x} in line "
                f"{_line(data, error.start)} (byte {error.start:,}), expected UTF-8. Save it as "
                "UTF-8, e.g. with `iconv -f ISO-8859-1 -t UTF-8` if that is what it is."
            ) from error


def read_metadata_file(metadata: str) -> MetadataFile:
    """Read a metadata file.

    Args:
        metadata: path or fsspec URL.

    Raises:
        DatasetNotFoundError: there is no such file.
        DatasetError: it is a folder.
        StorageError: it cannot be read.
    """
    parent, name = _split_location(metadata)
    folder = Folder(parent)
    file = MetadataFile(parent, folder.url, name, b"")
    if folder.local_path is not None and (folder.local_path / name).is_dir():
        raise _is_a_folder(file.source)
    try:
        data = folder.read(name)
    except (StorageNotFoundError, IsADirectoryError) as error:
        raise DatasetNotFoundError(
            f"metadata not found: got {file.source}, expected a caption file. Correct --metadata."
        ) from error
    return MetadataFile(parent, folder.url, name, data)


def split_named_in(file_name: str) -> str:
    """The split that a file's name holds as a word, or `all` if it holds none or several."""
    found = set(_SPLIT_NAME.findall(file_name.lower()))
    return found.pop() if len(found) == 1 else ALL


def dataset_named_in(source: str) -> str:
    """Name of the folder that holds the data of a metadata file: above `clotho_csv_files`, or its.

    Args:
        source: location of the metadata file.

    Returns:
        The name; empty where the location tells none.
    """
    folder = source.rpartition("/")[0].rstrip("/")
    holder = folder.rpartition("/")[0] if _last_part(folder) == CSV_FOLDER else folder
    return _last_part(holder)


def collected(
    faults: Sequence[str], source: str, one: str = "row", many: str = "rows"
) -> DatasetError:
    """One error of all faults of a file; `one` and `many` are what its format calls a row."""
    more = len(faults) - _SHOWN_FAULTS
    lines = [f"metadata {source} has {len(faults):,} wrong {one if len(faults) == 1 else many}:"]
    lines += [f"  {fault}" for fault in faults[:_SHOWN_FAULTS]]
    if more > 0:
        lines.append(f"  ... and {more:,} more.")
    return DatasetError("\n".join(lines))


def _split_location(metadata: str) -> tuple[str, str]:
    """Folder and name of a path or URL."""
    scheme, is_url, rest = metadata.partition("://")
    head, _, name = rest.rpartition("/") if is_url else ("", "", Path(metadata).name)
    if not name:
        raise _is_a_folder(metadata)
    return (f"{scheme}://{head}", name) if is_url else (str(Path(metadata).parent), name)


def _is_a_folder(location: str) -> DatasetError:
    return DatasetError(
        f"metadata is a folder: got {location!r}, expected a caption file. Give the file in it as "
        "--metadata."
    )


def _last_part(url: str) -> str:
    return url.partition("://")[2].rpartition("/")[2] if "://" in url else Path(url).name


def _line(data: bytes, position: int) -> int:
    before = data[:position].replace(b"\r\n", b"\n")
    return before.count(b"\n") + before.count(b"\r") + 1
