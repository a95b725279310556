"""Files on their way into a folder of this machine, and those that killed processes left behind.

Conventions: what is fetched is written to a folder of its own beside its place, and moved there
when it is whole. Whoever writes holds a lock on that folder, which the system lets go of when the
process ends, however it ends: so what nobody holds is litter, and the next one who writes here
deletes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".unfinished-"


@contextlib.contextmanager
def unfinished(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, which is made if need be; it is gone afterwards.

    Raises:
        OSError: the disk refuses.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    folder, lock = _held_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _held_folder(parent: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that holds it."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=_PREFIX))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # swept before it was held
            continue
        if _lock(lock) is not False and os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)


def _sweep(parent: Path) -> None:
    """Delete what nobody holds."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        if _lock(lock):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(descriptor: int) -> bool | None:
    """Whether it could be held; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
