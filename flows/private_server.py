"""A Prefect server for the command line: the one that is set up, or a private one.

With a server in the environment, in a Prefect settings file of the working directory or in the
active Prefect profile, that one is used. Otherwise commands share a server of their own on a free
port of 127.0.0.1, which keeps its records in the database of PREFECT_HOME and ends with the last
command that uses it.

Conventions: nothing here imports Prefect before a flow is about to run; `ensure_server` comes
first, because Prefect reads its settings while it is imported.

Who lives is told by locks (`flock`), never by process ids: the kernel lets go of them however a
process ends. In the folder `<PREFECT_HOME>/e2i-server/<key>`:

    start.lock   exclusive, by the command that looks for a server and starts one
    users.lock   shared, by each command while it uses the server; exclusive, by the server from
                 the moment that the last command is gone until its own end
    alive.lock   exclusive, by the server from before its first instruction until its end
    server.json  address and process id of the server that holds alive.lock
    server.log   what the latest server had to say

The key tells hosts (a home folder on a network file system) and databases apart. The command binds
the server's socket and hands it over together with alive.lock, so the address is known, and a
request waits instead of being refused, from the first moment on.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from e2i.errors import RunFailedError
from flows.prefect_setup import PrefectSetup, read_setup

READY_TIMEOUT_S = 90.0
"""Starting takes 5 to 10 s on two idle cores, and several times that on busy ones."""

LOCK_TIMEOUT_S = 90.0
END_TIMEOUT_S = 45.0
FLUSH_TIMEOUT_S = 60.0
POLL_S = 0.02

SERVER_SCRIPT = Path(__file__).with_name("server_process.py")

_held_locks: set[int] = set()
"""Descriptors that a forked child must not keep open: they would keep the server running."""


def _drop_locks_in_child() -> None:
    while _held_locks:
        with contextlib.suppress(OSError):
            os.close(_held_locks.pop())


os.register_at_fork(after_in_child=_drop_locks_in_child)


def client_environment(url: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a process needs in its environment, before it imports Prefect, to use a private server.

    Run logs still go to the server in full; on stderr only errors remain, unless the caller chose
    a level of logging.
    """
    settings = {
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }
    if not environ.get("PREFECT_LOGGING_LEVEL"):
        settings["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "ERROR"
    # A proxy of the network cannot reach a server that listens here only.
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in environ.get(name, "").split(",") if host]
        settings[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    return settings


def server_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of the server process: the caller's, less what would change its nature."""
    settings = dict(environ)
    settings.pop("PREFECT_API_URL", None)
    # In bulk: one transaction for each state is slower than tasks can be.
    settings.setdefault("PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE", "200")
    settings.setdefault("PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE", "200")
    return settings | {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_API_BASE_PATH": "/api",
        # Both, or the next `prefect server start` takes the blocks for registered.
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
        "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "true",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect.server.utilities.messaging.memory",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect.server.utilities.messaging.memory",
        "PREFECT_SERVER_DOCKET_URL": "memory://",
    }


@dataclass
class Lock:
    """A held `flock` on a file, which does not outlive this process nor pass to its children."""

    path: Path
    descriptor: int

    @classmethod
    def try_acquire(cls, path: Path, operation: int) -> Lock | None:
        """Take the lock (`fcntl.LOCK_SH` or `LOCK_EX`) if it is free; None if it is not."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _held_locks.add(descriptor)
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            cls(path, descriptor).forget()
            return None
        return cls(path, descriptor)

    @classmethod
    def acquire(cls, path: Path, operation: int, timeout_s: float) -> Lock:
        """Take the lock, waiting for it.

        Raises:
            RunFailedError: it is not free within the time.
        """
        deadline = time.monotonic() + timeout_s
        while (lock := cls.try_acquire(path, operation)) is None:
            if time.monotonic() > deadline:
                raise RunFailedError(
                    f"The private Prefect server is busy starting or ending: got no lock on {path} "
                    f"within {timeout_s:.0f} s, expected one in a few. See {_log_path(path.parent)} "
                    "for what it does."
                )
            time.sleep(POLL_S)
        return lock

    def forget(self) -> None:
        """Close the file without unlocking it: a process that was given it keeps the lock."""
        _held_locks.discard(self.descriptor)
        os.close(self.descriptor)

    def release(self) -> None:
        """Let go of the lock; again is fine."""
        if self.descriptor in _held_locks:
            # Unlocked in so many words, for a process forked behind Python's back may hold a copy.
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            self.forget()


def _log_path(folder: Path) -> Path:
    return folder / "server.log"


def _key(environ: Mapping[str, str]) -> str:
    """Tells apart the servers that commands must not share although they share a home folder."""
    database = {
        name.upper(): value
        for name, value in environ.items()
        if name.upper().startswith(("PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_"))
    }
    identity = json.dumps([socket.gethostname(), sorted(database.items())])
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def _usable(home: Path, key: str) -> Path | None:
    """The folder of locks in a home folder; None if nothing can be written or locked there."""
    folder = home / "e2i-server" / key
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / "users.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_UN)
    except OSError:
        return None
    return folder if os.access(home, os.W_OK) else None


def _temporary_home() -> Path:
    """A home folder of this user alone among the temporary files, the same one each time."""
    home = Path(tempfile.gettempdir()) / f"e2i-prefect-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    status = home.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or home.is_symlink():
        return Path(tempfile.mkdtemp(prefix="e2i-prefect-"))
    return home


def choose_folder(setup: PrefectSetup, environ: Mapping[str, str]) -> tuple[Path, Path]:
    """The home folder for runs and, in it, the folder of locks.

    Returns:
        PREFECT_HOME, or a temporary one where it cannot be written; and the folder of locks.

    Raises:
        RunFailedError: neither can be written.
    """
    key = _key(environ)
    for home in (setup.home, _temporary_home()):
        if (folder := _usable(home, key)) is not None:
            return home, folder
    raise RunFailedError(
        f"There is no place for the records of runs: got {setup.home} and {home}, expected one "
        "that can be written. Set PREFECT_HOME to such a folder."
    )


@dataclass
class PrefectServer:
    """The server that this command uses, as a context manager that lets go of it.

    Attributes:
        url: address of its API.
        folder: where the locks and the log of a private server lie; None if one was set up.
        home: the home folder of Prefect that the runs are recorded in.
    """

    url: str
    home: Path
    folder: Path | None = None
    _users: Lock | None = None
    _process: subprocess.Popen[bytes] | None = None
    _environment_before: dict[str, str | None] = field(default_factory=dict)

    @property
    def private(self) -> bool:
        """Whether it is one of our own, and not one that was set up."""
        return self.folder is not None

    @property
    def log_path(self) -> Path | None:
        """What a private server has to say."""
        return _log_path(self.folder) if self.folder else None

    @classmethod
    def start_or_join(cls, home: Path, folder: Path, environ: Mapping[str, str]) -> PrefectServer:
        """Use the private server of a folder, started if none runs; returns before it answers.

        Raises:
            RunFailedError: another command has been starting or ending it for too long.
        """
        with contextlib.ExitStack() as stack:
            starting = Lock.acquire(folder / "start.lock", fcntl.LOCK_EX, LOCK_TIMEOUT_S)
            stack.callback(starting.release)
            users = Lock.acquire(folder / "users.lock", fcntl.LOCK_SH, LOCK_TIMEOUT_S)
            on_failure = stack.enter_context(contextlib.ExitStack())
            on_failure.callback(users.release)
            alive = Lock.try_acquire(folder / "alive.lock", fcntl.LOCK_EX)
            if alive is None:
                url, process = str(_read_state(folder)["url"]), None
            else:
                stack.callback(alive.forget)
                url, process = _spawn(home, folder, alive, environ)
            on_failure.pop_all()
            return cls(url, home, folder, users, process)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the API of a private server answers; one that was set up is not asked.

        Raises:
            RunFailedError: it ended, or did not answer in time.
        """
        if not self.private:
            return
        connection = http.client.HTTPConnection(self.url.split("/")[2], timeout=timeout_s)
        reason = f"no answer within {timeout_s:.0f} s"
        try:
            connection.request("GET", "/api/health")
            if (status := connection.getresponse().status) == http.HTTPStatus.OK:
                return
            reason = f"HTTP status {status}"
        except TimeoutError:
            pass
        except (OSError, http.client.HTTPException):
            reason = "its end"
        finally:
            connection.close()
        raise RunFailedError(
            f"The private Prefect server did not start: got {reason} ({_last_line(self.log_path)}), "
            f"expected an answer at {self.url}. Read {self.log_path}."
        )

    def close(self) -> None:
        """Let go of the server; the last command to do so waits until all is stored and it ended.

        Again is fine. The environment is put back as it was.
        """
        if self._users is None or self.folder is None:
            return
        users, self._users = self._users, None
        users.release()
        _put_back(self._environment_before)
        _wait_for_end(self.folder, END_TIMEOUT_S)
        if self._process is not None:
            self._process.poll()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def ensure_server() -> PrefectServer:
    """The server that is set up or, with none, a private one that starts in the background.

    To be called before Prefect is imported: with a private server it sets what Prefect reads from
    the environment. Heavy imports can go on until `wait_ready`; after the flow come
    `flush_events` and, at the end of the context, `close`.

    Raises:
        RunFailedError: no private server can be had.
    """
    setup = read_setup(os.environ, Path())
    if setup.api_url:
        return PrefectServer(setup.api_url, setup.home)
    home, folder = choose_folder(setup, os.environ)
    settings: dict[str, str] = {}
    if home != setup.home:
        settings["PREFECT_HOME"] = str(home)
        if setup.profiles_path.exists():
            settings["PREFECT_PROFILES_PATH"] = str(setup.profiles_path.absolute())
    server = PrefectServer.start_or_join(home, folder, {**os.environ, **settings})
    settings |= client_environment(server.url)
    server._environment_before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    _refresh_prefect()
    return server


def flush_events(timeout_s: float = FLUSH_TIMEOUT_S) -> bool:
    """Send what this process still has to tell the server: states of task runs, and logs.

    To be called when the flow has ended and before the server is let go of. First the server must
    confirm that it has read all events, for closing the connection gives it ten seconds only.

    Returns:
        Whether all was sent; trivially so if Prefect was never imported.
    """
    if "prefect.events.worker" not in sys.modules:
        return True
    from prefect._internal.concurrency.services import _QueueServiceBase
    from prefect.events.worker import EventsWorker

    deadline = time.monotonic() + timeout_s
    workers = [w for w in tuple(EventsWorker._instances.values()) if isinstance(w, EventsWorker)]
    for worker in workers:
        _confirm(worker, deadline)
    outcome = _QueueServiceBase.drain_all(timeout=max(0.1, deadline - time.monotonic()))
    return isinstance(outcome, tuple) and not outcome[1]


def _confirm(worker: object, deadline: float) -> None:
    """Wait until a worker's queue is empty and the server has answered a ping sent after it."""
    import asyncio

    queue, client = getattr(worker, "_queue", None), getattr(worker, "_client", None)
    loop = getattr(worker, "_loop", None)
    checkpoint = getattr(client, "_force_checkpoint", None)
    while queue is not None and queue.unfinished_tasks and not getattr(worker, "_stopped", True):
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_S)
    if checkpoint is None or loop is None or getattr(client, "_websocket", None) is None:
        return
    with contextlib.suppress(Exception):
        left = max(0.1, deadline - time.monotonic())
        asyncio.run_coroutine_threadsafe(checkpoint(), loop).result(left)


