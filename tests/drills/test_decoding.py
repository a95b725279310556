"""Recordings on which a decoder hangs or crashes, in a run as Prefect runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from recordings import write_data_set

from conftest import Start

FAULTY = str(Path(__file__).with_name("faulty_program.py"))
DECODERS = str(Path(__file__).parents[1] / "e2i" / "decoding")
NUM_CLIPS = 12


def begin(start: Start, root: Path, faults: list[str], *options: str) -> subprocess.Popen[str]:
    metadata = write_data_set(root / "data", NUM_CLIPS)
    audio = root / "data" / "clotho_audio_files" / "development"
    with metadata.open("a") as file:
        for fault in faults:
            file.write(f"{fault}.wav" + f",a {fault}" * 5 + "\n")
            (audio / f"{fault}.wav").write_bytes(fault.encode() + b" " * 20)
    return start(
        *(sys.executable, FAULTY, "cache-embeddings", "--metadata", str(metadata)),
        *("--cache-dir", str(root / "cache"), "--audio-encoder", "logmel"),
        *("--text-encoder", "hashing", "--chunk-size", "7", "--decode-workers", "2"),
        *("--max-failures", "3", "--json", *options),
        environment={"PYTHONPATH": DECODERS},
    )


def decoders_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "faulty_decoders" in " ".join(child.cmdline())
    ]


def test_they_cost_themselves_only(start: Start, tmp_path: Path) -> None:
    process = begin(start, tmp_path, ["hang", "segfault", "memory"], "--decode-timeout", "5")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    counts = json.loads(out)["counts"]
    assert (counts["embedded"], counts["failed"]) == (NUM_CLIPS, 3)
    lines = (tmp_path / "cache" / "failures.jsonl").read_text().splitlines()
    reasons = {failure["id"]: failure["reason"] for failure in map(json.loads, lines)}
    assert "got no further block in 5 s" in reasons["hang.wav"]
    assert "makes its decoder crash: got SIGSEGV" in reasons["segfault.wav"]
    assert "takes too much memory to decode" in reasons["memory.wav"]
    assert "Traceback" not in err
    shards = (tmp_path / "cache" / "audio").iterdir()
    assert sum(pq.read_metadata(path).num_rows for path in shards) == NUM_CLIPS


def test_none_outlives_a_program_that_is_killed(start: Start, tmp_path: Path) -> None:
    process = begin(start, tmp_path, ["hang"], "--decode-timeout", "20")
    deadline = time.monotonic() + 120
    while len(decoders := decoders_of(process)) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(decoders, timeout=90)
    assert not alive
