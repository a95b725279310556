"""Locks between processes that the kernel releases however their holder ends.

Conventions: `flock` on a file that stays. A lock belongs to the open file, not to the process, so
it passes to whoever is given the descriptor; children get none unless it is passed on purpose,
forked ones included.

Source: Linux and BSD flock(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

POLL_S = 0.02

_open_locks: set[int] = set()


def _close_locks_in_child() -> None:
    """A forked child that kept them open would hold the locks after its parent's end."""
    while _open_locks:
        with contextlib.suppress(OSError):
            os.close(_open_locks.pop())


os.register_at_fork(after_in_child=_close_locks_in_child)


@dataclass
class Lock:
    """A held lock; as a context manager it is released at the end."""

    path: Path
    descriptor: int

    @classmethod
    def try_acquire(cls, path: Path, operation: int) -> Lock | None:
        """Take the lock (`fcntl.LOCK_SH` or `LOCK_EX`) if it is free; None if it is not."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _open_locks.add(descriptor)
        lock = cls(path, descriptor)
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.forget()
            return None
        except OSError:
            lock.forget()
            raise
        return lock

    @classmethod
    def acquire(cls, path: Path, operation: int, timeout_s: float) -> Lock:
        """Take the lock, waiting for it.

        Raises:
            TimeoutError: it is not free within the time.
        """
        deadline = time.monotonic() + timeout_s
        while (lock := cls.try_acquire(path, operation)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no lock on {path} within {timeout_s:.0f} s")
            time.sleep(POLL_S)
        return lock

    def forget(self) -> None:
        """Close the file without unlocking it: a process that was given it keeps the lock."""
        _open_locks.discard(self.descriptor)
        os.close(self.descriptor)

    def release(self) -> None:
        """Let go of the lock; again is fine."""
        if self.descriptor in _open_locks:
            # Unlocked in so many words, for a process forked behind Python's back may hold a copy.
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            self.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
