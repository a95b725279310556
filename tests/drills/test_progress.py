"""What each command prints: one JSON object on stdout, bars on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from recordings import write_data_set

from conftest import PROGRAM

KEYS = {
    *("command", "flow_run_id", "locations", "counts", "metrics"),
    *("notes", "details", "seconds"),
}
ENCODERS = ("--audio-encoder", "logmel", "--text-encoder", "hashing")
CLIPS = 21
ESCAPE = "\x1b"


class Place:
    """Recordings as foreign as they come, and the folders of the commands on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.metadata = write_data_set(root / "data", CLIPS, foreign=True)
        self.cache = root / "embeddings" / "development"
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"},
            "PREFECT_HOME": str(root / "prefect"),
            "TERM": "xterm",
            "COLUMNS": "100",
        }

    def call(self, *arguments: str, stderr: int = subprocess.PIPE) -> tuple[dict[str, Any], str]:
        done = subprocess.run(
            [PROGRAM, *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=self.environment,
            cwd=self.root,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("\n")
        (line,) = done.stdout.splitlines()
        answer = json.loads(line)
        assert set(answer) == KEYS
        return answer, done.stderr

    def call_on_a_terminal(self, *arguments: str) -> tuple[dict[str, Any], str]:
        """The same with stderr on a terminal, and all that is shown there."""
        shown: list[bytes] = []
        ours, theirs = pty.openpty()
        try:
            reader = threading.Thread(target=_drain, args=(ours, shown), daemon=True)
            reader.start()
            answer, _ = self.call(*arguments, stderr=theirs)
        finally:
            os.close(theirs)
        reader.join(10)
        os.close(ours)
        return answer, b"".join(shown).decode()

    def embed(self, cache: Path) -> tuple[str, ...]:
        files = ("--metadata", str(self.metadata), "--cache-dir", str(cache))
        return ("cache-embeddings", *files, *ENCODERS, "--chunk-size", "4")


def _drain(terminal: int, shown: list[bytes]) -> None:
    while True:
        try:
            data = os.read(terminal, 65_536)
        except OSError:  # the other end is closed
            return
        if not data:
            return
        shown.append(data)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("progress"))


def _lines(stderr: str) -> list[str]:
    """What a file or a pipe gets: lines without a trace of bars."""
    assert ESCAPE not in stderr
    assert "\r" not in stderr
    assert "Traceback" not in stderr
    return stderr.splitlines()


@pytest.fixture(scope="module")
def cache(place: Place) -> Path:
    answer, stderr = place.call(*place.embed(place.cache))
    assert answer["command"] == "cache-embeddings"
    assert answer["flow_run_id"]
    assert answer["locations"]["cache"] == str(place.cache)
    counts = answer["counts"]
    assert (counts["clips"], counts["captions"]) == (CLIPS, 5 * CLIPS)
    assert (counts["embedded"], counts["reused"], counts["failed"]) == (CLIPS, 0, 0)
    begun, *_, ended = _lines(stderr)
    assert begun == f"embed data development: {6 * CLIPS} clips and captions"
    assert re.fullmatch(
        r"embed data development: 21 clips and 105 captions embedded in .* s", ended
    )
    return place.cache


@pytest.fixture(scope="module")
def checkpoint(place: Place, cache: Path) -> Path:
    answer, stderr = place.call(
        *("train-projection", "--cache-dir", str(cache), "--output-dir", str(place.root / "heads")),
        *("--epochs", "2", "--device", "cpu", "--wandb-mode", "disabled"),
    )
    assert answer["command"] == "train-projection"
    (chosen_by,) = (name for name in answer["metrics"] if "text_to_audio_mAP@" in name)
    assert answer["metrics"][chosen_by]["value"] > 0  # of fewer clips than 10, by its own name
    assert _lines(stderr)
    return Path(answer["locations"]["checkpoint"])


def test_embedding_and_training(checkpoint: Path) -> None:
    assert checkpoint.is_file()


def test_images(place: Place, cache: Path) -> None:
    answer, stderr = place.call("cache-images", "--cache-dir", str(cache), "--image-size", "16")
    assert answer["command"] == "cache-images"
    assert answer["counts"]["images_rendered"] == CLIPS + 5 * CLIPS
    assert Path(answer["locations"]["images"]).is_dir()
    assert _lines(stderr)


def test_evaluation(place: Place, cache: Path, checkpoint: Path) -> None:
    files = ("--cache-dir", str(cache), "--checkpoint", str(checkpoint))
    options = ("--wandb-mode", "disabled", "--device", "cpu")
    answer, stderr = place.call("eval-projection", *files, *options)
    assert answer["command"] == "eval-projection"
    score = answer["metrics"]["text_to_audio_R@1"]
    assert set(score) == {"value", "low", "high", "chance"}
    assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
    _lines(stderr)


def test_the_quick_commands(place: Place, cache: Path) -> None:
    answer, stderr = place.call("cache", "info", "--cache-dir", str(cache))
    assert answer["command"] == "cache info"
    assert answer["counts"]["clips"] == CLIPS
    assert stderr == ""
    answer, stderr = place.call("doctor", *ENCODERS, "--metadata", str(place.metadata))
    assert answer["command"] == "doctor"
    assert answer["counts"]["problems"] == 0
    assert {check["status"] for check in answer["details"]["checks"]} <= {"ok", "warning"}
    assert stderr == ""


def test_bars_on_a_terminal(place: Place) -> None:
    answer, shown = place.call_on_a_terminal(*place.embed(place.root / "on a terminal"))
    assert answer["counts"]["embedded"] == CLIPS
    assert f"/{6 * CLIPS}" in shown
    assert "\x1b[2K" in shown  # a line wiped, to be drawn anew
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") >= 1  # the cursor is back
    wiped = re.split(r"\x1b\[[0-9;?]*[A-Za-z]|\r", shown)
    assert any(re.match(r"embed data development: 21 clips", part.strip()) for part in wiped)


def test_no_progress_is_silent_on_a_terminal(place: Place, cache: Path) -> None:
    answer, shown = place.call_on_a_terminal(
        *("cache-images", "--cache-dir", str(cache), "--image-size", "8", "--no-progress")
    )
    assert answer["counts"]["images_rendered"] == 6 * CLIPS
    assert shown == ""
