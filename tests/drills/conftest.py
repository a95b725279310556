"""What the drills share: they all take minutes, and run the installed program."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from s3_server import S3Server

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from deployed import Worker  # noqa: E402
from prefect_server import PrefectServer  # noqa: E402

TIMEOUT_S = 1200
"""Of one drill with its fixtures: ten times what it takes where it has the machine to itself."""

PROGRAM = str(Path(sys.executable).with_name("e2i"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder as slow, and give it time."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process of its own session; whatever is left of it at the end is killed.

    One that runs for long writes to a `log`: a pipe that nobody reads would stop it.
    """
    started: list[subprocess.Popen[str]] = []

    def begin(
        *command: str,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
    ) -> subprocess.Popen[str]:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(log.open("w")) if log else subprocess.PIPE
            process = subprocess.Popen(
                command,
                env={
                    **os.environ,
                    "PREFECT_HOME": str(tmp_path / "prefect"),
                    **(environment or {}),
                },
                cwd=cwd,
                stdout=out,
                stderr=subprocess.STDOUT if log else subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One server with the deployments of prefect.yaml, as `make` brings it up; ended at the end.

    Whoever kills it starts it again.
    """
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    stores = tmp_path_factory.mktemp("stores")
    urls = {"STORE_URL": str(stores / "full"), "DEMO_STORE_URL": str(stores / "demo")}
    try:
        printed = server.make("server")
        assert f"export PREFECT_API_URL={server.api}" in printed
        server.make("deploy", **urls)
        server.pause("e2i-reevaluate/nightly")
        yield server
    finally:
        server.make("stop-server")


@pytest.fixture
def worker(
    prefect: PrefectServer, start: Start, tmp_path: Path, mortal_s3_server: S3Server
) -> Iterator[Worker]:
    """Workers of both pools; nothing of what they ran is left at the end."""
    prefect.cancel_what_runs()
    yield Worker(start, prefect, tmp_path, mortal_s3_server.environment)
    prefect.cancel_what_runs()
