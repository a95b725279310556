"""Embeddings read straight from their pages, beside what pyarrow reads."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.cache.pages import copy_values
from e2i.cache.shards import embedding_type, shard_file

COLUMN = 1


def table_of(rows: int, dim: int) -> pa.Table:
    values = np.random.default_rng(rows * dim).standard_normal(rows * dim).astype(np.float32)
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(values), type=embedding_type(dim))
    names = pa.array([f"clip {row}" for row in range(rows)])
    fields = [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("embedding", embedding_type(dim), nullable=False),
    ]
    return pa.Table.from_arrays([names, embeddings], schema=pa.schema(fields))


def file_of(table: pa.Table, **options) -> pa.Buffer:
    """The table as a file, by default in the form of shards."""
    form = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **form | options)
    return sink.getvalue()


def read_all(data: pa.Buffer, dim: int) -> list[np.ndarray | None]:
    """The embeddings of each row group; None where they are for the general reader."""
    file = pq.ParquetFile(pa.BufferReader(data))
    found: list[np.ndarray | None] = []
    for group in range(file.num_row_groups):
        out = np.full((file.metadata.row_group(group).num_rows, dim), np.nan, np.float32)
        found.append(out if copy_values(file, group, COLUMN, data, out) else None)
    return found


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 70),
    dim=st.integers(1, 40),
    page=st.sampled_from([1, 100, 2**20]),
    batch=st.sampled_from([1, 7, 1024]),
    group=st.sampled_from([1, 16, 100]),
)
def test_the_values_are_those_that_pyarrow_reads(rows, dim, page, batch, group) -> None:
    table = table_of(rows, dim)
    data = file_of(table, data_page_size=page, write_batch_size=batch, row_group_size=group)
    expected = table.column("embedding").combine_chunks().flatten().to_numpy().reshape(-1, dim)
    assert np.array_equal(np.concatenate(read_all(data, dim)), expected)


def test_shards_are_read_so() -> None:
    table = table_of(300, 12)
    (found,) = read_all(pa.py_buffer(shard_file(table, "audio")), 12)
    assert found is not None
    assert np.array_equal(found.reshape(-1), table.column("embedding").chunk(0).flatten())


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"data_page_version": "2.0"},
        {"use_byte_stream_split": ["embedding.list.element"]},
        {"write_statistics": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_forms_are_left_to_the_general_reader(options) -> None:
    assert read_all(file_of(table_of(20, 4), **options), 4) == [None]


def test_lists_that_may_be_null_are_left_to_the_general_reader() -> None:
    column = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    table = pa.table({"clip_id": ["a", "b"], "embedding": column})
    assert read_all(file_of(table), 2) == [None]


def test_rows_that_are_not_there_are_not_made_up() -> None:
    data = file_of(table_of(20, 4))
    file = pq.ParquetFile(pa.BufferReader(data))
    for rows in (19, 21):
        assert not copy_values(file, 0, COLUMN, data, np.empty((rows, 4), np.float32))


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 120), byte=st.integers(0, 255))
def test_a_damaged_page_header_is_no_crash(place: int, byte: int) -> None:
    whole = file_of(table_of(6, 4))
    file = pq.ParquetFile(pa.BufferReader(whole))
    start = file.metadata.row_group(0).column(COLUMN).data_page_offset
    damaged = bytearray(whole)
    damaged[start + place] = byte
    out = np.zeros((6, 4), np.float32)
    assert copy_values(file, 0, COLUMN, pa.py_buffer(bytes(damaged)), out) in {True, False}
