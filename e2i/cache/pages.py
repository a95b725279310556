"""The values of an embedding column, copied straight from where they lie in its Parquet pages.

Conventions: a float32 that cannot be null is stored as it is in memory, page after page, behind a
header and the levels that tell where a list begins. As every list has D values, the levels need not
be decoded, which is what a general reader spends most of its time with. Only columns in the form
that `shards.shard_file` writes are read so (one list level, nothing null, no compression, no
dictionary, first version of data pages); everything else is left to the general reader.

Source: https://parquet.apache.org/docs/file-format/ and Thrift's compact protocol,
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

_Struct = dict[int, "int | _Struct"]

# Of `PageHeader` and `DataPageHeader` in parquet.thrift.
_TYPE, _FULL_BYTES, _STORED_BYTES, _DATA_PAGE_HEADER = 1, 2, 3, 5
_NUM_VALUES, _ENCODING, _LEVEL_ENCODINGS = 1, 2, (3, 4)
_DATA_PAGE, _PLAIN, _RLE = 0, 0, 3
_VALUE_BYTES = 4
_LONGEST_NUMBER = 10


class _UnknownFormError(Exception):
    """Pages that are for the general reader."""


def copy_values(
    file: pq.ParquetFile, group: int, column: int, data: pa.Buffer, out: NDArray[np.float32]
) -> bool:
    """Copy a column of a row group, if it has the form that is known here.

    Args:
        file: the shard.
        group: number of the row group.
        column: number of the column, among those that hold values.
        data: the file's bytes.
        out: float32 (rows, D), contiguous; what it holds is undefined where False is returned.

    Returns:
        Whether `out` holds all values now.
    """
    chunk = file.metadata.row_group(group).column(column)
    if not (_is_plain(chunk, file.schema.column(column)) and sys.byteorder == "little"):
        return False
    source, target = np.frombuffer(data, np.uint8), out.reshape(-1).view(np.uint8)
    filled = 0
    try:
        for start, stop in _ranges(memoryview(data).cast("B"), chunk):
            target[filled : filled + stop - start] = source[start:stop]
            filled += stop - start
    except (_UnknownFormError, IndexError, ValueError):
        return False
    return filled == target.size


def _is_plain(chunk: pq.ColumnChunkMetaData, schema: pq.ColumnSchema) -> bool:
    levels = (schema.max_definition_level, schema.max_repetition_level)
    return bool(
        chunk.physical_type == "FLOAT"
        and chunk.compression == "UNCOMPRESSED"
        and not chunk.has_dictionary_page
        and levels == (1, 1)
    )


def _ranges(data: memoryview, chunk: pq.ColumnChunkMetaData) -> Iterator[tuple[int, int]]:
    """Where in the file the values of each page begin and end."""
    position = chunk.data_page_offset
    end = position + chunk.total_compressed_size
    while position < end:
        reader = _Reader(data, position)
        header = reader.struct()
        start, size_bytes = reader.position, _number(header, _STORED_BYTES)
        stop = start + size_bytes
        page = header.get(_DATA_PAGE_HEADER)
        if (
            not isinstance(page, dict)
            or _number(header, _TYPE) != _DATA_PAGE
            or _number(header, _FULL_BYTES) != size_bytes
            or _number(page, _ENCODING) != _PLAIN
            or any(_number(page, levels) != _RLE for levels in _LEVEL_ENCODINGS)
            or not start < stop <= end
        ):
            raise _UnknownFormError
        for _ in _LEVEL_ENCODINGS:
            start += 4 + int.from_bytes(data[start : start + 4], "little")
        if stop - start != _VALUE_BYTES * _number(page, _NUM_VALUES):
            raise _UnknownFormError  # lists that are empty, or null
        yield start, stop
        position = stop


def _number(struct: _Struct, field: int) -> int:
    value = struct.get(field)
    if not isinstance(value, int):
        raise _UnknownFormError
    return value


@dataclass(slots=True)
class _Reader:
    """Reads structs of whole numbers, as page headers without statistics are."""

    data: memoryview
    position: int

    def struct(self) -> _Struct:
        """Fields by number."""
        fields: _Struct = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            if kind in {1, 2}:
                fields[number] = 2 - kind
            elif kind in {4, 5, 6}:
                fields[number] = self._zigzag()
            elif kind == 12:
                fields[number] = self.struct()
            else:
                raise _UnknownFormError
        return fields

    def _byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1]

    def _zigzag(self) -> int:
        value = 0
        for place in range(_LONGEST_NUMBER):
            byte = self._byte()
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                return (value >> 1) ^ -(value & 1)
        raise _UnknownFormError
