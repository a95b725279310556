"""Send what Prefect's background services of this process still hold: events and logs.

Prefect reports the states of task runs as events over a websocket, from a queue of its own. When
it drains that queue it closes the connection, and gives the server ten seconds to read what is on
the way; a busy server needs longer after thousands of tasks. So here the server must first answer a
ping sent behind the last event.

Source: Prefect 3.8 `prefect/events/worker.py` and `clients.py`; websockets 16 `close()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import CancelledError

from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker
from websockets.exceptions import WebSocketException

POLL_S = 0.02


def flush(timeout_s: float) -> bool:
    """Send all that is waiting and stop the services; later events start new ones.

    Returns:
        Whether all was sent in time.
    """
    deadline = time.monotonic() + timeout_s
    # One table for services of all kinds: logs go this way too.
    services = tuple(EventsWorker._instances.values())  # type: ignore[misc]
    for service in services:
        if isinstance(service, EventsWorker):
            _confirm(service, deadline)
    outcome = EventsWorker.drain_all(timeout=max(0.1, deadline - time.monotonic()))
    return isinstance(outcome, tuple) and not outcome[1]


def _confirm(worker: EventsWorker, deadline: float) -> None:
    """Wait until a worker's queue is empty and the server has read all that was sent from it."""
    while worker._queue.unfinished_tasks and not worker._stopped:
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_S)
    client = getattr(worker, "_client", None)
    if worker._stopped or worker._loop is None or not isinstance(client, PrefectEventsClient):
        return
    if client._websocket is None:
        return
    ping = asyncio.run_coroutine_threadsafe(client._force_checkpoint(), worker._loop)
    # A lost connection is mended by the drain that follows, as far as it can be.
    with contextlib.suppress(OSError, TimeoutError, WebSocketException, CancelledError):
        ping.result(max(0.1, deadline - time.monotonic()))
