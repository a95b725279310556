"""The program in this process, the data that it is called on, and what a wrong call is.

To be quick, tasks are called as the plain functions that they are, without Prefect around them: see
`conftest.py`. Parsing, checks, flows, messages and exit codes are the program's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from flows import command_line

ENCODERS = ("--audio-encoder", "logmel", "--text-encoder", "hashing")
RATE = 8_000


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def e2i(*arguments: str) -> Outcome:
    """Call the program; an error that it does not turn into an exit code fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command_line.main(arguments)
        except SystemExit as ended:
            return Outcome(int(ended.code or 0), out.getvalue(), err.getvalue())


class World(NamedTuple):
    """A data set, its cache and a checkpoint trained on it."""

    root: Path

    @property
    def metadata(self) -> Path:
        return self.root / "data" / "development.csv"

    @property
    def cache(self) -> Path:
        return self.root / "embeddings" / "development"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoints" / "projection_heads.safetensors"

    def state(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.root.rglob("*")
            if path.is_file()
        }


def write_recordings(folder: Path, count: int, rate: int = RATE) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = [f"good {number}.wav" for number in range(count)]
    for name in names:
        soundfile.write(folder / name, 0.1 * rng.standard_normal(rate // 4), rate)
    return names


def write_metadata(path: Path, names: list[str]) -> Path:
    rows = [f'"{name}",sound of number {n},noise {n}' for n, name in enumerate(names)]
    path.write_text("\n".join(["file_name,caption_1,caption_2", *rows]))
    return path


Make = Callable[[World, Path], list[str]]


class Case(NamedTuple):
    """A call that is wrong.

    Attributes:
        name: of the case.
        make: prepares the input in a folder of its own; gives the arguments.
        words: that the message has to hold: what is wrong, got, expected, the next step.
        code: exit code.
    """

    name: str
    make: Make
    words: tuple[str, ...]
    code: int = 1


def embed(source: Path | str, cache: Path | str, *options: str) -> list[str]:
    return [
        *("cache-embeddings", "--metadata", str(source), "--cache-dir", str(cache)),
        *(*ENCODERS, *options),
    ]


def call(*arguments: str) -> Make:
    """A call that needs nothing prepared."""
    return lambda world, tmp: list(arguments)
