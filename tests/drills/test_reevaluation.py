"""On a real Prefect server: a spoiled checkpoint fails its re-evaluation, and somebody is told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import PROGRAM
from e2i.datasets.soundscapes.config import SoundscapesConfig
from e2i.datasets.soundscapes.generate import generate_soundscapes
from e2i.heads.checkpoint import load_checkpoint, save_checkpoint
from e2i.storage import Folder
from plain_program import e2i, plain_program

ROOT = Path(__file__).parents[2]
SIZES = SoundscapesConfig(num_development=120, num_validation=40, num_evaluation=60)
FIRST = "text_to_audio_mAP@10"
MAKE_BLOCK = """\
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
CustomWebhookNotificationBlock(
    name="drill", url=sys.argv[1], json_data={"subject": "{{subject}}", "body": "{{body}}"}
).save("drill")
"""


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Soundscapes, embedded; heads that find them, and the same with noise on their weights."""
    url = str(tmp_path_factory.mktemp("reevaluation") / "store")
    generate_soundscapes(Folder(f"{url}/data/soundscapes"), SIZES)
    with plain_program():
        for split in ("development", "validation", "evaluation"):
            captions = f"{url}/data/soundscapes/clotho_csv_files/clotho_captions_{split}.csv"
            said = e2i(
                *("cache-embeddings", "--metadata", captions, "--no-progress"),
                *("--cache-dir", f"{url}/embeddings/{split}", "--snapshot", "never"),
                *("--audio-encoder", "logmel", "--text-encoder", "hashing"),
            )
            assert said.code == 0, said.err
        said = e2i(
            *("train-projection", "--cache-dir", f"{url}/embeddings/development"),
            *("--output-dir", f"{url}/checkpoints", "--log-dir", f"{url}/logs"),
            *("--device", "cpu", "--wandb-mode", "disabled"),
        )
        assert said.code == 0, said.err
    checkpoints = Folder(f"{url}/checkpoints")
    good = load_checkpoint(checkpoints, "projection_heads.safetensors")
    noise = torch.Generator().manual_seed(0)
    weights = {
        name: tensor + 2 * tensor.std(correction=0) * torch.randn(tensor.shape, generator=noise)
        for name, tensor in good.weights.items()
    }
    save_checkpoint(checkpoints, "spoiled.safetensors", replace(good, weights=weights))
    return url


class _Webhook(BaseHTTPRequestHandler):
    told: list[dict[str, str]]

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        self.told.append(json.loads(self.rfile.read(size)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A webhook on loopback, and what it was told."""
    told: list[dict[str, str]] = []
    handler = type("Handler", (_Webhook,), {"told": told})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", told
        server.shutdown()
        thread.join()


class Prefect:
    """A server on this machine, and what its API answers."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = {
            **os.environ,
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "E2I_NOTIFICATION_BLOCK": "custom-webhook/drill",
        }

    def call(self, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def python(self, *words: str) -> str:
        return self.call(sys.executable, *words).stdout

    def ask(self, route: str, **body: Any) -> Any:
        request = urllib.request.Request(
            self.api + route,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def events(self, *names: str) -> list[dict[str, Any]]:
        return list(self.ask("/events/filter", filter={"event": {"name": list(names)}})["events"])


@pytest.fixture
def prefect(tmp_path: Path) -> Iterator[Prefect]:
    server = Prefect(tmp_path / "prefect")
    try:
        server.python("-m", "deployments.local_server", "start", "--port", str(server.port))
        yield server
    finally:
        server.python("-m", "deployments.local_server", "stop")


def _until(found: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.3)
    pytest.fail(f"{what} did not come")


def test_a_spoiled_checkpoint_fails_the_run_and_somebody_is_told(
    store_url: str, prefect: Prefect, webhook: tuple[str, list[dict[str, str]]]
) -> None:
    url, told = webhook
    prefect.python("-c", MAKE_BLOCK, url)
    for words in ("is made", "is up to date"):
        said = prefect.python("-m", "deployments.automations")
        assert f"Automation 'e2i: tell of a re-evaluation' {words}" in said
    publish = (PROGRAM, "publish", "--store-url", store_url, "--device", "cpu")
    options = ("--device", "cpu", "--wandb-mode", "disabled", "--json")
    reevaluate = (PROGRAM, "reevaluate", "--store-url", store_url, *options)
    prefect.call(*publish)

    first = json.loads(prefect.call(*reevaluate).stdout)
    assert (first["details"]["outcome"], first["details"]["accepted"]) == ("unchanged", True)
    assert first["details"]["differences"][FIRST]["value"] == 0

    prefect.call(*publish, "--checkpoint", f"{store_url}/checkpoints/spoiled.safetensors")
    failed = prefect.call(*reevaluate, code=1)
    assert failed.stdout == ""
    index = json.loads(Path(store_url, "reports", "reevaluations.json").read_text())
    assert [one["outcome"] for one in index["entries"]] == ["unchanged", "dropped"]
    name = index["entries"][1]["name"]
    record = json.loads(Path(store_url, "reports", f"{name}.json").read_text())
    drop = record["reevaluation"]["differences"][FIRST]
    assert drop["value"] < -0.2
    assert drop["low"] <= drop["value"] <= drop["high"] < 0
    words = (
        f"{FIRST} fell by {-drop['value']:.3f} ({drop['second']:.3f} to {drop['first']:.3f}, "
        f"95 % interval {-drop['high']:.3f} to {-drop['low']:.3f}, p = {drop['p_holm']:.4f})"
    )
    assert words in failed.stderr

    run_id = index["entries"][1]["run_id"]
    (run,) = prefect.ask("/flow_runs/filter", flow_runs={"id": {"any_": [run_id]}})
    assert (run["name"], run["state_type"]) == ("reevaluate-store", "FAILED")
    assert words in run["state"]["message"]
    (event,) = _until(lambda: prefect.events("e2i.reevaluation.dropped"), "the event")
    assert event["resource"]["prefect.resource.id"] == f"prefect.flow-run.{run_id}"
    assert FIRST in event["payload"]["dropped"]

    _until(lambda: told, "the notification")
    fired = _until(lambda: prefect.events("prefect.automation.triggered"), "the automation")
    assert fired[0]["resource"]["prefect.resource.name"] == "e2i: tell of a re-evaluation"
    assert told[0]["subject"] == "e2i: reevaluate-store needs somebody to look at it"
    assert words in told[0]["body"]
    assert f"Flow run: {run_id}" in told[0]["body"]
    artifacts = prefect.ask("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run_id]}})
    by_key = {artifact["key"]: artifact for artifact in artifacts}
    assert FIRST in by_key["reevaluation-evaluation"]["data"]
    assert name in by_key["reevaluation-record-evaluation"]["data"]
    assert len(prefect.events("prefect.automation.triggered")) == len(told) == 1
