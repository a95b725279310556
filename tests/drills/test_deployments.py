"""A real Prefect server and worker: deployed, run, watched, and asked over the API."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conftest import Start
from s3_server import S3Server

ROOT = Path(__file__).parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))
SMALL = {"num_development": 40, "num_validation": 12, "num_evaluation": 12}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prefect:
    """A server on this machine, and what its API answers."""

    def __init__(self, port: int, home: Path) -> None:
        self.port = port
        self.api = f"http://127.0.0.1:{port}/api"
        self.environment = {
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # A run that waits for a slot asks for it each 30 s, which is long in a drill.
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "3",
        }

    def make(self, target: str, **variables: str) -> str:
        settings = [f"{name}={value}" for name, value in variables.items()]
        done = subprocess.run(
            ["make", target, f"PREFECT_PORT={self.port}", *settings],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, route: str, **body: Any) -> Any:
        request = urllib.request.Request(
            self.api + route,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def flow_run(self, deployment: str) -> dict[str, Any]:
        runs = self.ask(
            "/flow_runs/filter",
            deployments={"name": {"any_": [deployment]}},
            sort="START_TIME_DESC",
            limit=1,
        )
        return dict(runs[0])

    def task_runs(self, flow_run_id: str) -> list[dict[str, Any]]:
        """All task runs, waited for until the server has recorded their ends."""
        deadline = time.monotonic() + 30
        while True:
            runs = self.ask(
                "/task_runs/filter", flow_runs={"id": {"any_": [flow_run_id]}}, limit=200
            )
            if all(run["state_type"] == "COMPLETED" for run in runs) and runs:
                return list(runs)
            if time.monotonic() > deadline:
                return list(runs)
            time.sleep(0.5)

    def artifacts(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        found = self.ask(
            "/artifacts/filter", artifacts={"flow_run_id": {"any_": [flow_run_id]}}, limit=200
        )
        return {artifact["key"]: artifact for artifact in found}


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """`make server` and `make deploy`; the server is ended again."""
    server = Prefect(_free_port(), tmp_path_factory.mktemp("prefect"))
    stores = tmp_path_factory.mktemp("stores")
    try:
        printed = server.make("server")
        assert f"export PREFECT_API_URL={server.api}" in printed
        assert "already answers" in server.make("server")
        for _ in range(2):
            server.make(
                "deploy",
                STORE_URL=str(stores / "full"),
                DEMO_STORE_URL=str(stores / "demo"),
            )
        yield server
    finally:
        server.make("stop-server")


@pytest.fixture
def worker(
    prefect: Prefect, start: Start, tmp_path: Path, mortal_s3_server: S3Server
) -> subprocess.Popen[str]:
    """A worker started in a folder that has nothing to do with the checkout."""
    return start(
        *("make", "-C", str(ROOT), "worker", f"PREFECT_PORT={prefect.port}"),
        environment={**prefect.environment, **mortal_s3_server.environment},
        cwd=tmp_path,
        log=tmp_path / "worker.log",
    )


def _run(prefect: Prefect, deployment: str, **parameters: Any) -> subprocess.CompletedProcess[str]:
    given = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
    return subprocess.run(
        [PREFECT, "deployment", "run", f"e2i/{deployment}", "--watch", *given],
        env={**os.environ, **prefect.environment},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_the_demo_runs_on_a_worker(prefect: Prefect, worker: subprocess.Popen[str]) -> None:
    done = _run(prefect, "demo", soundscapes=SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    run = prefect.flow_run("demo")
    assert run["state_type"] == "COMPLETED"
    assert run["name"] == "soundscapes-logmel-hashing"
    names = {task["name"] for task in prefect.task_runs(run["id"])}
    for part in ("development", "validation", "evaluation"):
        assert f"embed soundscapes {part}: audio chunk 0" in names
        assert f"embed soundscapes {part}: text chunk 0" in names
    assert {"generate-soundscapes", "train-projection", "eval-projection"} <= names
    artifacts = prefect.artifacts(run["id"])
    assert artifacts["embedding-soundscapes-evaluation"]["data"] == 100.0
    assert "text_to_audio_R@10" in str(artifacts["scores-evaluation"]["data"])
    assert artifacts["pseudo-images-evaluation"]["data"].startswith("data:image/png;base64,")
    assert worker.poll() is None


def _wait_for_a_chunk(prefect: Prefect, run_ended: Future[Any]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not run_ended.done():
        runs = prefect.ask(
            "/task_runs/filter", deployments={"name": {"any_": ["full-pipeline"]}}, limit=200
        )
        if any(run["name"].startswith("embed ") for run in runs):
            return
        time.sleep(0.2)
    pytest.fail("no chunk was embedded")


def test_the_full_pipeline_rides_out_ten_seconds_without_its_store(
    prefect: Prefect, worker: subprocess.Popen[str], mortal_s3_server: S3Server
) -> None:
    server = mortal_s3_server

    with ThreadPoolExecutor(1) as pool:
        run_ended = pool.submit(
            _run,
            prefect,
            "full-pipeline",
            store_url=f"{server.url}/pipeline",
            dataset="soundscapes",
            soundscapes=SMALL,
            encoders={"audio_encoder": "logmel", "text_encoder": "hashing"},
            images={"image_size": "native"},
            cache={"chunk_size": 5},
        )
        _wait_for_a_chunk(prefect, run_ended)
        server.kill()
        time.sleep(10)
        server.start()
        done = run_ended.result()
    assert done.returncode == 0, done.stdout + done.stderr
    run = prefect.flow_run("full-pipeline")
    assert run["state_type"] == "COMPLETED"
    tasks = prefect.task_runs(run["id"])
    assert {task["state_type"] for task in tasks} == {"COMPLETED"}
    assert any(task["run_count"] > 1 for task in tasks), "nothing was tried again"
    assert worker.poll() is None


def test_a_wrong_parameter_is_refused_at_submission(prefect: Prefect) -> None:
    done = _run(prefect, "demo", training={"epochs": 0})
    assert done.returncode == 1
    assert "epochs" in done.stdout + done.stderr


def test_every_parameter_has_its_definition(prefect: Prefect) -> None:
    for name in ("demo", "full-pipeline"):
        with urllib.request.urlopen(f"{prefect.api}/deployments/name/e2i/{name}") as answer:
            deployment = json.load(answer)
        schema = deployment["parameter_openapi_schema"]
        assert "EncodersConfig" in schema["definitions"]
        encoder = schema["definitions"]["EncodersConfig"]["properties"]["audio_encoder"]
        assert encoder["description"]
        assert "logmel" in next(one["enum"] for one in encoder["anyOf"] if "enum" in one)
        assert deployment["parameters"]["store_url"].startswith("/")
