"""Recordings, folders and disks that cannot be used: they cost what they must, and nothing else."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from bad_input_program import (
    RATE,
    Outcome,
    World,
    e2i,
    embed,
    write_metadata,
    write_recordings,
)

NOBODY = 65_534
PROGRAM = str(Path(sys.executable).with_name("e2i"))


@contextlib.contextmanager
def somebody() -> Iterator[None]:
    """As a user whom file modes bind: root would read and write everything."""
    if os.geteuid() != 0:
        yield
        return
    group = os.getegid()
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


@pytest.fixture
def open_folder(world: World) -> Iterator[Path]:
    """A folder that every user may write to, in folders that every user may enter.

    By now all is imported that the program needs: others may not be able to read it.
    """
    folder = Path(tempfile.mkdtemp(prefix="e2i-bad-input-"))
    folder.chmod(0o777)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o777)
    shutil.rmtree(folder)


def wav(samples: np.ndarray, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype=subtype)
    return file.getvalue()


WHOLE = wav(np.random.default_rng(1).uniform(-0.3, 0.3, RATE // 4))
PROMISE = WHOLE.index(b"data") + 4
BROKEN = {
    "empty.wav": (b"", "is empty: got 0 bytes, expected audio."),
    "text.wav": (b"these are words\n" * 99, "cannot be decoded: got 'Format not recognised'"),
    "truncated.wav": (WHOLE[:-999], "is truncated: got 3,001 bytes of samples, expected the 4,000"),
    "truncated header.wav": (WHOLE[:20], "cannot be decoded"),
    "zero length.wav": (WHOLE[:PROMISE] + bytes(4), "has no samples: got 0, expected at least 1."),
    "nan.wav": (
        wav(np.array([0.0, np.nan] * 99), "FLOAT"),
        "holds samples that are not finite: got nan at sample 1, expected numbers.",
    ),
    "huge header.wav": (
        WHOLE[:PROMISE] + b"\xff" * 4 + WHOLE[PROMISE + 4 :],
        "is truncated: got 4,000 bytes of samples, expected the 4,294,967,295",
    ),
    "absent.wav": (None, "there is no recording: got 'absent.wav', expected a file below"),
    "folder.wav": (None, "there is no recording: got 'folder.wav', expected a file below"),
    "pipe.wav": (None, "there is no recording: got 'pipe.wav', expected a file below"),
    "dangling.wav": (None, "there is no recording: got 'dangling.wav', expected a file below"),
    "unreadable.wav": (WHOLE, "not allowed to read: got Permission denied for"),
    "link.wav": (None, "leads out of the audio root: got 'link.wav', a link to"),
    "../outside.wav": (None, "audio name has '..' in it: got '../outside.wav', expected a name"),
    "{outside}": (None, "audio name lies outside the audio root: got '/"),
    "s3://else/a.wav": (None, "audio name lies outside the audio root: got 's3://else/a.wav'"),
}
GOOD = 20


def write_broken(root: Path) -> tuple[Path, dict[str, str]]:
    """Good recordings and one of each broken kind; the metadata, and the reason by clip id."""
    audio = root / "audio"
    names = write_recordings(audio, GOOD)
    outside = root / "outside.wav"
    outside.write_bytes(WHOLE)
    reasons = {}
    for name, (data, reason) in BROKEN.items():
        reasons[name.format(outside=outside)] = reason
        if data is not None:
            (audio / name).write_bytes(data)
    (audio / "unreadable.wav").chmod(0)
    (audio / "folder.wav").mkdir()
    os.mkfifo(audio / "pipe.wav")
    (audio / "dangling.wav").symlink_to(audio / "nothing.wav")
    (audio / "link.wav").symlink_to(outside)
    mixed = [name for pair in zip(names, reasons, strict=False) for name in pair]
    return write_metadata(audio / "evaluation.csv", [*mixed, *names[len(reasons) :]]), reasons


def failures_in(cache: Path) -> dict[str, str]:
    lines = (cache / "failures.jsonl").read_text().splitlines()
    return {failure["id"]: failure["reason"] for failure in map(json.loads, lines)}


def assert_each_is_named(cache: Path, reasons: dict[str, str]) -> None:
    found = failures_in(cache)
    assert found.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in found[name]


def stored_clips(cache: Path) -> list[str]:
    shards = (cache / "audio").iterdir()
    return sorted(name for path in shards for name in pq.read_table(path)["clip_id"].to_pylist())


def test_a_broken_recording_costs_itself_only(open_folder: Path) -> None:
    source, reasons = write_broken(open_folder)
    cache = open_folder / "cache"
    call = [*embed(source, cache, "--chunk-size", "7"), "--json"]
    with somebody():
        outcome = e2i(*call, "--max-failures", str(len(reasons)))
    assert outcome.code == 0, outcome.err
    counts = json.loads(outcome.out)["counts"]
    expected = {"clips": GOOD + len(reasons), "embedded": GOOD, "failed": len(reasons)}
    assert counts.items() >= expected.items()
    assert counts["captions_without_clip"] == 2 * len(reasons)
    assert_each_is_named(cache, reasons)
    assert stored_clips(cache) == sorted(f"good {number}.wav" for number in range(GOOD))

    with somebody():
        refused = e2i(*call)
    assert (refused.code, refused.out) == (1, "")
    assert f"got {len(reasons)} of {GOOD + len(reasons)}, expected at most 1" in refused.err
    assert "failures.jsonl" in refused.err
    assert "raise --max-failures; what is stored is kept." in refused.err
    assert_each_is_named(cache, reasons)
    assert len(stored_clips(cache)) == GOOD

    for name in ("empty.wav", "text.wav", "absent.wav"):
        (source.parent / name).write_bytes(WHOLE)
    with somebody():
        mended = e2i(*call, "--max-failures", "0.5")
    counts = json.loads(mended.out)["counts"]
    expected = {"embedded": 3, "reused": GOOD, "failed": len(reasons) - 3}
    assert counts.items() >= expected.items()
    assert len(stored_clips(cache)) == GOOD + 3


def test_no_recording_at_all_is_a_failure_whatever_may_fail(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    source = write_metadata(tmp_path / "a.csv", ["a.wav"])
    outcome = e2i(*embed(source, tmp_path / "cache", "--max-failures", "5"))
    assert outcome.code == 1
    assert "recording 'a.wav' is empty" in outcome.err
    assert failures_in(tmp_path / "cache").keys() == {"a.wav"}


LOCKED: list[tuple[str, Callable[[Path, Path], tuple[Path, int, list[str]]], str]] = [
    (
        "cache in a folder that is not ours",
        lambda data, cache: (data, 0o555, embed(data / "all.csv", data / "cache")),
        "not allowed to write: got Permission denied for",
    ),
    (
        "metadata that is not ours",
        lambda data, cache: (data / "all.csv", 0, embed(data / "all.csv", cache / "new")),
        "not allowed to read: got Permission denied for",
    ),
    (
        "cache that is not ours",
        lambda data, cache: (cache, 0, ["cache", "info", "--cache-dir", str(cache)]),
        "not allowed to read: got Permission denied for",
    ),
    (
        "checkpoint in a folder that is not ours",
        lambda data, cache: (
            data,
            0o555,
            [
                *("train-projection", "--cache-dir", str(cache), "--epochs", "1"),
                *("--device", "cpu", "--output-dir", str(data / "heads")),
            ],
        ),
        "not allowed to write: got Permission denied for",
    ),
]


@pytest.mark.parametrize(("make", "message"), [case[1:] for case in LOCKED],
                         ids=[case[0] for case in LOCKED])  # fmt: skip
def test_what_this_user_may_not_use_is_said(
    open_folder: Path,
    make: Callable[[Path, Path], tuple[Path, int, list[str]]],
    message: str,
) -> None:
    data, cache = open_folder / "data", open_folder / "cache"
    source = write_metadata(data / "all.csv", write_recordings(data, 12))
    with somebody():
        assert e2i(*embed(source, cache)).code == 0
    locked, mode, arguments = make(data, cache)
    before = World(open_folder).state()
    locked.chmod(mode)
    with somebody():
        outcome = e2i(*arguments)
    locked.chmod(0o755)
    assert (outcome.code, outcome.out) == (1, "")
    assert message in outcome.err
    assert "Check the owner and mode" in outcome.err
    assert World(open_folder).state() == before


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_loses_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    flush = os.fsync
    left = iter(range(3))

    def fill(descriptor: int) -> None:
        if next(left, None) is None:
            raise OSError(error, os.strerror(error))
        flush(descriptor)

    call = [*embed(world.metadata, tmp_path / "cache", "--chunk-size", "4"), "--json"]
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fill)
        outcome = e2i(*call)
    assert (outcome.code, outcome.out) == (1, "")
    assert "no space is left to write: got" in outcome.err
    assert "Free some or use another folder, then start again: what is stored stays." in outcome.err
    assert not list(tmp_path.rglob("*.tmp"))
    again = json.loads(e2i(*call).out)["counts"]
    assert again["failed"] == 0
    assert again["embedded"] + again["reused"] == 12
    assert again["reused"] == 4


# The installed program, whole.


def installed(home: Path, *arguments: str) -> Outcome:
    """The program as somebody calls it, in a process of its own."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
    } | {"HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    done = subprocess.run(
        [PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=home,
        timeout=240,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_the_installed_program_says_the_same(open_folder: Path) -> None:
    home = open_folder / "home"
    home.mkdir()
    source, reasons = write_broken(open_folder)
    if os.geteuid() == 0:  # who reads everything
        assert reasons.pop("unreadable.wav")
        lines = source.read_text().splitlines(keepends=True)
        source.write_text("".join(line for line in lines if "unreadable" not in line))
    cache = open_folder / "cache"
    call = embed(source, cache, "--json")
    outcome = installed(home, *call, "--max-failures", str(len(reasons)))
    assert outcome.code == 0, outcome.err
    counts = json.loads(outcome.out)["counts"]
    assert (counts["embedded"], counts["failed"]) == (GOOD, len(reasons))
    assert_each_is_named(cache, reasons)

    refused = installed(home, *call)
    assert (refused.code, refused.out) == (1, "")
    assert "raise --max-failures; what is stored is kept." in refused.err
    assert "Traceback" not in outcome.err + refused.err
    assert len(stored_clips(cache)) == GOOD
