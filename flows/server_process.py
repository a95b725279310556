"""The process of the private Prefect server: serves until its last user is gone, stores all, ends.

Run by path, not imported by the command: it depends on Prefect alone. It is Prefect's own
application in the mode of Prefect's ephemeral server, which leaves schedules and late runs of other
deployments in the same database alone.

Conventions: standard output and error go to a log file. The caller passes a listening socket and
the lock that tells that this process lives; users hold a shared lock on the users' file, so the
exclusive lock on it comes when the last of them is gone, also by SIGKILL. Ctrl-C in the terminal
is none of this process's business; SIGTERM makes it store what it was sent and end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    import uvicorn
    from prefect.server.utilities.messaging import Message

STALL_S = 20.0
"""How long storing may stand still before the server gives up and ends all the same."""

POLL_S = 0.05
LOOKUP_ROWS = 500
FLOW_RUN = "prefect.flow-run."
ABANDONED = "The command ended without reporting how the run ended."

logger = logging.getLogger("e2i.server")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the last user is gone."""
    parser = argparse.ArgumentParser(description="The private Prefect server of e2i.")
    parser.add_argument("--socket", type=int, required=True, help="descriptor, listening")
    parser.add_argument("--alive", type=int, required=True, help="descriptor, exclusively locked")
    parser.add_argument("--users-lock", type=Path, required=True, help="file that users lock")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for descriptor in (arguments.socket, arguments.alive):
        os.set_inheritable(descriptor, False)
    unused, serving = threading.Event(), threading.Event()
    watch = (arguments.users_lock, unused, serving)
    threading.Thread(target=_await_last_user, args=watch, daemon=True).start()
    gc.disable()  # Importing makes a great many objects and no garbage.
    import prefect.server.api.server

    gc.freeze()
    gc.enable()
    serving.set()
    if unused.is_set():
        return 0
    os.chdir(prefect.settings.get_current_settings().home)
    with socket.socket(fileno=arguments.socket) as listener:
        asyncio.run(_serve(listener, unused))
    return 0


def _await_last_user(path: Path, unused: threading.Event, serving: threading.Event) -> None:
    """Take the exclusive lock, which comes when no user is left, and keep it until the end.

    A process that does not serve yet, and has touched nothing, ends at once.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    unused.set()
    if not serving.is_set():
        os._exit(0)


async def _serve(listener: socket.socket, unused: threading.Event) -> None:
    """Serve on a socket until nobody uses it or SIGTERM comes, then store all that was sent."""
    import uvicorn
    from prefect.server.api.server import create_app

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

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
    server = Server(config)
    async with _ledger() as ledger:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not (serving.done() or told_to_end.is_set() or unused.is_set()):
            await asyncio.sleep(POLL_S)
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

    The recorder of task runs keeps events in queues of its own; so each state of a task run that
    comes in is noted here, and crossed out when it is found in the database.
    """

    def __init__(self) -> None:
        self.states: set[UUID] = set()
        self.flow_runs: set[UUID] = set()

    async def note(self, message: Message) -> None:
        """Note an event that the recorder will turn into a row, or the flow run that it is about."""
        name = str(message.attributes.get("event", ""))
        if name.startswith("prefect.task-run."):
            event = json.loads(message.data)
            if event["resource"].get("prefect.orchestration") == "client":
                self.states.add(UUID(event["id"]))
        elif name.startswith(FLOW_RUN):
            resource = str(json.loads(message.data)["resource"]["prefect.resource.id"])
            with contextlib.suppress(ValueError):
                self.flow_runs.add(UUID(resource.removeprefix(FLOW_RUN)))

    async def settle(self) -> None:
        """Cross out the states that are in the database, as far as it can be read now."""
        import sqlalchemy as sa
        from prefect.server.database import provide_database_interface

        database = provide_database_interface()
        wanted = list(self.states)
        for start in range(0, len(wanted), LOOKUP_ROWS):
            rows = wanted[start : start + LOOKUP_ROWS]
            column = database.TaskRunState.id
            try:
                async with database.session_context() as session:
                    stored = await session.execute(sa.select(column).where(column.in_(rows)))
                    self.states.difference_update(stored.scalars())
            except sa.exc.SQLAlchemyError:
                logger.warning("The database could not be read.", exc_info=True)
                return

    async def close_abandoned_runs(self) -> None:
        """Mark flow runs as crashed whose command is gone without a word."""
        from prefect.server.database import provide_database_interface
        from prefect.server.models import flow_runs
        from prefect.server.schemas.states import Crashed, StateType

        database = provide_database_interface()
        for run_id in self.flow_runs:
            async with database.session_context(begin_transaction=True) as session:
                run = await flow_runs.read_flow_run(session, run_id)
                if run is not None and run.state_type in (StateType.PENDING, StateType.RUNNING):
                    state = Crashed(message=ABANDONED)
                    await flow_runs.set_flow_run_state(session, run_id, state, force=True)


@contextlib.asynccontextmanager
async def _ledger() -> AsyncIterator[Ledger]:
    """A ledger that listens to all events from before the first one on."""
    from prefect.server.utilities.messaging import create_consumer

    ledger = Ledger()
    consumer = create_consumer("events", group="e2i-ledger", name="e2i-ledger")

    async def prune() -> None:
        while True:
            await asyncio.sleep(STALL_S)
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
    from prefect.server.utilities.messaging.memory import METRICS

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
        now = (reading, waiting, len(ledger.states))
        if now != last:
            last, deadline = now, time.monotonic() + STALL_S
        await asyncio.sleep(POLL_S)
    logger.error("Ended before all was stored: %d readers, %d events, %d states of tasks", *last)


if __name__ == "__main__":
    sys.exit(main())
