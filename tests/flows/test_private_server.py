from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from e2i.errors import RunFailedError
from flows import server_folder
from flows.file_locks import Lock
from flows.private_server import (
    PrivateServer,
    client_environment,
    ensure_server,
    flush_events,
    server_environment,
)
from flows.server_folder import ServerFolder, choose_folder

ROOT = Path(__file__).parents[2]
PATIENCE_S = 150  # of a busy machine; a good one needs a tenth

# The real process, with its locks and signals, around a stand-in for Prefect's application.
STAND_IN = f"""
import http.server, sys, threading, time, types
sys.path.append({str(ROOT)!r})
print("starting", flush=True)
{{before}}

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *words):
        pass

def serve(listener, unused):
    server = http.server.HTTPServer(listener.getsockname(), Health, bind_and_activate=False)
    server.socket = listener
    threading.Thread(target=server.serve_forever, daemon=True).start()
    unused.wait()
    time.sleep({{drain_s}})

sys.modules["flows.server_app"] = types.SimpleNamespace(serve=serve)
from flows.server_process import main
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def _no_prefect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees a Prefect that others imported, or whoever's settings there are."""
    for name in ("prefect.settings", "prefect.context", "prefect.events.worker"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Chooses how the stand-in for the server behaves."""

    def choose(before: str = "", drain_s: float = 0.0) -> None:
        path = tmp_path / "stand_in.py"
        path.write_text(STAND_IN.format(before=before, drain_s=drain_s))
        monkeypatch.setattr(server_folder, "SERVER_SCRIPT", path)

    choose()
    return choose


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    return choose_folder(tmp_path / "prefect", {})


@pytest.fixture
def start(stand_in: object, folder: ServerFolder) -> Iterator[Callable[[], PrivateServer]]:
    """Starts or joins the stand-in; whatever is left is let go of at the end."""
    started = []

    def once() -> PrivateServer:
        started.append(PrivateServer.start_or_join(folder, os.environ))
        return started[-1]

    yield once
    for server in started:
        server.close()
        for process in server._processes:
            process.kill()
            process.wait()


def _pid(folder: ServerFolder) -> int:
    """The latest server; its number is written a moment after its start."""
    deadline = time.monotonic() + 10
    while (pid := json.loads((folder.path / "server.json").read_text())["pid"]) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(pid)


def _status(url: str) -> int:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=10)
    with closing(connection):
        connection.request("GET", "/api/health")
        return connection.getresponse().status


def _wait_until_gone(folder: ServerFolder, timeout_s: float) -> float:
    start = time.monotonic()
    while folder.is_alive():
        assert time.monotonic() - start < timeout_s, folder.log_path.read_text()
        time.sleep(0.05)
    return time.monotonic() - start


class TestSharing:
    def test_first_starts_others_join_last_ends(
        self, start: Callable[[], PrivateServer], folder: ServerFolder
    ) -> None:
        first, second = start(), start()
        assert first.url == second.url
        assert [len(s._processes) for s in (first, second)] == [1, 0]
        first.wait_ready(30)
        first.close()
        assert folder.is_alive()
        assert _status(second.url) == 200
        second.close()
        assert not folder.is_alive()

    def test_the_last_waits_until_all_is_stored(
        self,
        start: Callable[[], PrivateServer],
        stand_in: Callable[..., None],
        folder: ServerFolder,
    ) -> None:
        stand_in(drain_s=1.0)
        server = start()
        server.wait_ready(30)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began >= 1.0
        assert not folder.is_alive()

    def test_who_comes_while_it_ends_gets_a_new_one(
        self,
        start: Callable[[], PrivateServer],
        stand_in: Callable[..., None],
        folder: ServerFolder,
    ) -> None:
        stand_in(drain_s=1.0)
        joined = folder.join(os.environ)
        assert _status(joined.url) == 200
        before = _pid(folder)
        joined.users.release()  # without waiting, as a killed command does
        deadline = time.monotonic() + 10
        while (lock := Lock.try_acquire(joined.users.path, fcntl.LOCK_SH)) is not None:
            lock.release()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert folder.is_alive()
        server = start()
        server.wait_ready(30)
        assert _pid(folder) != before
        assert joined.process is not None
        assert joined.process.wait() == 0

    def test_a_killed_command_holds_nothing(
        self, stand_in: object, folder: ServerFolder, tmp_path: Path
    ) -> None:
        code = f"""
            import os, sys, time
            from pathlib import Path
            sys.path.insert(0, {str(ROOT)!r})
            from flows import server_folder
            from flows.private_server import ensure_server
            server_folder.SERVER_SCRIPT = Path({str(server_folder.SERVER_SCRIPT)!r})
            server = ensure_server()
            server.wait_ready()
            if os.fork() == 0:  # a worker that outlives the command
                time.sleep(60)
            print("ready", flush=True)
            time.sleep(60)
        """
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as command:
            assert command.stdout is not None
            assert command.stdout.readline() == b"ready\n"
            assert folder.is_alive()
            command.send_signal(signal.SIGKILL)
            command.wait()
            assert _wait_until_gone(folder, 30) < 30
            os.killpg(command.pid, signal.SIGKILL)

    def test_ctrl_c_is_none_of_its_business(
        self, start: Callable[[], PrivateServer], folder: ServerFolder
    ) -> None:
        server = start()
        server.wait_ready(30)
        assert os.getsid(_pid(folder)) != os.getsid(0)
        os.kill(_pid(folder), signal.SIGINT)
        time.sleep(0.3)
        assert _status(server.url) == 200

    def test_not_even_started_it_ends_at_once(
        self,
        start: Callable[[], PrivateServer],
        stand_in: Callable[..., None],
        folder: ServerFolder,
    ) -> None:
        # The import of Prefect, which takes seconds, is what the stand-in spends here.
        stand_in(
            "class Slow:\n"
            "    def find_spec(self, name, *rest):\n"
            "        if name == 'flows.server_app': time.sleep(60)\n"
            "sys.meta_path.insert(0, Slow())\n"
            "import flows.server_process; sys.exit(flows.server_process.main())"
        )
        server = start()
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 30
        assert not folder.is_alive()


class TestDeath:
    def test_a_dead_one_is_replaced_at_its_address(
        self, start: Callable[[], PrivateServer], folder: ServerFolder
    ) -> None:
        first = start()
        first.wait_ready(30)
        first._closing.set()  # this command does not watch
        assert first._guard is not None
        first._guard.join()
        first._closing.clear()
        os.kill(_pid(folder), signal.SIGKILL)
        _wait_until_gone(folder, 10)
        second = start()
        second.wait_ready(30)
        assert second.url == first.url
        assert len(second._processes) == 1

    def test_a_user_starts_it_again(
        self, start: Callable[[], PrivateServer], folder: ServerFolder
    ) -> None:
        server = start()
        server.wait_ready(30)
        before = _pid(folder)
        os.kill(before, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while _pid(folder) == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert _status(server.url) == 200
        server.close()
        assert not folder.is_alive()

    def test_another_port_where_the_old_one_is_taken(
        self, start: Callable[[], PrivateServer], folder: ServerFolder
    ) -> None:
        server = start()
        server.close()
        port = int(server.url.split(":")[2].split("/")[0])
        with server_folder.socket.create_server(("127.0.0.1", port)):
            second = start()
            second.wait_ready(30)
        assert second.url != server.url


class TestErrors:
    def test_a_server_that_ends_is_named_with_its_last_words(
        self,
        start: Callable[[], PrivateServer],
        stand_in: Callable[..., None],
        folder: ServerFolder,
    ) -> None:
        stand_in("sys.exit('the database is of a later version\\n')")
        server = start()
        with pytest.raises(RunFailedError) as caught:
            server.wait_ready(30)
        assert str(caught.value) == (
            "The private Prefect server did not start: got its end (the database is of a later "
            f"version), expected an answer at {server.url}. Read {folder.log_path}."
        )

    def test_the_cause_counts_as_last_words_not_what_follows_it(
        self, start: Callable[[], PrivateServer], stand_in: Callable[..., None]
    ) -> None:
        # As Prefect's server ends with a damaged database, shortened.
        stand_in(
            "print('Traceback (most recent call last):\\n  File \"x.py\", line 1, in y')\n"
            "print('sqlalchemy.exc.DatabaseError: (sqlite3.DatabaseError) no database')\n"
            "print('22:50:56.606 | ERROR   | uvicorn.error - Application startup failed.')\n"
            "sys.exit('SystemExit: 3')"
        )
        with pytest.raises(RunFailedError) as caught:
            start().wait_ready(30)
        words = "(sqlalchemy.exc.DatabaseError: (sqlite3.DatabaseError) no database)"
        assert words in str(caught.value)

    def test_a_server_that_does_not_answer(
        self,
        start: Callable[[], PrivateServer],
        stand_in: Callable[..., None],
        folder: ServerFolder,
    ) -> None:
        stand_in("time.sleep(60)")
        server = start()
        with pytest.raises(RunFailedError) as caught:
            server.wait_ready(1)
        assert "got no answer within 1 s (" in str(caught.value)
        server._processes[0].kill()

    def test_another_command_that_never_gets_done(
        self,
        start: Callable[[], PrivateServer],
        folder: ServerFolder,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(server_folder, "LOCK_TIMEOUT_S", 0.1)
        path = folder.path / "start.lock"
        with Lock.acquire(path, fcntl.LOCK_EX, 1), pytest.raises(RunFailedError) as caught:
            start()
        assert str(caught.value) == (
            f"The private Prefect server is busy starting or ending: got no lock on {path} within "
            f"0 s, expected one in a few seconds. {folder.log_path} tells what it does."
        )

    def test_a_failed_start_leaves_no_user(
        self,
        start: Callable[[], PrivateServer],
        folder: ServerFolder,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(server_folder.sys, "executable", "/no/such/python")
        with pytest.raises(FileNotFoundError):
            start()
        for name in ("start", "users", "alive"):
            Lock.acquire(folder.path / f"{name}.lock", fcntl.LOCK_EX, 1).release()


class TestFolder:
    def test_lies_in_the_home_for_this_user_alone(self, tmp_path: Path) -> None:
        folder = choose_folder(tmp_path / "new" / "home", {})
        assert folder.path.parent == tmp_path / "new" / "home" / "e2i-server"
        assert folder.path.stat().st_mode & 0o777 == 0o700

    def test_another_database_is_another_server(self, tmp_path: Path) -> None:
        url = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
        paths = [
            choose_folder(tmp_path, environ).path
            for environ in ({}, {"PREFECT_LOGGING_LEVEL": "INFO"}, {url: "a"}, {url: "b"})
        ]
        assert paths[0] == paths[1]
        assert len(set(paths)) == 3

    def test_another_host_is_another_server(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = choose_folder(tmp_path, {})
        monkeypatch.setattr(server_folder.socket, "gethostname", lambda: "elsewhere")
        assert choose_folder(tmp_path, {}) != here

    def test_a_home_that_cannot_be_written(
        self,
        stand_in: object,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        (tmp_path / "prefect").write_text("a file, where a folder would have to be")
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr(server_folder.tempfile, "tempdir", str(tmp_path / "temporary"))
        home = tmp_path / "temporary" / f"e2i-prefect-{os.getuid()}"
        with ensure_server() as server:
            assert server.home == home
            assert os.environ["PREFECT_HOME"] == str(home)
            server.wait_ready(30)
        assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect")
        assert caplog.messages == [
            f"{tmp_path / 'prefect'} cannot be written; runs are recorded in {home}."
        ]

    @pytest.mark.parametrize("trap", ["open to all", "a link"])
    def test_a_temporary_home_laid_out_by_others_is_not_used(
        self, trap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_folder.tempfile, "tempdir", str(tmp_path))
        home = tmp_path / f"e2i-prefect-{os.getuid()}"
        if trap == "a link":
            (tmp_path / "other").mkdir(mode=0o700)
            home.symlink_to(tmp_path / "other")
        else:
            home.mkdir()
            home.chmod(0o777)
        (tmp_path / "file").touch()
        folder = choose_folder(tmp_path / "file", {})
        assert folder.home != home
        assert folder.home.stat().st_mode & 0o077 == 0

    def test_no_place_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_folder, "_is_usable", lambda path: False)
        monkeypatch.setattr(server_folder.tempfile, "tempdir", str(tmp_path))
        with pytest.raises(RunFailedError) as caught:
            choose_folder(tmp_path / "home", {})
        assert str(caught.value) == (
            f"There is no place for the records of runs: got {tmp_path / 'home'} and "
            f"{tmp_path / f'e2i-prefect-{os.getuid()}'}, expected one that can be written. "
            "Set PREFECT_HOME to such a folder."
        )


class TestEnvironment:
    def test_one_that_is_set_up_is_left_alone(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
        before = dict(os.environ)
        with ensure_server() as server:
            assert (server.url, server.private) == ("http://127.0.0.1:9/api", False)
            server.wait_ready(0.1)  # not asked
            assert dict(os.environ) == before
        assert not (tmp_path / "prefect").exists()

    def test_a_private_one_is_in_the_environment_while_it_is_used(
        self, stand_in: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NO_PROXY", "intranet")
        before = dict(os.environ)
        with ensure_server() as server:
            assert server.private
            assert os.environ["PREFECT_API_URL"] == server.url
            assert os.environ["NO_PROXY"] == "intranet,127.0.0.1,localhost"
            assert flush_events()  # Prefect was not imported
        assert dict(os.environ) == before

    def test_the_callers_choice_of_logging_stands(self) -> None:
        quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "PREFECT_INTERNAL_LOGGING_LEVEL"}
        assert quiet <= client_environment("u", {}).keys()
        assert not quiet & client_environment("u", {"PREFECT_LOGGING_LEVEL": "DEBUG"}).keys()
        chosen = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
        assert client_environment("u", chosen).items() >= chosen.items()

    def test_nothing_is_reported_to_anybody(self, tmp_path: Path) -> None:
        for settings in (client_environment("u", {}), server_environment(tmp_path, {})):
            assert settings["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
            assert settings["DO_NOT_TRACK"] == "1"

    def test_the_server_keeps_the_callers_database(self, tmp_path: Path) -> None:
        name = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
        settings = server_environment(tmp_path, {name: "x", "PREFECT_API_URL": ""})
        assert settings[name] == "x"
        assert "PREFECT_API_URL" not in settings


# From here on, the real thing.

COMMAND = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from flows.private_server import ensure_server, flush_events
number, nap_s = int(sys.argv[1]), float(sys.argv[2])
with ensure_server() as server:
    from prefect import flow, task
    server.wait_ready({PATIENCE_S})
    print(server.url, flush=True)

    @task
    def tiny(i):
        time.sleep(nap_s)

    @flow
    def many():
        print("running", flush=True)
        tiny.map(range(number)).wait()
        while not os.path.exists(sys.argv[3]):
            time.sleep(0.05)

    many()
    assert flush_events()
sys.stdout.flush()
os._exit(0)
"""


def _command(
    home: Path, number: int, nap_s: float = 0.0, end_when: Path = ROOT
) -> subprocess.Popen[str]:
    """A command in an environment like a user's: so many tasks, then it waits for a file."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "PYTEST"))}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(number), str(nap_s), str(end_when)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environ, "PREFECT_HOME": str(home)},
    )


def _count(home: Path, column: str, table: str) -> Counter[str]:
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        return Counter(value for (value,) in database.execute(f"select {column} from {table}"))


@pytest.fixture(scope="module")
def home_with_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where three commands ran at once: of 600 tasks, of 40, and one that was killed."""
    home = tmp_path_factory.mktemp("prefect")
    killed = home / "killed"
    commands = [_command(home, 600, end_when=killed), _command(home, 40, end_when=killed)]
    victim = _command(home, 4, nap_s=1000)
    with victim:
        assert victim.stdout is not None
        url = victim.stdout.readline()
        assert victim.stdout.readline() == "running\n"
        time.sleep(0.5)
        victim.kill()
        victim.communicate()
    killed.touch()
    ends = [(*c.communicate(timeout=PATIENCE_S), c.returncode) for c in commands]
    alive = choose_folder(home, {}).is_alive()
    assert ends == [(f"{url}running\n", "", 0)] * 2
    assert not alive  # looked at at once: the last command has waited
    return home


def test_all_task_runs_of_commands_at_once_are_stored(home_with_runs: Path) -> None:
    runs = _count(home_with_runs, "state_type", "task_run")
    assert runs["COMPLETED"] == 640
    assert runs.keys() <= {"COMPLETED", "PENDING", "RUNNING"}  # of the killed one
    states = _count(home_with_runs, "type", "task_run_state")
    assert states["COMPLETED"] == 640
    assert min(states["PENDING"], states["RUNNING"]) >= 640
    assert choose_folder(home_with_runs, {}).log_path.read_text() == ""


def test_the_run_of_a_killed_command_is_seen_to_have_crashed(home_with_runs: Path) -> None:
    assert _count(home_with_runs, "state_type", "flow_run") == {"COMPLETED": 2, "CRASHED": 1}


@pytest.mark.slow
def test_a_killed_command_takes_the_server_with_it(home_with_runs: Path) -> None:
    folder = choose_folder(home_with_runs, {})
    command = _command(home_with_runs, 4, nap_s=1000)
    with command:
        assert command.stdout is not None
        assert command.stdout.readline() + command.stdout.readline()
        time.sleep(0.5)
        command.kill()
        command.communicate()
    assert _wait_until_gone(folder, 30) < 30
    assert _count(home_with_runs, "state_type", "flow_run")["CRASHED"] == 2


@pytest.mark.slow
def test_a_killed_server_costs_nothing(home_with_runs: Path) -> None:
    folder = choose_folder(home_with_runs, {})
    stored = _count(home_with_runs, "state_type", "task_run")["COMPLETED"]
    command = _command(home_with_runs, 50, nap_s=8.0)  # all of them at the same time
    with command:
        assert command.stdout is not None
        assert command.stdout.readline() + command.stdout.readline()
        time.sleep(3)
        os.kill(_pid(folder), signal.SIGKILL)
        _, errors = command.communicate(timeout=PATIENCE_S)
    assert (command.returncode, errors) == (0, "")
    assert _count(home_with_runs, "state_type", "task_run")["COMPLETED"] == stored + 50
    assert not folder.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(5))
def test_all_task_runs_are_stored_each_time(attempt: int, tmp_path: Path) -> None:
    command = _command(tmp_path, 600)
    _, errors = command.communicate(timeout=PATIENCE_S)
    assert (command.returncode, errors) == (0, "")
    assert _count(tmp_path, "state_type", "task_run") == {"COMPLETED": 600}
