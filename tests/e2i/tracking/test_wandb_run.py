"""W&B never asks, hangs or fails a run; what it keeps offline is whole.

Runs that go as far as starting wandb are programs of their own: it keeps state in its process.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import pty
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from e2i.tracking import wandb_run
from e2i.tracking.config import TrackingConfig, WandbMode
from e2i.tracking.opening import RunIdentity, open_tracker
from e2i.tracking.wandb_run import Mode, WandbAccess, WandbRun, choose_mode

PROGRAM = Path(__file__).with_name("tracked_program.py")
KEY = "0123456789abcdef" * 3
LIMIT_S = 20.0


def _start(tmp_path: Path, mode: str, key: str, **more: Any) -> subprocess.Popen[bytes]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("WANDB_")
    }
    environment |= {"HOME": str(tmp_path / "home"), "TERM": "xterm"}
    environment |= more.pop("variables", {})
    arguments = [sys.executable, "-W", "error", str(PROGRAM), str(tmp_path / "logs")]
    return subprocess.Popen([*arguments, mode, key], env=environment, **more)


def _result(process: subprocess.Popen[bytes]) -> tuple[list[str], dict[str, float]]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == b""
    answer = json.loads(out)
    return answer["warnings"], answer["seconds"]


PIPES: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
}


def _records(folder: Path) -> list[dict[str, Any]]:
    """The offline run, as wandb's own tool reads it back."""
    (run,) = folder.glob("logs/wandb/offline-run-*")
    tool = Path(sys.executable).with_name("wandb")
    done = subprocess.run(
        [tool, "leet", "inspect", "--json", run],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "WANDB_ERROR_REPORTING": "false", "HOME": str(folder / "home")},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _assert_whole(records: list[dict[str, Any]]) -> None:
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    history: list[tuple[int, float]] = []
    for record in records:
        config |= record.get("config", {}).get("update", {})
        summary |= record.get("summary", {}).get("update", {})
        if "history" in record:
            item = record["history"]["item"]
            history.append((item["step"], item["loss"]))
    assert (config["lr"], config["heads"]) == (0.5, {"hidden_dim": 512})
    assert history == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert summary["text_to_audio_R@10"] == 0.75
    assert records[-1]["exit"]["exit_code"] == 0  # beside it, whole seconds where there were any


