"""The local disk: the contract, also without hard links or folder locks, and its own faults."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2i.errors import (
    StorageError,
    StorageFullError,
    StoragePermissionError,
    StorageUnavailableError,
    is_transient,
)
from e2i.storage import Folder
from storage_contract import SharedStorageContract


class TestLocal(SharedStorageContract):
    @pytest.fixture
    def folder(self, tmp_path):
        return Folder(tmp_path / "my data #1 [50%]")


class TestLocalByUrl(SharedStorageContract):
    @pytest.fixture
    def folder(self, tmp_path):
        return Folder(f"file://{tmp_path}/100%25 ?x=1/")


class TestLocalWithoutHardLinks(SharedStorageContract):
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        def link(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", link)
        return Folder(tmp_path / "exfat")


class TestLocalWithoutFolderLocks(SharedStorageContract):
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        really = fcntl.flock

        def flock(descriptor: int, operation: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EBADF, "as NFS says")
            really(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", flock)
        return Folder(tmp_path / "nfs")


def test_several_processes_create_each_name_once(tmp_path):
    program = """
import sys
from e2i.storage import Folder
folder, me = Folder(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
print(" ".join(str(n) for n in range(200) if folder.create(f"shard-{n}", me.encode())))
"""
    won = _together(program, tmp_path, 3)
    claimed = [int(number) for line in won for number in line.split()]
    assert sorted(claimed) == list(range(200))
    for writer, line in enumerate(won):
        for number in line.split():
            assert (tmp_path / f"shard-{number}").read_bytes() == b"%d" % writer
    assert len(list(tmp_path.iterdir())) == 200


def test_several_processes_lose_no_update(tmp_path):
    program = """
import sys
from e2i.errors import StaleWriteError
from e2i.storage import Folder
folder = Folder(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    while True:
        value, version = folder.read_versioned("counter")
        try:
            folder.replace("counter", str(int(value) + 1).encode(), version)
            break
        except StaleWriteError:
            pass
print("done")
"""
    Folder(tmp_path).write("counter", b"0")
    assert _together(program, tmp_path, 3) == ["done"] * 3
    assert (tmp_path / "counter").read_bytes() == b"120"


def test_a_kill_while_writing_leaves_the_old_bytes_or_the_new(tmp_path):
    program = """
import sys
from e2i.storage import Folder
folder = Folder(sys.argv[1])
print("ready", flush=True)
while True:
    for letter in b"ab":
        folder.write("m", bytes([letter]) * 8_000_000)
"""
    folder = Folder(tmp_path)
    folder.write("m", b"c" * 8_000_000)
    for seed in range(4):
        process = _start(program, tmp_path)
        time.sleep(random.Random(seed).uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        data = folder.read("m")
        assert len(data) == 8_000_000
        assert len(set(data)) == 1
        assert [file.name for file in folder.files()] == ["m"]
    folder.write("m", b"d")
    assert folder.read("m") == b"d"


def _start(program: str, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _together(program: str, folder: Path, count: int) -> list[str]:
    """The last line of each of several processes, let go at the same moment."""
    processes = [_start(program, folder, number) for number in range(count)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.communicate(timeout=60)[0].strip() for process in processes]


@pytest.mark.parametrize(
    ("number", "kind", "transient", "text"),
    [
        (errno.ENOSPC, StorageFullError, False, "no space is left to write: got No space left"),
        (errno.EDQUOT, StorageFullError, False, "Free some or use another folder"),
        (errno.EACCES, StoragePermissionError, False, "not allowed to write: got Permission"),
        (errno.EPERM, StoragePermissionError, False, "Check the owner and mode of the folder"),
        (errno.EROFS, StoragePermissionError, False, "got Read-only file system"),
        (errno.EIO, StorageUnavailableError, True, "the store does not answer to write"),
        (errno.ESTALE, StorageUnavailableError, True, "then try again"),
        (errno.EMFILE, StorageError, False, "ulimit -n"),
        (errno.EFBIG, StorageError, False, "cannot write: got File too large"),
    ],
)
@pytest.mark.parametrize("call", ["write", "create", "replace"])
def test_a_failed_write_says_why_and_leaves_nothing(
    tmp_path, monkeypatch, number, kind, transient, text, call
):
    folder = Folder(tmp_path / "new")
    folder.write("old", b"1")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(kind, match=text) as caught:
            getattr(folder, call)("x", b"data", *([None] if call == "replace" else []))
    assert str(tmp_path / "new" / "x") in str(caught.value)
    assert caught.value.errno == number
    assert is_transient(caught.value) is transient
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["old"]


@pytest.fixture
def ordinary_user():
    """Root may write everywhere, so a test of permissions is run as somebody else."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_a_folder_that_may_not_be_written(tmp_path, ordinary_user):
    with contextlib.suppress(PermissionError):
        tmp_path.chmod(0o500)
    with pytest.raises(StoragePermissionError, match="not allowed to write: got Permission denied"):
        Folder(tmp_path).write("a", b"")
    with contextlib.suppress(PermissionError):
        tmp_path.chmod(0o700)


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder, name in [(Folder(tmp_path), "file/x"), (Folder(tmp_path / "file"), "x")]:
        with pytest.raises(StorageError, match="A file lies where a folder is needed"):
            folder.write(name, b"")
    with pytest.raises(StorageError, match="A file lies where a folder is needed"):
        Folder(tmp_path / "file").files()


@pytest.mark.parametrize("call", ["write", "create", "replace"])
def test_a_folder_in_the_place_of_a_file(tmp_path, call):
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="A folder lies there"):
        getattr(Folder(tmp_path), call)("folder", b"", *([None] if call == "replace" else []))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_name_of_the_longest_length_and_one_more(tmp_path):
    folder = Folder(tmp_path)
    folder.write("a" * 255, b"1")
    assert folder.read("a" * 255) == b"1"
    with pytest.raises(StorageError, match=r"File name too long .* Use a shorter name"):
        folder.write("a" * 256, b"1")


def test_versions_differ_even_when_the_clock_stands_still(tmp_path, monkeypatch):
    folder = Folder(tmp_path)
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
    versions = []
    for number in range(10):
        folder.write("m", b"%d" % number)
        versions.append(folder.read_versioned("m")[1])
    assert len(set(versions)) == 10


def test_files_have_the_mode_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        Folder(tmp_path).write("a", b"")
        Folder(tmp_path).create("b", b"")
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {0o640}


def test_links_are_followed_but_not_in_circles(tmp_path):
    folder = Folder(tmp_path / "data")
    folder.write("a/x", b"1")
    Folder(tmp_path / "elsewhere").write("y", b"2")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "circle").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "broken").symlink_to(tmp_path / "nowhere")
    assert [file.name for file in folder.files()] == ["a/x", "linked/y"]
    assert folder.read("linked/y") == b"2"
    assert folder.info("broken") is None


