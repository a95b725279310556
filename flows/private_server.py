"""A Prefect server for the command line: the one that is set up, or a private one.

With a server in the environment, in a Prefect settings file of the working directory or in the
active Prefect profile, that one is used. Otherwise commands share a server of their own on a free
port of 127.0.0.1, which keeps its records in the database of PREFECT_HOME and ends with the last
command that uses it.

    with ensure_server() as server:      # before Prefect is imported
        ...                              # heavy imports, while a private server starts
        server.wait_ready()
        ...                              # the flow
        flush_events()

Conventions: nothing here imports Prefect by itself, which takes 2 s and reads the environment.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from e2i.errors import RunFailedError
from flows.file_locks import Lock
from flows.prefect_setup import read_setup
from flows.server_folder import Joined, ServerFolder, choose_folder

READY_TIMEOUT_S = 90.0
"""Starting takes 5 to 10 s on two idle cores, and several times that on busy ones."""

END_TIMEOUT_S = 180.0
"""The server ends by itself when storing stands still; thousands of tasks may keep it busy."""

FLUSH_TIMEOUT_S = 60.0
GUARD_S = 1.0
REVIVALS = 3
ERROR_LINE = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Warning)\b.*: ")

logger = logging.getLogger(__name__)


def client_environment(url: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a process needs in its environment, before it imports Prefect, to use a private server.

    Run logs go to the server in full; on stderr only errors remain, unless the caller chose a level
    of logging.
    """
    settings = {
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_SERVER_UI_ENABLED": "false",  # so that nobody is sent to a page that is not there
    }
    # Prefect's own machinery prints whole events when one cannot be sent.
    quiet = {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR",
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    }
    if not environ.get("PREFECT_LOGGING_LEVEL"):
        settings |= {name: environ.get(name, level) for name, level in quiet.items()}
    # A proxy of the network cannot reach a server that listens here only.
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in environ.get(name, "").split(",") if host]
        settings[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    return settings


def server_environment(home: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of the server process: the caller's, less what would change its nature."""
    settings = dict(environ)
    settings.pop("PREFECT_API_URL", None)
    # In bulk: with a transaction for each state, as by default, tasks can outrun the recorder.
    settings.setdefault("PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE", "200")
    settings.setdefault("PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE", "200")
    return settings | {
        "PREFECT_HOME": str(home),
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


class PrefectServer:
    """The server that this command uses, as a context manager that lets go of it.

    Attributes:
        url: address of its API.
        home: the home folder of Prefect.
        log_path: what a private server has to say; None if the server was set up.
    """

    private = False
    log_path: Path | None = None

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.home = home

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the API of a private server answers; one that was set up is not asked.

        Raises:
            RunFailedError: it ended, or did not answer in time.
        """

    def close(self) -> None:
        """Let go of the server; again is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class PrivateServer(PrefectServer):
    """A server of our own, which lives as long as a command uses it.

    While it is in use it is watched, and started again at its address when it dies: Prefect's
    client tries again and sends once more what was not confirmed.
    """

    private = True

    def __init__(self, folder: ServerFolder, joined: Joined, environ: Mapping[str, str]) -> None:
        super().__init__(joined.url, folder.home)
        self.log_path: Path = folder.log_path
        self._folder = folder
        self._environ = environ
        self._users: Lock = joined.users
        self._processes: list[subprocess.Popen[bytes]] = []
        if joined.process is not None:
            self._processes.append(joined.process)
        self._environment_before: dict[str, str | None] = {}
        self._closing = threading.Event()
        self._guard: threading.Thread | None = None

    @classmethod
    def start_or_join(cls, folder: ServerFolder, environ: Mapping[str, str]) -> PrivateServer:
        """Use the server of a folder, started if none runs; returns before it answers.

        Raises:
            RunFailedError: another command has been starting or ending it for too long.
        """
        settings = server_environment(folder.home, environ)
        return cls(folder, folder.join(settings), settings)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the API answers; from then on the server is watched.

        Raises:
            RunFailedError: it ended, or did not answer in time.
        """
        if (reason := self._ask(timeout_s)) is not None:
            words = _last_words(self.log_path)
            raise RunFailedError(
                f"The private Prefect server did not start: got {reason} ({words}), expected an "
                f"answer at {self.url}. Read {self.log_path}."
            )
        if self._guard is None:
            self._guard = threading.Thread(target=self._keep_alive, daemon=True, name="e2i-guard")
            self._guard.start()

    def close(self) -> None:
        """Let go of the server; the last command to do so waits until all is stored and it ended.

        The environment is put back as it was.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        if self._guard is not None:
            self._guard.join()
        self._users.release()
        _update_environment(self._environment_before)
        self._folder.wait_for_end(END_TIMEOUT_S)
        for process in self._processes:
            process.poll()

    def set_environment(self, settings: Mapping[str, str]) -> None:
        """Set variables of this process until the server is let go of."""
        self._environment_before = {name: os.environ.get(name) for name in settings}
        _update_environment(settings)

    def _ask(self, timeout_s: float) -> str | None:
        """What is wrong with the server; None if it is well."""
        connection = http.client.HTTPConnection(self.url.split("/")[2], timeout=timeout_s)
        try:
            connection.request("GET", "/api/health")
            status = connection.getresponse().status
        except TimeoutError:
            return f"no answer within {timeout_s:.0f} s"
        except (OSError, http.client.HTTPException):
            return "its end"
        finally:
            connection.close()
        return None if status == http.HTTPStatus.OK else f"HTTP status {status}"

    def _keep_alive(self) -> None:
        """Start the server again when it dies, a few times."""
        revivals = 0
        while revivals < REVIVALS and not self._closing.wait(GUARD_S):
            try:
                if self._folder.is_alive():
                    continue
                revivals += 1
                process = self._folder.revive(self._environ, self.url)
            except OSError as error:
                logger.warning("The private Prefect server is gone: %s", error)
                continue
            if process is not None:
                self._processes.append(process)


def ensure_server() -> PrefectServer:
    """The server that is set up or, with none, a private one that starts in the background.

    To be called before Prefect is imported: with a private server it sets what Prefect reads from
    the environment.

    Raises:
        RunFailedError: no private server can be had.
    """
    setup = read_setup(os.environ, Path())
    if setup.api_url:
        return PrefectServer(setup.api_url, setup.home)
    folder = choose_folder(setup.home, os.environ)
    moved: dict[str, str] = {}
    if folder.home != setup.home:
        logger.warning("%s cannot be written; runs are recorded in %s.", setup.home, folder.home)
        moved["PREFECT_HOME"] = str(folder.home)
        if setup.profiles_path.exists():
            moved["PREFECT_PROFILES_PATH"] = str(setup.profiles_path.absolute())
    server = PrivateServer.start_or_join(folder, {**os.environ, **moved})
    server.set_environment(moved | client_environment(server.url))
    return server


def flush_events(timeout_s: float = FLUSH_TIMEOUT_S) -> bool:
    """Send what this process still has to tell the server: states of task runs, and logs.

    To be called when the flow has ended and before the server is let go of, with any server.

    Returns:
        Whether all was sent in time; trivially so if Prefect was never imported.
    """
    if "prefect.events.worker" not in sys.modules:
        return True
    from flows.event_flush import flush

    return flush(timeout_s)


def _last_words(log_path: Path) -> str:
    """The last error that a traceback of the log ends with; without one, its last line."""
    text = log_path.read_text(errors="replace") if log_path.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR_LINE.match(line)]
    return (errors or lines or ["nothing logged"])[-1]


def _update_environment(settings: Mapping[str, str | None]) -> None:
    """Set variables (None: remove them) and let an already imported Prefect see them."""
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "prefect.context" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