def _spawn(
    home: Path, folder: Path, alive: Lock, environ: Mapping[str, str]
) -> tuple[str, subprocess.Popen[bytes]]:
    """Start the server process on a socket bound here; its address is known at once."""
    with socket.socket() as listener, _log_path(folder).open("wb") as log:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        _write_state(folder, {"url": url})
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-W", "ignore", str(SERVER_SCRIPT)),
                *("--socket", str(listener.fileno()), "--alive", str(alive.descriptor)),
                *("--users-lock", str(folder / "users.lock")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=server_environment({**environ, "PREFECT_HOME": str(home)}),
            pass_fds=(listener.fileno(), alive.descriptor),
            start_new_session=True,
        )
    _write_state(folder, {"url": url, "pid": process.pid})
    return url, process


def _read_state(folder: Path) -> dict[str, object]:
    state: dict[str, object] = json.loads((folder / "server.json").read_text())
    return state


def _write_state(folder: Path, state: Mapping[str, object]) -> None:
    new = folder / "server.json.new"
    new.write_text(json.dumps(state))
    new.replace(folder / "server.json")


def _last_line(log_path: Path | None) -> str:
    if log_path is None or not log_path.exists():
        return "nothing logged"
    lines = log_path.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing logged")


def _wait_for_end(folder: Path, timeout_s: float) -> None:
    """Wait until the server has ended, unless other commands use it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (alive := Lock.try_acquire(folder / "alive.lock", fcntl.LOCK_SH)) is not None:
            alive.release()
            return
        if _is_used(folder / "users.lock"):
            return
        time.sleep(POLL_S)


def _is_used(users_path: Path) -> bool:
    """Whether commands, and not the server, hold the users' lock."""
    for operation in (fcntl.LOCK_EX, fcntl.LOCK_SH):
        # Exclusive is free: nobody holds it, and the server is about to take it. Shared is not
        # free: the server has taken it. Only shared is free: commands share it.
        lock = Lock.try_acquire(users_path, operation)
        if lock is not None:
            lock.release()
            return operation == fcntl.LOCK_SH
    return False


def _put_back(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _refresh_prefect()


def _refresh_prefect() -> None:
    """Let an already imported Prefect read the environment again."""
    if "prefect.context" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
