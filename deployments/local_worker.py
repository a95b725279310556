"""Workers on this machine, one a work pool, until Ctrl-C or SIGTERM: `make worker`.

A Prefect worker serves one pool, and gives up where its server is away for some minutes. So each is
watched here and started again when it ends; a run that ended with it is run again by an automation.
Workers end with this process, also when it is killed. Beside them, it looks for runs whose process
is gone without a word.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from deployments.silent_runs import Lookout

PREFECT = str(Path(sys.executable).with_name("prefect"))
POOLS = ("e2i-cpu", "e2i-gpu")
POLL_S = 0.5
PAUSE_S = 5.0
"""Before a worker that ended is started again."""

END_WAIT_S = 30.0


class Worker:
    """A worker for one pool, started again when it ends."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.again_at: float | None = None
        self.process = self._start()

    def look(self) -> None:
        """Start it again if it has ended and the pause is over."""
        code = self.process.poll()
        if code is None:
            return
        if self.again_at is None:
            self.again_at = time.monotonic() + PAUSE_S
            sys.stderr.write(
                f"The worker for {self.pool} has ended with {code}; it is started again.\n"
            )
        elif time.monotonic() > self.again_at:
            self.again_at = None
            self.process = self._start()

    def end(self) -> None:
        """Ask it to end; its flow runs are told to stop."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def wait(self, until: float) -> None:
        """Wait until it has ended; after that time it is killed."""
        try:
            self.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        name = f"{self.pool}-{os.uname().nodename}"
        return subprocess.Popen(
            [PREFECT, "--no-prompt", "worker", "start", "--pool", self.pool, "--name", name],
            start_new_session=True,  # Ctrl-C reaches this process alone, which then asks them
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )


def _end_with_parent() -> None:
    """Have the kernel end a worker when the process that started it is gone."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise SystemExit(128 + signum)


def main() -> None:
    """Parse the command line, and keep the workers running."""
    parser = argparse.ArgumentParser(description=__doc__)
    # Of a name that the server does not know, a worker would make a pool that nothing goes to.
    parser.add_argument("--pools", nargs="+", default=list(POOLS), choices=POOLS, metavar="POOL")
    arguments = parser.parse_args()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, _stop)
    workers: list[Worker] = []
    try:
        workers += [Worker(pool) for pool in dict.fromkeys(arguments.pools)]
        Lookout().start()
        while True:
            time.sleep(POLL_S)
            for worker in workers:
                worker.look()
    finally:
        for worker in workers:
            worker.end()
        until = time.monotonic() + END_WAIT_S
        for worker in workers:
            worker.wait(until)


if __name__ == "__main__":
    main()
