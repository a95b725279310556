from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.file_locks import Lock

HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, {})
print("held", flush=True)
time.sleep(60)
"""


def _is_free(path: Path) -> bool:
    if (lock := Lock.try_acquire(path, fcntl.LOCK_EX)) is None:
        return False
    lock.release()
    return True


def _wait_until_free(path: Path) -> None:
    Lock.acquire(path, fcntl.LOCK_EX, 10).release()


def test_shared_by_many_exclusive_to_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = (Lock.acquire(path, fcntl.LOCK_SH, 1) for _ in range(2))
    assert not _is_free(path)
    first.release()
    assert not _is_free(path)
    second.release()
    with Lock.acquire(path, fcntl.LOCK_EX, 1):
        assert Lock.try_acquire(path, fcntl.LOCK_SH) is None
    assert _is_free(path)


def test_releasing_again_leaves_others_alone(tmp_path: Path) -> None:
    lock = Lock.acquire(tmp_path / "one", fcntl.LOCK_EX, 1)
    lock.release()
    other = Lock.acquire(tmp_path / "other", fcntl.LOCK_EX, 1)
    assert other.descriptor == lock.descriptor  # the system gives the number out again
    other.forget()
    lock.release()
    with Lock.acquire(tmp_path / "other", fcntl.LOCK_EX, 1):
        pass


def test_says_how_long_it_waited(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock.acquire(path, fcntl.LOCK_EX, 1), pytest.raises(TimeoutError) as caught:
        Lock.acquire(path, fcntl.LOCK_SH, 0.1)
    assert str(caught.value) == f"no lock on {path} within 0 s"


@pytest.mark.parametrize("operation", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_killed_holder_holds_nothing(tmp_path: Path, operation: int) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(operation), str(path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert not _is_free(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert _is_free(path)


def test_started_children_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = Lock.acquire(path, fcntl.LOCK_EX, 1)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        os.close(lock.descriptor)  # as the kernel does at SIGKILL: closed, not unlocked
        _wait_until_free(path)
        child.kill()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_children_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = Lock.acquire(path, fcntl.LOCK_EX, 1)
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    lock.forget()
    _wait_until_free(path)
    assert child.is_alive()
    child.kill()
    child.join()


def test_who_is_given_the_descriptor_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = Lock.acquire(path, fcntl.LOCK_EX, 1)
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=(lock.descriptor,)
    ) as child:
        lock.forget()
        assert not _is_free(path)
        child.kill()
        child.wait()
        _wait_until_free(path)
