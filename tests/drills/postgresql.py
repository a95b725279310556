"""A PostgreSQL server of this machine, from the distribution's package."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prefect_server import free_port

OWNER = "postgres"
"""Whom it runs as where this is root, whom PostgreSQL does not run as."""


def find_programs() -> Path | None:
    """The folder of initdb and pg_ctl, of the newest version that is there."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4])
    )
    found = installed[-1] if installed else shutil.which("initdb")
    return Path(found).parent if found else None


class PostgreSQL:
    """One server on loopback, with data in a folder of its own that goes with it."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="e2i-postgresql-"))
        self._data = self._folder / "data"
        self._port = free_port()
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam(OWNER)
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
            self._as = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}

    @property
    def url(self) -> str:
        """For `make server DATABASE_URL=…`."""
        return f"postgresql+asyncpg://{OWNER}@127.0.0.1:{self._port}/{OWNER}"

    def __enter__(self) -> Self:
        self._call("initdb", "-D", self._data, "-U", OWNER, "-A", "trust", "-E", "UTF8", "-N")
        options = f"-p {self._port} -h 127.0.0.1 -k {self._folder} -c fsync=off"
        log = self._folder / "log"
        self._call("pg_ctl", "start", "-w", "-D", self._data, "-l", log, "-o", options)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call("pg_ctl", "stop", "-m", "immediate", "-D", self._data)
        shutil.rmtree(self._folder)

    def ask(self, query: str) -> str:
        """What a query gives, as text."""
        address = ("-h", "127.0.0.1", "-p", str(self._port), "-U", OWNER, "-d", OWNER)
        return self._call("psql", *address, "-At", "-c", query)

    def _call(self, program: str, *words: str | Path) -> str:
        with tempfile.TemporaryFile("w+") as said:  # a pipe would stay open as long as the server
            done = subprocess.run(
                [self._programs / program, *words],
                cwd=self._folder,
                stdout=said,
                stderr=subprocess.STDOUT,
                check=False,
                **self._as,
            )
            said.seek(0)
            text = said.read()
        assert done.returncode == 0, text
        return text
