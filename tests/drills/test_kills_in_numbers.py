"""The drill of kills, with a few of each kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("where", "drills"),
    [
        ("disk", ["embed", "compact", "mirror"]),
        pytest.param("s3", ["embed", "compact"], marks=pytest.mark.long),
    ],
)
def test_a_few_kills_of_each_kind(where: str, drills: list[str]) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.kill_drill", "--kills", "3"),
            *("--where", where, "--what", ",".join(drills)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split()[:3] for line in done.stdout.splitlines()[1:]]
    assert rows == [[what, where, "3"] for what in drills]
