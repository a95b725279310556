"""What is on its way into a folder: whole or not there, and no litter of who was killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2i.encoders import unfinished as module
from e2i.encoders.unfinished import unfinished

HOLD = """
import sys, time
from pathlib import Path
from e2i.encoders.unfinished import unfinished
with unfinished(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"half of it")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_is_written_is_moved_and_nothing_stays(tmp_path: Path) -> None:
    place = tmp_path / "new" / "folder"
    with unfinished(place) as folder:
        (folder / "a").write_text("whole")
        (folder / "a").replace(place / "a")
    assert [path.name for path in place.iterdir()] == ["a"]
    with contextlib.suppress(RuntimeError), unfinished(place) as folder:
        (folder / "b").write_text("half")
        raise RuntimeError
    assert [path.name for path in place.iterdir()] == ["a"]


def test_the_next_one_deletes_what_the_killed_left_and_no_more(tmp_path: Path) -> None:
    writing = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writing.stdout is not None
        assert writing.stdout.readline() == "writing\n"
        (theirs,) = tmp_path.iterdir()
        with unfinished(tmp_path) as ours:
            assert set(tmp_path.iterdir()) == {theirs, ours}, "somebody is still at it"
        writing.send_signal(signal.SIGKILL)
        writing.wait()
        assert (theirs / "half").is_file()
        with unfinished(tmp_path) as ours:
            assert list(tmp_path.iterdir()) == [ours]
    finally:
        writing.kill()
        writing.wait()
        writing.stdout.close()
    assert not list(tmp_path.iterdir())


def test_many_at_once_leave_each_other_alone(tmp_path: Path) -> None:
    def write(number: int) -> None:
        with unfinished(tmp_path) as folder:
            (folder / "it").write_text(str(number))
            assert (folder / "it").read_text() == str(number)
            (folder / "it").replace(tmp_path / str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(64)))
    assert {path.name for path in tmp_path.iterdir()} == {str(number) for number in range(64)}


def test_without_locks_nothing_is_taken_for_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with unfinished(tmp_path) as one, unfinished(tmp_path) as other:
        assert set(tmp_path.iterdir()) == {one, other}
