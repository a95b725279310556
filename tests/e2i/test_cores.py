"""How many cores there are to use: those allowed, and no more than the container's share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from e2i import cores
from e2i.cores import usable_cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of a machine of 16 cores, to be filled."""
    monkeypatch.setattr(cores, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    (tmp_path / "groups").mkdir()
    return tmp_path


def put(groups: Path, own: str, files: dict[str, str]) -> None:
    (groups / "own").write_text(own)
    for name, content in files.items():
        path = groups / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 16),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n"}, 4),
        ("0::/not/seen/here\n", {"cpu.max": "200000 100000\n"}, 2),
        (
            "5:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        (
            "5:cpu,cpuacct:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            16,
        ),
        ("0::/\n", {"cpu.max": "nonsense"}, 16),
        ("0::/\n", {}, 16),
    ],
)
def test_a_containers_share_counts(
    groups: Path, own: str, files: dict[str, str], expected: int
) -> None:
    put(groups, own, files)
    assert usable_cores() == expected


def test_where_there_are_no_groups_the_cores_allowed_count(groups: Path) -> None:
    assert usable_cores() == 16
