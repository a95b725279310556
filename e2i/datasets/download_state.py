"""What of a data root is known to be right, so that nothing is fetched, summed or unpacked twice.

`.e2i-download.json` in the data root names each file that was checked, with size and modification
time of then, and each split that was unpacked, with its recordings and their sizes. A file that
was touched since is summed again; a split that lacks a recording, or has one of another size, is
not whole. Losing this file costs time, nothing else.

`.e2i-download.lock` is held while a run works on the data root; a second one waits for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from e2i.datasets.disk_space import in_words
from e2i.storage import translation

STATE_NAME = ".e2i-download.json"
LOCK_NAME = ".e2i-download.lock"
_BLOCK_BYTES = 1 << 20
_POLL_S = 0.2


class DownloadState:
    """The record of one data root; its methods may be called from any thread.

    Args:
        root: the data root.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._files: dict[str, Any] = {}
        self._splits: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError, AttributeError, TypeError):
            stored = json.loads((root / STATE_NAME).read_bytes())
            self._files = dict(stored["files"])
            self._splits = dict(stored["splits"])

    def is_checked(self, path: Path, md5: str) -> bool:
        """Whether the file was found to have this sum, and was not touched since."""
        known = self._files.get(self._key(path))
        return known is not None and known == _described(path, md5)

    def check(self, path: Path, md5: str, note: Callable[[str], None]) -> bool:
        """Whether the file has this sum; sums it only if that is not known.

        Raises:
            StorageError: it cannot be read.
        """
        if not path.is_file():
            return False
        if self.is_checked(path, md5):
            return True
        note(f"{path.name}: summing what is there ({in_words(path.stat().st_size)}).")
        try:
            with path.open("rb") as file:
                found = hashlib.md5(usedforsecurity=False)
                while block := file.read(_BLOCK_BYTES):
                    found.update(block)
        except OSError as error:
            raise translation.from_os_error(error, "read", str(path)) from error
        if found.hexdigest() != md5:
            note(f"{path.name}: what is there is not the expected file; fetching it.")
            return False
        self.remember_file(path, md5)
        return True

    def remember_file(self, path: Path, md5: str) -> None:
        """The file has this sum now."""
        with self._lock:
            self._files[self._key(path)] = _described(path, md5)
            self._save()

    def is_whole(self, split: str, folder: Path, archive_md5: str) -> bool:
        """Whether the split was unpacked from this archive, and nothing of it is missing now."""
        known = self._splits.get(split)
        if not isinstance(known, dict) or known.get("archive_md5") != archive_md5:
            return False
        files: Mapping[str, int] = known["files"]
        return bool(files) and all(_size_bytes(folder / name) == files[name] for name in files)

    def num_recordings(self, split: str) -> int:
        """Recordings of a split that was unpacked."""
        return len(self._splits[split]["files"])

    def remember_split(self, split: str, archive_md5: str, sizes: Mapping[str, int]) -> None:
        """The split is unpacked: its recordings with their sizes in bytes."""
        with self._lock:
            self._splits[split] = {"archive_md5": archive_md5, "files": dict(sizes)}
            self._save()

    def forget_split(self, split: str) -> None:
        """The split is about to change."""
        with self._lock:
            if self._splits.pop(split, None) is not None:
                self._save()

    def _key(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _save(self) -> None:
        path = self._root / STATE_NAME
        temporary = path.with_name(f"{STATE_NAME}.tmp")
        content = {"files": self._files, "splits": self._splits}
        try:
            temporary.write_text(json.dumps(content, indent=1), encoding="ascii")
            temporary.replace(path)
        except OSError as error:
            raise translation.from_os_error(error, "write", str(path)) from error


@contextlib.contextmanager
def locked(root: Path, note: Callable[[str], None]) -> Iterator[None]:
    """The data root, for this run alone.

    Raises:
        StorageError: the data root cannot be written.
    """
    path = root / LOCK_NAME
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise translation.from_os_error(error, "write", str(path)) from error
    try:
        said = False
        while not _try_lock(descriptor):
            if not said:
                note(f"another run is downloading to {root}; waiting for it to end.")
                said = True
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system that knows no locks (some network mounts): one run at a time is up to users.
        return True
    return True


def _described(path: Path, md5: str) -> dict[str, Any] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return {"md5": md5, "size_bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def _size_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
