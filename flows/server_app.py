"""Prefect's server application, and the care that nothing it was sent is lost when it ends.

It runs in the mode of Prefect's own ephemeral server, which leaves the schedules and late runs of
deployments in the same database alone.

Conventions: states of task runs reach the server as events and wait in queues until Prefect's
recorder writes them, so "sent" is not "stored". Each such state is noted when it comes in, under
the id that its row will have, and crossed out when that row is found in the database.

Source: Prefect 3.8 `prefect/server/services/task_run_recorder.py`,
`prefect/server/utilities/messaging/memory.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import uvicorn
from prefect.server import models
from prefect.server.api.server import create_app
from prefect.server.database import provide_database_interface
from prefect.server.schemas.states import Crashed, StateType
from prefect.server.utilities.messaging import Message, create_consumer
from prefect.server.utilities.messaging.memory import METRICS
from prefect.settings import get_current_settings

STALL_S = 20.0
"""How long storing may stand still before the server gives up and ends all the same."""

PRUNE_S = 20.0
POLL_S = 0.05
SETTLE_S = 0.2
LOOKUP_ROWS = 500
FLOW_RUN = "prefect.flow-run."
TASK_RUN = "prefect.task-run."
ABANDONED = "The command ended without reporting how the run ended."

logger = logging.getLogger("e2i.server")


def serve(listener: socket.socket, unused: threading.Event) -> None:
    """Serve on a socket until nobody uses it or SIGTERM comes, then store all that was sent."""
    os.chdir(get_current_settings().home)
    asyncio.run(_serve(listener, unused))


class _Server(uvicorn.Server):
    """Leaves signals to its caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(listener: socket.socket, unused: threading.Event) -> None:
    told_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_end.set)
    config = uvicorn.Config(
        create_app(ephemeral=True, final=True),
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        ws_ping_interval=None,  # Who is gone shows at once here; who is busy must not be cut off.
    )
    server = _Server(config)
    async with _ledger() as ledger:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not (serving.done() or told_to_end.is_set() or unused.is_set()):
            await asyncio.sleep(POLL_S)
        # Migrations of the database are not cut short.
        while not (serving.done() or server.started):
            await asyncio.sleep(POLL_S)
        if server.started:
            await _drain(server, ledger)
            if unused.is_set():
                await ledger.close_abandoned_runs()
        server.should_exit = True
        await serving


class Ledger:
    """What was sent to this server and has to be in the database before it ends.

    Attributes:
        states: ids of the states of task runs that were not found in the database yet.
        flow_runs: ids of the flow runs that were heard of.
    """

    def __init__(self) -> None:
        self.states: set[UUID] = set()
        self.flow_runs: set[UUID] = set()

    async def note(self, message: Message) -> None:
        """Note an event that the recorder will make a row of, or the flow run that it is about."""
        name = str(message.attributes.get("event", ""))
        if not name.startswith((TASK_RUN, FLOW_RUN)):
            return
        event = json.loads(message.data)
        if name.startswith(FLOW_RUN):
            with contextlib.suppress(ValueError):
                run_id = str(event["resource"]["prefect.resource.id"]).removeprefix(FLOW_RUN)
                self.flow_runs.add(UUID(run_id))
        elif event["resource"].get("prefect.orchestration") == "client":
            self.states.add(UUID(event["id"]))

    async def settle(self) -> None:
        """Cross out the states that are in the database, as far as it can be read now."""
        database = provide_database_interface()
        column = database.TaskRunState.id
        wanted = list(self.states)
        for start in range(0, len(wanted), LOOKUP_ROWS):
            rows = wanted[start : start + LOOKUP_ROWS]
            try:
                async with database.session_context() as session:
                    stored = await session.execute(sa.select(column).where(column.in_(rows)))
                    self.states.difference_update(stored.scalars())
            except sa.exc.SQLAlchemyError:
                logger.warning("The database could not be read.", exc_info=True)
                return

    async def close_abandoned_runs(self) -> None:
        """Mark the flow runs as crashed whose command is gone without a word."""
        database = provide_database_interface()
        flow_runs: Any = models.flow_runs
        for run_id in self.flow_runs:
            async with database.session_context(begin_transaction=True) as session:
                run = await flow_runs.read_flow_run(session, run_id)
                if run is not None and run.state_type in (StateType.PENDING, StateType.RUNNING):
                    state: Any = Crashed(message=ABANDONED)
                    await flow_runs.set_flow_run_state(session, run_id, state, force=True)


@contextlib.asynccontextmanager
async def _ledger() -> AsyncIterator[Ledger]:
    """A ledger that listens to all events from before the first one on."""
    ledger = Ledger()
    consumer = create_consumer("events", group="e2i-ledger", name="e2i-ledger")

    async def prune() -> None:
        while True:
            await asyncio.sleep(PRUNE_S)
            await ledger.settle()

    tasks = [asyncio.create_task(consumer.run(ledger.note)), asyncio.create_task(prune())]
    try:
        yield ledger
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drain(server: uvicorn.Server, ledger: Ledger) -> None:
    """Wait until all events that were sent are read, handled, and in the database."""
    last: tuple[int, ...] = ()
    deadline = time.monotonic() + STALL_S
    while time.monotonic() < deadline:
        counts = METRICS["events"]
        waiting = counts["published"] - counts["consumed"]
        reading = len(server.server_state.tasks)
        if not reading and not waiting:
            await ledger.settle()
            if not ledger.states:
                return
            await asyncio.sleep(SETTLE_S)
        if (now := (reading, waiting, len(ledger.states))) != last:
            last, deadline = now, time.monotonic() + STALL_S
        await asyncio.sleep(POLL_S)
    logger.error("Ended before all was stored: %d readers, %d events, %d states of tasks", *last)