def test_leftovers_of_killed_writers_are_in_nobodys_way(tmp_path):
    (tmp_path / ".e2i-0123.tmp").write_bytes(b"half")
    (tmp_path / ".e2i-lock").write_bytes(b"")
    folder = Folder(tmp_path)
    assert folder.files() == []
    assert folder.create("a", b"1")
    assert [file.name for file in folder.files()] == ["a"]


def test_old_leftovers_are_swept(tmp_path):
    folder = Folder(tmp_path)
    folder.write("audio/a", b"1")
    old, young = tmp_path / "audio" / ".e2i-0123.tmp", tmp_path / ".e2i-4567.tmp"
    lock, other = tmp_path / ".e2i-lock", tmp_path / "old.tmp"
    for path in (old, young, lock, other):
        path.write_bytes(b"half")
    for path in (old, lock, other):
        os.utime(path, (0, 0))
    assert folder.sweep(3600.0) == 1
    assert not old.exists()
    assert all(path.exists() for path in (young, lock, other))
    assert folder.read("audio/a") == b"1"
    assert Folder(tmp_path / "nothing-there").sweep(0.0) == 0


def test_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    relative = Folder("some/../data")
    monkeypatch.chdir("/")
    assert relative.url == str(tmp_path / "data")
    assert relative.local_path == tmp_path / "data"
    assert Folder("~/x").url == str(tmp_path / "home" / "x")
    assert Folder("file:///tmp/a%20b").local_path == Path("/tmp/a%20b")
    assert Folder("local:///tmp/x") == Folder("/tmp/x/")
    assert Folder(Path("/tmp/x")) == Folder("/tmp/x")


def test_the_disk_needs_no_fsspec():
    program = (
        "import sys; from e2i.storage import Folder; Folder('/tmp').files('nothing-there');"
        "print([name for name in ('fsspec', 's3fs', 'aiohttp', 'prefect') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