def test_the_run_can_be_found_and_names_what_lies_in_the_store(tmp_path: Path) -> None:
    process = _start(tmp_path, "unset", "no", **PIPES)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    links = json.loads(out)["links"]
    assert links["log"] == str(tmp_path / "logs" / "train" / "small.jsonl")
    (kept,) = tmp_path.glob("logs/wandb/offline-run-*")
    assert links["wandb"] == str(kept)
    records = _records(tmp_path)
    (run,) = (record["run"] for record in records if "run" in record)
    assert (run["job_type"], run["run_group"]) == ("train-projection", "sounds-logmel-hashing")
    assert run["tags"] == ["sounds", "logmel", "x" * 64]
    (artifact,) = (record["artifact"] for record in records if "artifact" in record)
    assert (artifact["type"], artifact["name"]) == ("model", "projection-heads")
    (entry,) = artifact["manifest"]["contents"]
    assert entry["ref"] == "s3://bucket/checkpoints/heads.safetensors"
    assert (entry["path"], entry["digest"]) == ("heads.safetensors", "0f" * 32)
    assert json.loads(artifact["metadata"])["facts"] == {"audio_fingerprint": "a1b2"}
    configured: dict[str, Any] = {}
    for record in records:
        configured |= record.get("config", {}).get("update", {})
    assert configured["links"]["log"] == links["log"]
    lines = (tmp_path / "logs" / "train" / "small.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["config"]["links"] == links
    for path in (tmp_path / "logs").rglob("*"):
        assert not path.is_file() or b"hush" not in path.read_bytes(), path


def _assert_no_secret(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert KEY.encode() not in data, path
            assert b"tracked_program.py" not in data, path  # command lines may hold tokens


def test_no_key_and_no_terminal_is_kept_offline(tmp_path: Path) -> None:
    warnings, seconds = _result(_start(tmp_path, "unset", "no", **PIPES))
    assert warnings == []
    assert sum(seconds.values()) < LIMIT_S
    _assert_whole(_records(tmp_path))
    _assert_no_secret(tmp_path / "logs")


@pytest.mark.parametrize("mode", ["unset", "online"])
def test_no_key_and_a_terminal_is_not_asked(tmp_path: Path, mode: str) -> None:
    ours, theirs = pty.openpty()
    started = time.monotonic()
    process = _start(
        tmp_path,
        mode,
        "no",
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        variables={"WANDB_BASE_URL": f"http://127.0.0.1:{_closed_port()}"},
    )
    os.close(theirs)
    shown = _read_all(ours, started + 120.0)
    assert process.wait(timeout=30) == 0, shown
    answer = json.loads(shown)  # and so nothing else is on the terminal
    assert sum(answer["seconds"].values()) < LIMIT_S
    assert len(answer["warnings"]) == (mode == "online")
    assert list(tmp_path.glob("logs/wandb/offline-run-*"))


def test_a_key_and_no_network_is_kept_offline(tmp_path: Path) -> None:
    variables = {
        "WANDB_API_KEY": KEY,
        "WANDB_BASE_URL": f"http://127.0.0.1:{_closed_port()}",
    }
    warnings, seconds = _result(_start(tmp_path, "unset", "key", variables=variables, **PIPES))
    (warning,) = warnings
    assert warning.startswith("W&B cannot be had, so the run is kept offline: no connection to ")
    assert "`wandb sync " in warning
    assert sum(seconds.values()) < LIMIT_S
    _assert_whole(_records(tmp_path))
    _assert_no_secret(tmp_path / "logs")


def test_a_server_that_takes_connections_and_says_nothing_has_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wandb_run, "_ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()
        assert wandb_run._no_answer(url, None)
        assert time.monotonic() - started < 2.0


@pytest.mark.slow
def test_what_was_logged_a_second_before_a_kill_is_there(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys, time\n"
        "from e2i.tracking.wandb_run import WandbRun\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "run = WandbRun('offline', 'e2i', run_name='n', run_id='i', folder=folder, warn=print)\n"
        "run.start({'lr': 0.5})\n"
        "for step in range(20):\n    run.log({'loss': 1.0}, step)\n"
        "time.sleep(2.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    logs = tmp_path / "logs"
    done = subprocess.run([sys.executable, "-c", code, logs], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    rows = [record["history"]["item"] for record in _records(tmp_path) if "history" in record]
    assert [row["step"] for row in rows] == list(range(20))


@pytest.mark.slow
def test_a_server_that_says_hello_and_no_more_is_left_for_offline(tmp_path: Path) -> None:
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        variables = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"http://127.0.0.1:{port}"}
        process = _start(tmp_path, "unset", "key", variables=variables, **PIPES)
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        warnings, _ = _result(process)
    assert time.monotonic() - started < LIMIT_S  # the end of the process included
    assert len(warnings) == 1
    assert "kept offline" in warnings[0]
    _assert_whole(_records(tmp_path))


def _log_in_this_process(log_dir: Path, mode: WandbMode) -> list[str]:
    warnings: list[str] = []
    config = TrackingConfig(log_dir=str(log_dir), wandb_mode=mode)
    run = RunIdentity("0123456789abcdef", dt.datetime(2026, 1, 31, 23, 59, 58, tzinfo=dt.UTC))
    tracker = open_tracker("eval", config, run, WandbAccess(), warnings.append)
    tracker.start({})
    tracker.finish("completed")
    return warnings


def test_disabled_leaves_the_log_file_alone(tmp_path: Path) -> None:
    assert _log_in_this_process(tmp_path, "disabled") == []
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["eval/20260131-235958-01234567.jsonl"]


def test_a_folder_that_cannot_be_written_costs_the_logs_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    warnings = _log_in_this_process(tmp_path / "file" / "logs", "offline")
    assert len(warnings) == 2
    assert warnings[0].startswith("W&B is off for the rest of this run: ")
    assert warnings[1].startswith("the log file is off for the rest of this run: ")


@pytest.mark.parametrize(
    ("wanted", "variable", "has_key", "mode"),
    [
        ("auto", "", False, "offline"),
        ("auto", "", True, "online"),
        ("auto", "offline", True, "offline"),
        ("auto", "dryrun", True, "offline"),
        ("auto", "disabled", True, "disabled"),
        ("auto", " Online ", False, "online"),
        ("auto", "nonsense", False, "offline"),
        ("offline", "online", True, "offline"),
        ("disabled", "online", True, "disabled"),
        ("online", "disabled", False, "online"),
    ],
)
def test_the_mode(wanted: WandbMode, variable: str, has_key: bool, mode: Mode) -> None:
    assert choose_mode(wanted, WandbAccess(variable, has_key)) == mode


@pytest.mark.parametrize(("mode", "other"), [("offline", "disabled"), ("online", "offline")])
def test_a_start_that_takes_too_long_is_left_behind_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode, other: str
) -> None:
    """As when wandb's own service hangs; late, it would keep the id of the run."""
    monkeypatch.setattr(wandb_run, "START_LIMIT_S", 0.1)
    monkeypatch.setattr(wandb_run, "OFFLINE_START_LIMIT_S", 0.1)
    run = WandbRun(mode, "e2i", run_name="n", run_id="i", folder=tmp_path, warn=pytest.fail)
    may_start, ended = threading.Event(), threading.Event()

    class LateRun:
        def finish(self, exit_code: int) -> None:
            assert exit_code == 1
            ended.set()

    def late(config: object) -> LateRun:
        may_start.wait(60)
        return LateRun()

    monkeypatch.setattr(run, "_open", late)
    with pytest.raises(RuntimeError) as caught:
        run.start({})
    assert str(caught.value) == (
        "W&B took too long to start: got no end within 0 s, expected one. "
        f"Use --wandb-mode {other}."
    )
    may_start.set()
    assert ended.wait(60)


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _read_all(descriptor: int, until: float) -> str:
    data = b""
    try:
        while time.monotonic() < until:
            if select.select([descriptor], [], [], 1.0)[0]:
                part = os.read(descriptor, 65536)
                if not part:
                    break
                data += part
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(descriptor)
    return data.decode()
