"""Start and end a Prefect server on this machine: `make server`, `make stop-server`.

It is a process of its own, with a log, and keeps its records in SQLite below PREFECT_HOME, or in
PostgreSQL by one setting: PREFECT_SERVER_DATABASE_CONNECTION_URL. Prefect's own start in the
background returns before the API listens, keeps no log, and fails where a killed server has left
its file; this waits, logs, and clears what is left.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

PREFECT = str(Path(sys.executable).with_name("prefect"))
WAIT_S = 300.0
"""Ten seconds is usual on two idle cores; on busy ones it is minutes."""

STOP_WAIT_S = 20.0

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Slots of concurrency limits are held by leases: in memory they would be gone with the server,
    # and the runs that hold them would be ended when they cannot renew them.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    # SQLite has one writer at a time: those that wait get longer than Prefect's 10 s, and states
    # and events are written in bulk.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
}
"""What the server is started with, unless the environment says otherwise."""


def prefect_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Prefect's home folder."""
    return Path(environ.get("PREFECT_HOME") or "~/.prefect").expanduser()


def is_healthy(port: int) -> bool:
    """Whether a Prefect API answers on the port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def start(port: int) -> str:
    """Start the server unless it runs, wait for its API, and say how to use it."""
    url = f"http://127.0.0.1:{port}/api"
    if is_healthy(port):
        return f"A Prefect server already answers at {url}"
    home = prefect_home()
    home.mkdir(parents=True, exist_ok=True)
    log_path = home / "e2i-server.log"
    # The pages of the UI ask this address, whatever the caller's own profile says.
    environment = {**SETTINGS, "PREFECT_SERVER_UI_API_URL": url, **os.environ}
    environment["PREFECT_API_URL"] = url
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _pid_path().write_text(str(server.pid), encoding="ascii")
    deadline = time.monotonic() + WAIT_S
    while not is_healthy(port):
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            words = log_path.read_text(errors="replace").strip().splitlines()[-1:]
            raise SystemExit(
                f"The Prefect server did not start: got {words[0] if words else 'no word'!r}, "
                f"expected an answer at {url}. Read {log_path}."
            )
        time.sleep(0.3)
    return (
        f"Prefect server: http://127.0.0.1:{port} (log: {log_path}; end it with "
        f"`make stop-server`)\nUse it from this shell: export PREFECT_API_URL={url}"
    )


def stop() -> str:
    """End the server that `start` started."""
    try:
        pid = int(_pid_path().read_text("ascii"))
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        _pid_path().unlink(missing_ok=True)
        return "No Prefect server of this folder runs."
    deadline = time.monotonic() + STOP_WAIT_S
    while _runs(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    _pid_path().unlink(missing_ok=True)
    return "The Prefect server has ended."


def _pid_path() -> Path:
    return prefect_home() / "e2i-server.pid"


def _runs(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    with contextlib.suppress(ChildProcessError):  # then an earlier command started it
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Parse the command line and act."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("--port", type=int, default=4200)
    arguments = parser.parse_args()
    sys.stdout.write((start(arguments.port) if arguments.action == "start" else stop()) + "\n")


if __name__ == "__main__":
    main()
