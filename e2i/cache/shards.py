"""Shards: the rows of one chunk as one Parquet file.

Conventions: a row is one clip or one caption; embeddings are float32, finite, a fixed-size list of
D values that cannot be null; the embeddings of a clip's windows are a list of such lists. The
file's own metadata say which cache, fingerprint and generation the rows belong to. The same rows
give the same bytes under one version of pyarrow. Pages are neither compressed nor dictionary-coded:
embeddings do not compress, and reading is then nearly a copy. A shard's key is a hash of its ids,
their content digests, the fingerprint, the generation and the revision.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from e2i.cache.header import CacheHeader
from e2i.cache.layout import SCHEMA_VERSION, Side
from e2i.errors import CacheCorruptError, StorageError
from e2i.storage import FileInfo, Folder

_KEY_DIGITS = 20
_PAGE_BYTES = 2**20
_ROW_GROUP_ROWS = 20_000
_WHOLE_BYTES = 8 * 2**20
"""Remote shards up to this size are read in one request."""
_PREFIX = "e2i."

EMBEDDING_COLUMN = "embedding"
WINDOWS_COLUMN = "windows"

ID_COLUMN: dict[Side, str] = {"audio": "clip_id", "text": "caption_id"}
_KEY_COLUMNS: dict[Side, list[str]] = {
    "audio": ["clip_id", "content_sha256", "source_bytes", "source_version"],
    "text": ["caption_id", "clip_id", "caption"],
}

_READ_COLUMNS: dict[Side, list[str]] = {
    "audio": ["clip_id", "embedding", "duration_s"],
    "text": ["caption_id", "clip_id", "caption", "embedding"],
}


@dataclass(frozen=True, slots=True)
class ShardStamp:
    """What the rows of a shard belong to.

    The revision (that of the manifest which the shard was planned by) is part of its key alone:
    rows count whatever it is.
    """

    side: Side
    dataset: str
    split: str
    fingerprint: str
    generation: int
    dim: int
    revision: int = field(default=0, compare=False)
    store_windows: bool = False

    @classmethod
    def of(cls, header: CacheHeader, side: Side, revision: int = 0) -> ShardStamp:
        """What rows of this side have to carry to count."""
        stored = header.side(side)
        return cls(
            *(side, header.dataset, header.split, stored.fingerprint, stored.generation),
            stored.dim,
            revision,
            stored.store_windows,
        )


@dataclass(frozen=True, slots=True)
class AudioRow:
    """One clip: its embedding, float32 (D,), and the recording that it is made from.

    `windows` are the embeddings of its windows, float32 (W, D), where they are stored.
    """

    clip_id: str
    content_sha256: str
    source_bytes: int
    source_version: str
    embedding: NDArray[np.float32]
    duration_s: float
    num_windows: int
    windows: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The columns of a shard that say what is stored, without the embeddings.

    Attributes:
        name: below the cache folder.
        size_bytes: of the file.
        stamp: what the rows belong to; None for a file that no e2i wrote.
        rows: number of rows.
        columns: by name, one value a row.
        sha256: of the file; empty where nobody asked for it.
    """

    name: str
    size_bytes: int
    stamp: ShardStamp | None
    rows: int
    columns: dict[str, list[Any]]
    sha256: str


def caption_digest(text: str) -> str:
    """Content digest of a caption."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def shard_key(stamp: ShardStamp, contents: Iterable[tuple[str, str]]) -> str:
    """Key of the shard that holds these (id, content digest), in this order."""
    digest = hashlib.sha256()
    parts = [stamp.side, stamp.fingerprint, str(stamp.generation)]
    parts += [f"revision {stamp.revision}"] if stamp.revision else []
    for part in (*parts, *(word for pair in contents for word in pair)):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:_KEY_DIGITS]


def embedding_type(dim: int) -> pa.DataType:
    """The Parquet type of an embedding."""
    return pa.list_(pa.field("element", pa.float32(), nullable=False), dim)


def windows_type(dim: int) -> pa.DataType:
    """The Parquet type of the embeddings of a clip's windows."""
    return pa.list_(pa.field("element", embedding_type(dim), nullable=False))


