"""A Prefect server of this machine, as `make server` starts it, and what its API answers."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
PAGE = 200
PATIENCE_S = 400.0
"""How long anything may take; ten times what it does where it has the machine to itself."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(what: str, condition: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """What the condition gives, once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.2)
    return found


class PrefectServer:
    """A server with a home of its own."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = {
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # A run that waits for a slot asks for it each 30 s, which is long in a drill.
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "3",
            **settings,
        }

    @property
    def pid(self) -> int:
        """Of the process that `make server` started."""
        return int((self.home / "e2i-server.pid").read_text("ascii"))

    def make(self, target: str, **variables: str) -> str:
        """Call make for this server; what it printed."""
        settings = [f"{name}={value}" for name, value in variables.items()]
        return self.call("make", target, f"PREFECT_PORT={self.port}", *settings).stdout

    def call(self, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a program against this server, in the checkout."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def run(
        self, deployment: str, *, code: int = 0, **parameters: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a deployment to its end, as somebody on a terminal would."""
        return self._begin(deployment, parameters, "--watch", code=code)

    def submit(self, deployment: str, **parameters: Any) -> str:
        """Start a run that is not waited for; its id."""
        return self._begin(deployment, parameters).stdout.split("UUID: ")[1].split()[0]

    def _begin(
        self, deployment: str, parameters: dict[str, Any], *options: str, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        given = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
        return self.call(PREFECT, "deployment", "run", deployment, *options, *given, code=code)

    def get(self, route: str) -> Any:
        with urllib.request.urlopen(self.api + route, timeout=60) as answer:
            return json.load(answer)

    def ask(self, route: str, **body: Any) -> Any:
        return json.loads(self._post(route, **body))

    def _post(self, route: str, **body: Any) -> bytes:
        request = urllib.request.Request(
            self.api + route,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def latest_run(self, deployment: str) -> dict[str, Any]:
        runs = self.ask(
            "/flow_runs/filter",
            deployments={"name": {"any_": [deployment]}},
            sort="START_TIME_DESC",
            limit=1,
        )
        return dict(runs[0])

    def flow_run(self, flow_run_id: str) -> dict[str, Any]:
        return dict(self.get(f"/flow_runs/{flow_run_id}"))

    def state(self, flow_run_id: str) -> str:
        return str(self.flow_run(flow_run_id)["state_type"])

    def states(self, flow_run_id: str) -> list[dict[str, Any]]:
        """All states that it went through, in their order."""
        states = self.get(f"/flow_run_states/?flow_run_id={flow_run_id}")
        return sorted(states, key=lambda state: state["timestamp"])

    def at_work(self, flow_run_id: str) -> list[tuple[str, str]]:
        """From when to when it was running, once an attempt."""
        return [
            (state["timestamp"], after["timestamp"])
            for state, after in itertools.pairwise(self.states(flow_run_id))
            if state["type"] == "RUNNING"
        ]

    def process_of(self, flow_run_id: str) -> int:
        """The process that runs it."""
        return int(self.flow_run(flow_run_id)["infrastructure_pid"])

    def task_runs(self, flow_run_id: str) -> list[dict[str, Any]]:
        """All task runs, waited for until the server has recorded their ends."""
        deadline = time.monotonic() + 60
        while True:
            runs = self.ask(
                "/task_runs/filter", flow_runs={"id": {"any_": [flow_run_id]}}, limit=PAGE
            )
            if runs and all(run["state_type"] in FINAL for run in runs):
                return list(runs)
            if time.monotonic() > deadline:
                return list(runs)
            time.sleep(0.5)

    def artifacts(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        found = self.ask(
            "/artifacts/filter", artifacts={"flow_run_id": {"any_": [flow_run_id]}}, limit=PAGE
        )
        return {artifact["key"]: artifact for artifact in found}

    def log(self, flow_run_id: str, level: int = 0) -> list[str]:
        """The run's log lines of that level or above."""
        wanted = {"flow_run_id": {"any_": [flow_run_id]}, "level": {"ge_": level}}
        lines = self.ask("/logs/filter", logs=wanted, sort="TIMESTAMP_ASC", limit=PAGE)
        return [str(line["message"]) for line in lines]

    def pause(self, deployment: str) -> None:
        """Its schedule starts no run meanwhile."""
        found = self.get(f"/deployments/name/{deployment}")
        self._post(f"/deployments/{found['id']}/pause_deployment")

    def resume(self, deployment: str) -> None:
        """Its schedule starts runs again."""
        found = self.get(f"/deployments/name/{deployment}")
        self._post(f"/deployments/{found['id']}/resume_deployment")

    def cancel_what_runs(self) -> None:
        """No run is left that holds a slot, or that a worker would begin."""
        unfinished = {"state": {"type": {"not_any_": list(FINAL)}}}
        for run in self.ask("/flow_runs/filter", flow_runs=unfinished, limit=PAGE):
            if run["auto_scheduled"]:
                continue
            self.ask(f"/flow_runs/{run['id']}/set_state", state={"type": "CANCELLED"}, force=True)
