"""Memory: the contract, and that everybody in the process sees the same."""

from __future__ import annotations

import uuid

import fsspec
import pytest

from e2i.errors import StorageError
from e2i.storage import Folder
from storage_contract import SharedStorageContract


class TestMemory(SharedStorageContract):
    @pytest.fixture
    def folder(self):
        return Folder(f"memory://{uuid.uuid4().hex}/my data #1")


def test_it_is_fsspecs_own_memory():
    name = uuid.uuid4().hex
    Folder(f"memory://{name}").write("a/b", b"1")
    assert fsspec.filesystem("memory").cat_file(f"/{name}/a/b") == b"1"
    assert Folder(f"memory:///{name}/").read("a/b") == b"1"
    assert Folder("memory://").folder(name).read("a/b") == b"1"


def test_it_has_no_local_path():
    assert Folder("memory://x").local_path is None
    assert Folder("memory://x").url == "memory://x"


def test_a_file_in_the_place_of_a_folder():
    folder = Folder(f"memory://{uuid.uuid4().hex}")
    folder.write("a", b"")
    with pytest.raises(StorageError, match=r"cannot write: .*a/b"):
        folder.write("a/b", b"")
