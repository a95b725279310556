"""The folder where commands meet to share one private Prefect server, and how that lives and ends.

Conventions: who lives is told by locks, never by process ids: the kernel lets go of them however a
process ends. In the folder `<PREFECT_HOME>/e2i-server/<key>` lie

    start.lock   exclusive, by the command that looks for a server and starts one
    users.lock   shared, by each command while it uses the server; exclusive, by the server from
                 the moment that the last command is gone until its own end
    alive.lock   exclusive, by the server from before its first instruction until its end
    probe.lock   exclusive, by whoever tries the two above only to learn who holds them
    server.json  address and process id of the server that holds alive.lock
    server.log   what the latest server had to say

The key tells hosts (a home folder on a network file system) and databases apart. The command binds
the server's socket and hands it over together with alive.lock: so the address is known from the
first moment on, and a request waits instead of being refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from e2i.errors import RunFailedError
from flows.file_locks import POLL_S, Lock

LOCK_TIMEOUT_S = 90.0
SERVER_SCRIPT = Path(__file__).with_name("server_process.py")


class Joined(NamedTuple):
    """A place among the users of a server.

    Attributes:
        users: shared lock; the server lives at least as long.
        url: address of its API.
        process: the server, if it was started by this process.
    """

    users: Lock
    url: str
    process: subprocess.Popen[bytes] | None


@dataclass(frozen=True)
class ServerFolder:
    """Where the users of one private server meet.

    Attributes:
        home: home folder of Prefect; the server's database lies there.
        path: the folder of locks in it.
    """

    home: Path
    path: Path

    @property
    def log_path(self) -> Path:
        """What the latest server had to say."""
        return self.path / "server.log"

    def join(self, environ: Mapping[str, str]) -> Joined:
        """Become a user of the server, which is started if none runs; it may not answer yet.

        Args:
            environ: the environment of a server that has to be started.

        Raises:
            RunFailedError: another command has been starting or ending it for too long.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._lock("start", fcntl.LOCK_EX))
                users = self._lock("users", fcntl.LOCK_SH)
            except TimeoutError as error:
                raise RunFailedError(
                    f"The private Prefect server is busy starting or ending: got {error}, expected "
                    f"one in a few seconds. {self.log_path} tells what it does."
                ) from error
            on_failure = stack.enter_context(contextlib.ExitStack())
            on_failure.callback(users.release)
            alive = self._claim()
            if alive is None:
                url, process = self._address(), None
            else:
                # The address of a server that died: commands that used it find this one there.
                url, process = self._spawn(alive, environ, self._address())
            on_failure.pop_all()
            return Joined(users, url, process)

    def revive(self, environ: Mapping[str, str], url: str) -> subprocess.Popen[bytes] | None:
        """Start the server again at its address, for a user whose server died.

        Returns:
            The new process; None if a server lives (again).

        Raises:
            OSError: the address cannot be had.
        """
        with self._lock("start", fcntl.LOCK_EX):
            if (alive := self._claim()) is None:
                return None
            return self._spawn(alive, environ, url, exactly=True)[1]

    def is_alive(self) -> bool:
        """Whether a server process lives."""
        with self._lock("probe", fcntl.LOCK_EX):
            return self._is_alive()

    def wait_for_end(self, timeout_s: float) -> bool:
        """Wait until the server has ended, unless other commands use it.

        Returns:
            Whether it has ended.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with self._lock("probe", fcntl.LOCK_EX):
                if not self._is_alive():
                    return True
                if self._has_users():
                    return False
            time.sleep(POLL_S)
        return False

    def _lock(self, name: str, operation: int) -> Lock:
        return Lock.acquire(self.path / f"{name}.lock", operation, LOCK_TIMEOUT_S)

    def _claim(self) -> Lock | None:
        """The lock of a living server, to be handed to a new one; None if a server lives."""
        with self._lock("probe", fcntl.LOCK_EX):
            return Lock.try_acquire(self.path / "alive.lock", fcntl.LOCK_EX)

    def _is_alive(self) -> bool:
        if (lock := Lock.try_acquire(self.path / "alive.lock", fcntl.LOCK_SH)) is None:
            return True
        lock.release()
        return False

    def _has_users(self) -> bool:
        """Whether commands share the users' lock: it is free shared, but not exclusively."""
        for operation in (fcntl.LOCK_EX, fcntl.LOCK_SH):
            if (lock := Lock.try_acquire(self.path / "users.lock", operation)) is not None:
                lock.release()
                return operation == fcntl.LOCK_SH
        return False

    def _address(self) -> str:
        """The address of the latest server; empty if there was none."""
        try:
            return str(json.loads((self.path / "server.json").read_text())["url"])
        except (OSError, ValueError, KeyError):
            return ""

    def _record(self, url: str, pid: int | None = None) -> None:
        new = self.path / "server.json.new"
        new.write_text(json.dumps({"url": url, "pid": pid}))
        new.replace(self.path / "server.json")

    def _spawn(
        self, alive: Lock, environ: Mapping[str, str], url_before: str, *, exactly: bool = False
    ) -> tuple[str, subprocess.Popen[bytes]]:
        """Start a server process, which gets the lock of the living and a listening socket."""
        with contextlib.ExitStack() as stack:
            stack.callback(alive.forget)
            listener = stack.enter_context(_listener(url_before, exactly=exactly))
            log = stack.enter_context(self.log_path.open("ab" if exactly else "wb"))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            self._record(url)
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-W", "ignore", str(SERVER_SCRIPT)),
                    *("--socket", str(listener.fileno()), "--alive", str(alive.descriptor)),
                    *("--users-lock", str(self.path / "users.lock")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                pass_fds=(listener.fileno(), alive.descriptor),
                start_new_session=True,
            )
            self._record(url, process.pid)
            return url, process


def _listener(url_before: str, *, exactly: bool) -> socket.socket:
    """A listening socket on 127.0.0.1: at the port of an address if that is free, else any."""
    port = urlsplit(url_before).port or 0
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            if exactly:
                raise
            listener.bind(("127.0.0.1", 0))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def choose_folder(home: Path, environ: Mapping[str, str]) -> ServerFolder:
    """The folder to meet in, under the home folder of Prefect.

    Where that cannot be written, it is under a temporary home of this user.

    Raises:
        RunFailedError: neither can be written.
    """
    key = _key(environ)
    if _is_usable(path := home / "e2i-server" / key):
        return ServerFolder(home, path)
    temporary = _temporary_home()
    if _is_usable(path := temporary / "e2i-server" / key):
        return ServerFolder(temporary, path)
    raise RunFailedError(
        f"There is no place for the records of runs: got {home} and {temporary}, expected one that "
        "can be written. Set PREFECT_HOME to such a folder."
    )


def _key(environ: Mapping[str, str]) -> str:
    """Tells apart the servers that commands must not share although they share a home folder."""
    database = {
        name.upper(): value
        for name, value in environ.items()
        if name.upper().startswith(("PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_"))
    }
    identity = json.dumps([socket.gethostname(), sorted(database.items())])
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def _is_usable(path: Path) -> bool:
    """Whether files can be written and locked there, and the home folder two above be written."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (path / "users.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_UN)
    except OSError:
        return False
    return os.access(path.parents[1], os.W_OK)


def _temporary_home() -> Path:
    """A home folder of this user alone among the temporary files, the same one each time."""
    home = Path(tempfile.gettempdir()) / f"e2i-prefect-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=0o700)
    status = home.lstat()
    if home.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        return Path(tempfile.mkdtemp(prefix="e2i-prefect-"))
    return home
