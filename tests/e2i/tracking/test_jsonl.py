"""The log file: its lines, what a kill costs, and several writers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from e2i.errors import StorageError
from e2i.storage import Folder
from e2i.tracking import jsonl
from e2i.tracking.jsonl import JsonLines
from e2i.tracking.tracker import StoredArtifact


@pytest.fixture(params=["file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "file":
        return Folder(tmp_path / "logs")
    return Folder(f"memory://{uuid.uuid4().hex}/logs")


def _entries(folder: Folder, name: str = "small.jsonl") -> list[dict[str, object]]:
    return [json.loads(line) for line in folder.read(name).decode().splitlines()]


def _log(lines: JsonLines) -> None:
    lines.start({"lr": 0.5, "heads": {"hidden_dim": 512}})
    lines.log({"loss": 1.0, "text_to_audio_R@10": math.nan}, 1)
    lines.log({"loss": 0.5, "text_to_audio_R@10": 0.25}, 2)
    lines.summary({"best": 0.5})
    lines.summary({"epochs": 2})
    lines.finish("completed")


def test_configuration_then_steps_then_summary(folder: Folder) -> None:
    _log(JsonLines(folder, "small", "id-1"))
    entries = _entries(folder)
    for entry in entries:
        assert str(entry.pop("time")).endswith("+00:00")
    assert entries[0].pop("e2i_version")
    config = {"lr": 0.5, "heads": {"hidden_dim": 512}}
    assert entries == [
        {"kind": "configuration", "run": "small", "run_id": "id-1", "config": config},
        {"kind": "step", "step": 1, "loss": 1.0, "text_to_audio_R@10": None},
        {"kind": "step", "step": 2, "loss": 0.5, "text_to_audio_R@10": 0.25},
        {"kind": "summary", "status": "completed", "values": {"best": 0.5, "epochs": 2.0}},
    ]


def test_what_lies_in_the_store_is_a_line(folder: Folder) -> None:
    lines = JsonLines(folder, "small", "id-1")
    assert lines.links() == {"log": f"{folder.url}/small.jsonl"}
    lines.artifact(StoredArtifact("heads", "model", "s3://key:hush@bucket/heads", "0f", {"a": "b"}))
    (entry,) = _entries(folder)
    del entry["time"]
    assert entry == {
        **{"kind": "artifact", "artifact": "model", "name": "heads"},
        **{"url": "s3://bucket/heads", "sha256": "0f", "facts": {"a": "b"}},
    }


def test_a_run_under_the_same_name_adds_to_the_file(folder: Folder) -> None:
    for run_id in ("first", "second"):
        _log(JsonLines(folder, "small", run_id))
    entries = _entries(folder)
    assert [entry["kind"] for entry in entries] == 2 * ["configuration", "step", "step", "summary"]
    assert [entries[0]["run_id"], entries[4]["run_id"]] == ["first", "second"]


def test_two_writers_at_once_lose_no_line(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "PUT_EVERY_S", 0.0)
    one, two = JsonLines(folder, "small", "one"), JsonLines(folder, "small", "two")
    one.start({})
    two.start({})
    for step in range(5):
        one.log({"of": 1}, step)
        two.log({"of": 2}, step)
    steps = [(entry["of"], entry["step"]) for entry in _entries(folder) if "of" in entry]
    assert steps == [(of, step) for step in range(5) for of in (1, 2)]


def test_an_object_store_gets_steps_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(f"memory://{uuid.uuid4().hex}/logs")
    now = [100.0]
    monkeypatch.setattr(jsonl.time, "monotonic", lambda: now[0])
    lines = JsonLines(folder, "small")
    stored: list[int] = []
    lines.start({})
    for step in range(6):
        now[0] += 0.4
        lines.log({}, step)
        stored.append(len(_entries(folder)) - 1)
    assert stored == [0, 0, 3, 3, 3, 6]


def test_an_answer_that_was_lost_doubles_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(f"memory://{uuid.uuid4().hex}/logs")
    replace: Callable[..., str] = folder.replace
    times = 0

    def stores_twice(name: str, data: bytes, version: str | None) -> str:
        """What a client that tries again by itself does when the first answer is lost."""
        nonlocal times
        times += 1
        written = replace(name, data, version)
        return replace(name, data, version) if times == 2 else written

    monkeypatch.setattr(folder, "replace", stores_twice)
    _log(JsonLines(folder, "small"))
    kinds = [entry["kind"] for entry in _entries(folder)]
    assert kinds == ["configuration", "step", "step", "summary"]


def test_a_line_that_was_cut_off_stays_alone(tmp_path: Path) -> None:
    path = tmp_path / "small.jsonl"
    path.write_bytes(b'{"kind": "configuration"}\n{"kind": "st')
    _log(JsonLines(Folder(tmp_path), "small"))
    lines = path.read_text().splitlines()
    assert lines[1] == '{"kind": "st'
    assert json.loads(lines[2])["kind"] == "configuration"


def test_what_was_logged_before_a_kill_is_there(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from e2i.storage import Folder\n"
        "from e2i.tracking.jsonl import JsonLines\n"
        f"lines = JsonLines(Folder({str(tmp_path)!r}), 'small')\n"
        "lines.start({})\n"
        "for step in range(100):\n    lines.log({'loss': 1.0}, step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [entry.get("step") for entry in _entries(Folder(tmp_path))] == [None, *range(100)]


def test_on_a_real_s3_server(s3_folder: Folder) -> None:
    for run_id in ("first", "second"):
        _log(JsonLines(s3_folder, "small", run_id))
    kinds = [entry["kind"] for entry in _entries(s3_folder)]
    assert kinds == 2 * ["configuration", "step", "step", "summary"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((OSError, StorageError)):
        JsonLines(Folder(tmp_path / "file" / "logs"), "small").start({})
