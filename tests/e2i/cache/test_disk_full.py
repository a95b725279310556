"""A disk that fills up: a clear error, and nothing half-written that is taken for whole."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_world import World, new_world

from e2i.cache.compact import compact_cache
from e2i.cache.reader import open_cache
from e2i.cache.verify import verify_cache
from e2i.errors import CacheIncompleteError, CacheNotFoundError, StorageFullError, is_transient
from e2i.storage import Folder

CLIPS = 6


def check_full(world: World, caught: pytest.ExceptionInfo[StorageFullError]) -> None:
    assert str(caught.value).startswith("no space is left to write: got No space left on device")
    assert "Free some or use another folder" in str(caught.value)
    assert not is_transient(caught.value)
    with pytest.raises((CacheIncompleteError, CacheNotFoundError)):
        open_cache(world.folder)
    assert not list(world.folder.local_path.rglob(".e2i-*.tmp"))


@pytest.mark.parametrize("writes", range(7))
def test_the_disk_fills_at_any_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    world = new_world(CLIPS, Folder(tmp_path / "cache"))
    done, flush = [], os.fsync

    def full(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_file():
            done.append(descriptor)
            if len(done) > writes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFullError) as caught:
        world.build(2)
    check_full(world, caught)
    monkeypatch.undo()
    world.build(2)
    assert open_cache(world.folder).load().clip_ids == tuple(world.texts)
    assert len(world.audio.seen) <= CLIPS + 2
    assert verify_cache(world.folder).faults == ()


def test_merging_on_a_full_disk_leaves_the_cache_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(CLIPS, Folder(tmp_path / "cache"))
    world.build(2)
    before = world.folder.files()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFullError):
        compact_cache(world.folder)
    monkeypatch.undo()
    assert world.folder.files() == before
    assert open_cache(world.folder).load().clip_ids == tuple(world.texts)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where this user may make one."""
    path = tmp_path / "tiny"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        pytest.skip("no right to mount a file system here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_real_disk_that_is_full(tiny_disk: Path) -> None:
    world = new_world(60, Folder(tiny_disk / "cache"))
    with pytest.raises(StorageFullError) as caught:
        world.build(4)
    check_full(world, caught)
    stored = sum(entry.size_bytes for entry in world.folder.files())
    assert stored > 0
    assert all(fault.kind == "incomplete" for fault in verify_cache(world.folder).faults)