def audio_shard(stamp: ShardStamp, rows: Sequence[AudioRow]) -> memoryview:
    """The file that holds these clips."""
    fields: list[tuple[str, pa.DataType, list[object]]] = [
        ("clip_id", pa.string(), [row.clip_id for row in rows]),
        ("content_sha256", pa.string(), [row.content_sha256 for row in rows]),
        ("source_bytes", pa.int64(), [row.source_bytes for row in rows]),
        ("source_version", pa.string(), [row.source_version for row in rows]),
        ("duration_s", pa.float64(), [row.duration_s for row in rows]),
        ("num_windows", pa.int32(), [row.num_windows for row in rows]),
    ]
    embeddings = np.stack([row.embedding for row in rows])
    if not stamp.store_windows:
        return _write(stamp, fields, embeddings, before=4)
    windows = [row.windows for row in rows if row.windows is not None]
    return _write(stamp, fields, embeddings, before=4, windows=_windows_column(stamp, windows))


def _windows_column(stamp: ShardStamp, windows: Sequence[NDArray[np.float32]]) -> pa.Array:
    """One list of embeddings a clip."""
    ends = np.cumsum([0, *(len(of_clip) for of_clip in windows)], dtype=np.int32)
    flat = np.concatenate(windows).astype(np.float32, copy=False).reshape(-1)
    values = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=embedding_type(stamp.dim))
    return pa.ListArray.from_arrays(pa.array(ends), values, type=windows_type(stamp.dim))


def text_shard(
    stamp: ShardStamp,
    captions: Sequence[tuple[str, str, str]],
    embeddings: NDArray[np.float32],
) -> memoryview:
    """The file that holds these captions.

    Args:
        stamp: what they belong to.
        captions: caption id, clip id and text of each.
        embeddings: float32 (N, D).
    """
    names = ("caption_id", "clip_id", "caption")
    columns: list[list[object]] = [list(column) for column in zip(*captions, strict=True)]
    fields = [(name, pa.string(), column) for name, column in zip(names, columns, strict=True)]
    return _write(stamp, fields, embeddings, before=3)


def _write(
    stamp: ShardStamp,
    fields: list[tuple[str, pa.DataType, list[object]]],
    embeddings: NDArray[np.float32],
    before: int,
    windows: pa.Array | None = None,
) -> memoryview:
    """The fields, with the embeddings after the first `before` of them, and windows at the end."""
    list_type = embedding_type(stamp.dim)
    schema = [pa.field(name, kind, nullable=False) for name, kind, _ in fields]
    arrays = [pa.array(values, kind) for _, kind, values in fields]
    flat = np.ascontiguousarray(embeddings, dtype=np.float32).reshape(-1)
    schema.insert(before, pa.field(EMBEDDING_COLUMN, list_type, nullable=False))
    arrays.insert(before, pa.FixedSizeListArray.from_arrays(pa.array(flat), type=list_type))
    if windows is not None:
        schema.append(pa.field(WINDOWS_COLUMN, windows.type, nullable=False))
        arrays.append(windows)
    table = pa.Table.from_arrays(arrays, schema=pa.schema(schema, metadata=_metadata(stamp)))
    return shard_file(table, stamp.side)


def shard_file(table: pa.Table, side: Side) -> memoryview:
    """The file that holds these rows, which carry what they belong to as the table's metadata."""
    file = pa.BufferOutputStream()
    pq.write_table(
        table,
        file,
        compression="none",
        use_dictionary=False,
        write_statistics=[ID_COLUMN[side]],
        data_page_size=_PAGE_BYTES,
        row_group_size=_ROW_GROUP_ROWS,
    )
    return memoryview(file.getvalue())


def _metadata(stamp: ShardStamp) -> dict[str, str]:
    values = {
        "schema_version": SCHEMA_VERSION,
        "side": stamp.side,
        "dataset": stamp.dataset,
        "split": stamp.split,
        "fingerprint": stamp.fingerprint,
        "generation": stamp.generation,
    }
    return {_PREFIX + name: str(value) for name, value in values.items()}


