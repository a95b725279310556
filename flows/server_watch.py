"""A run whose Prefect server is gone for good ends by itself, with a word about it.

Prefect's client waits for a server that is away: 4 minutes a call, so that a run outlives an outage
of three. Where the server does not come back, one such wait would follow another for hours. Here a
thread of the process asks the server now and then, and ends the process when it has not answered
for eight minutes. What is stored stays, as after a kill.

Conventions: only a process that is there for one run is watched: that of a command, or the one that
a worker started.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from flows.preflight import server_answers, without_login

CLIENT_SETTINGS = {
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
"""How a run talks to a server that may be away; prefect.yaml gives workers the same.

The pauses between tries of one call are 2, 4, ... 128 s, each by up to a fifth longer or shorter; a
sign of life goes out each half minute.
"""

LIMIT_S = 480.0
EVERY_S = 15.0


def _end_process() -> None:
    sys.stderr.flush()
    os._exit(1)


class ServerWatch:
    """A thread that ends the process when the server has been away for too long.

    Args:
        api_url: the server's API.
        end: what ends the process.
        limit_s: how long the server may be away.
        every_s: pause between two questions.
    """

    def __init__(
        self,
        api_url: str,
        end: Callable[[], None] = _end_process,
        limit_s: float = LIMIT_S,
        every_s: float = EVERY_S,
    ) -> None:
        self._api_url = api_url
        self._end = end
        self._limit_s = limit_s
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="e2i-server-watch")

    def start(self) -> None:
        """Watch until the process ends, or `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._over.set()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _watch(self) -> None:
        heard = time.monotonic()
        while not self._over.wait(self._every_s):
            if server_answers(self._api_url):
                heard = time.monotonic()
            elif time.monotonic() - heard >= self._limit_s:
                sys.stderr.write(f"e2i: {gone(self._api_url, self._limit_s)}\n")
                self._end()
                return


def gone(api_url: str, limit_s: float) -> str:
    """What to say of a server that did not come back."""
    return (
        f"the Prefect server is gone: got no answer from {without_login(api_url)} for "
        f"{limit_s:.0f} s, expected one. Start it again, then run the same again: it goes on from "
        "what is stored."
    )
