"""A run's log as a file of JSON objects, one a line.

Conventions: `kind` tells what a line is. First `configuration` (`time`, `run`, `run_id`,
`e2i_version`, `config`), then one `step` each (`time`, `step`, and the values by name), an
`artifact` for what lies in the store (`name`, `artifact`, `url`, `sha256`, `facts`), last `summary`
(`time`, `status`, `values`); a file without a summary is of a run that was killed or still goes on.
A number that JSON lacks (NaN, infinity) is null. A run that is tried again, or another one under
the same name, adds its lines to the file, from a `configuration` on.

On the local disk a line is appended as it comes. Object stores cannot append: there the whole
file, which is small, is put anew, at most once a second while steps are logged, so that a killed
run loses its last second at most. Of several writers none loses its lines.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import e2i
from e2i.errors import StaleWriteError, StorageNotFoundError
from e2i.storage import Folder
from e2i.tracking.tracker import Status, StoredArtifact

PUT_EVERY_S = 1.0
_TRIES = 5


class JsonLines:
    """One run's log file."""

    def __init__(self, folder: Folder, run_name: str, run_id: str = "") -> None:
        """Log to `<run_name>.jsonl` in a folder.

        Args:
            folder: where the log lies; made when it is first written to.
            run_name: name of the run; no slash.
            run_id: tells apart the runs that have one name.
        """
        self._file: _LineFile = (
            _ObjectFile(folder, f"{run_name}.jsonl")
            if folder.local_path is None
            else _LocalFile(folder.local_path / f"{run_name}.jsonl")
        )
        self._url = f"{folder.url.rstrip('/')}/{run_name}.jsonl"
        self._run = {"run": run_name, "run_id": run_id, "e2i_version": e2i.__version__}
        self._summary: dict[str, float | None] = {}

    def links(self) -> Mapping[str, str]:
        """The file."""
        return {"log": self._url}

    def start(self, config: Mapping[str, object]) -> None:
        """Write the configuration.

        Raises:
            StorageError: the store refused.
            OSError: the disk did.
        """
        self._write({"kind": "configuration", **self._run, "config": dict(config)}, now=True)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write one step."""
        self._write({"kind": "step", "step": step, **_numbers(values)}, now=False)

    def summary(self, values: Mapping[str, float]) -> None:
        """Keep for the last line."""
        self._summary |= _numbers(values)

    def artifact(self, artifact: StoredArtifact) -> None:
        """Write where it lies."""
        entry = artifact.as_entry()
        self._write({**entry, "kind": "artifact", "artifact": artifact.kind}, now=True)

    def finish(self, status: Status) -> None:
        """Write the summary."""
        self._write({"kind": "summary", "status": status, "values": self._summary}, now=True)

    def _write(self, entry: dict[str, object], *, now: bool) -> None:
        moment = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"kind": entry["kind"], "time": moment, **entry}, allow_nan=False)
        self._file.add(line.encode() + b"\n", now=now)


class _LineFile(Protocol):
    def add(self, line: bytes, *, now: bool) -> None: ...


class _LocalFile:
    """Appends; a last line that a crash of the machine cut off is ended first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = False

    def add(self, line: bytes, *, now: bool) -> None:  # noqa: ARG002 - always now
        if not self._begun:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            if not self._begun and file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
        self._begun = True


class _ObjectFile:
    """Puts the whole file anew, unless somebody else did in between: then adds to theirs."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder = folder
        self._name = name
        self._stored: bytes | None = None
        self._version: str | None = None
        self._pending: list[bytes] = []
        self._last_put_s = -math.inf

    def add(self, line: bytes, *, now: bool) -> None:
        self._pending.append(line)
        if now or time.monotonic() - self._last_put_s >= PUT_EVERY_S:
            self._put()

    def _put(self) -> None:
        if self._stored is None:
            self._read()
        for remaining in reversed(range(_TRIES)):
            data = (self._stored or b"") + b"".join(self._pending)
            try:
                self._version = self._folder.replace(self._name, data, self._version)
            except StaleWriteError:
                self._read()
                if self._stored == data:  # stored, but the answer was lost on its way
                    break
                if not remaining:
                    raise
            else:
                break
        self._stored = data
        self._pending.clear()
        self._last_put_s = time.monotonic()

    def _read(self) -> None:
        try:
            stored, self._version = self._folder.read_versioned(self._name)
        except StorageNotFoundError:
            stored, self._version = b"", None
        self._stored = stored


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