def read_keys(folder: Folder, file: FileInfo, side: Side, *, hashed: bool) -> ShardKeys:
    """What a shard holds, without its embeddings.

    Args:
        folder: the cache.
        file: the shard as listed.
        side: that it lies under.
        hashed: read the whole file and give its sha256 too.

    Raises:
        CacheCorruptError: it cannot be read as a shard.
    """
    data = folder.read(file.name) if hashed else None
    with _opened(folder, file, data) as shard:
        columns: dict[str, list[Any]] = {}
        with readable(folder, file.name):
            stamp = _stamp(shard.schema_arrow, side)
            if stamp is not None:
                table = shard.read(columns=_KEY_COLUMNS[side])
                for name in _KEY_COLUMNS[side]:
                    columns[name] = table.column(name).to_numpy().tolist()
        return ShardKeys(
            name=file.name,
            size_bytes=file.size_bytes,
            stamp=stamp,
            rows=shard.metadata.num_rows,
            columns=columns,
            sha256=hashlib.sha256(data).hexdigest() if data is not None else "",
        )


def read_rows(folder: Folder, name: str, side: Side, data: pa.Buffer) -> pa.Table:
    """All that readers need of a shard: ids, embeddings, and durations or captions.

    Raises:
        CacheCorruptError: it cannot be read as a shard.
    """
    with readable(folder, name):
        file = pq.ParquetFile(pa.BufferReader(data))
        return file.read(_READ_COLUMNS[side], use_threads=False)


def stamp_of(folder: Folder, name: str, side: Side, data: pa.Buffer) -> ShardStamp | None:
    """What the rows of a shard belong to; None for a file that is no shard of this side.

    Raises:
        CacheCorruptError: it cannot be read as a shard.
    """
    with readable(folder, name):
        return _stamp(pq.ParquetFile(pa.BufferReader(data)).schema_arrow, side)


@contextlib.contextmanager
def _opened(folder: Folder, file: FileInfo, data: bytes | None) -> Iterator[pq.ParquetFile]:
    """The shard's reader: from memory, by memory map, or by ranges of a large remote object."""
    if data is None and folder.local_path is None and file.size_bytes <= _WHOLE_BYTES:
        data = folder.read(file.name)
    with contextlib.ExitStack() as stack:
        if data is not None:
            source: object = pa.BufferReader(data)
        elif folder.local_path is not None:
            source = f"{folder.local_path}/{file.name}"
        else:
            source = stack.enter_context(folder.open(file.name))
        with readable(folder, file.name):
            shard = stack.enter_context(pq.ParquetFile(source, memory_map=True))
        yield shard


@contextlib.contextmanager
def readable(folder: Folder, name: str) -> Iterator[None]:
    """Turns what pyarrow says of damaged files into the error that names the shard."""
    try:
        yield
    except (StorageError, CacheCorruptError):
        raise
    except FileNotFoundError as error:
        raise missing(folder, name) from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = str(error).strip("'\"").splitlines()[0].rstrip(".")
        raise corrupt(folder, name, reason, "a whole Parquet file") from error


def _stamp(schema: pa.Schema, side: Side) -> ShardStamp | None:
    """What the rows belong to; None where the file is no shard of this side and version."""
    held = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    if (
        held.get(_PREFIX + "schema_version") != str(SCHEMA_VERSION)
        or held.get(_PREFIX + "side") != side
    ):
        return None
    embedding = schema.field(EMBEDDING_COLUMN).type
    return ShardStamp(
        side=side,
        dataset=held[_PREFIX + "dataset"],
        split=held[_PREFIX + "split"],
        fingerprint=held[_PREFIX + "fingerprint"],
        generation=int(held[_PREFIX + "generation"]),
        dim=embedding.list_size if pa.types.is_fixed_size_list(embedding) else 0,
        store_windows=WINDOWS_COLUMN in schema.names,
    )


def corrupt(folder: Folder, name: str, got: str, expected: str) -> CacheCorruptError:
    """The error for a shard that is not what it should be."""
    return CacheCorruptError(
        f"a shard of the cache is damaged: got {got} in {folder.url}/{name}, expected {expected}. "
        "Run `e2i cache repair` with the options of `e2i cache-embeddings`; the rest is reused."
    )


def missing(folder: Folder, name: str) -> CacheCorruptError:
    """The error for a shard that the manifest names and that is not there."""
    return CacheCorruptError(
        f"a shard of the cache is missing: got no {name} in {folder.url}, expected it as the "
        "manifest names it. If the cache was pruned meanwhile, read it again; else run `e2i cache "
        "repair` with the options of `e2i cache-embeddings`: the rest is reused."
    )
