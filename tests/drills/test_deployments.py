"""A real Prefect server and worker: deployed, run, watched, and asked over the API."""

from __future__ import annotations

import time
from typing import Any

from deployed import SLOW, Worker
from prefect_server import PrefectServer, wait

from s3_server import S3Server

SMALL = {"num_development": 40, "num_validation": 12, "num_evaluation": 12}


def test_server_and_deployments_are_brought_up_again_as_they_are(prefect: PrefectServer) -> None:
    def held() -> dict[str, list[str]]:
        return {
            kind: sorted(one["name"] for one in prefect.ask(f"/{kind}/filter"))
            for kind in ("automations", "deployments", "work_pools")
        }

    assert "already answers" in prefect.make("server")
    before = held()
    assert all(before.values())
    stores = {
        "STORE_URL": prefect.get("/deployments/name/e2i/full-pipeline")["parameters"]["store_url"],
        "DEMO_STORE_URL": prefect.get("/deployments/name/e2i/demo")["parameters"]["store_url"],
    }
    said = prefect.make("deploy", **stores)
    prefect.pause("e2i-reevaluate/nightly")
    assert "Work pool e2i-gpu (process, 1 at a time) is up to date" in said
    assert "Automation 'e2i: run a crashed run again' is up to date" in said
    assert held() == before


def test_a_schedule_has_runs_ahead(prefect: PrefectServer) -> None:
    """Prefect's server plans them by itself, a while after the schedule is there."""
    prefect.resume("e2i-reevaluate/nightly")
    try:
        planned = wait(
            "runs ahead",
            lambda: prefect.ask(
                "/flow_runs/filter",
                deployments={"name": {"any_": ["nightly"]}},
                flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}},
            ),
        )
    finally:
        prefect.pause("e2i-reevaluate/nightly")
    assert all("T03:00:00" in run["expected_start_time"] for run in planned)


def test_the_demo_runs_on_a_worker(prefect: PrefectServer, worker: Worker) -> None:
    prefect.run("e2i/demo", soundscapes=SMALL)
    run = prefect.latest_run("demo")
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
    assert worker.runs


def test_the_full_pipeline_rides_out_ten_seconds_without_its_store(
    prefect: PrefectServer, worker: Worker, mortal_s3_server: S3Server
) -> None:
    server = mortal_s3_server
    worker.embeds_at(SLOW)
    parameters: dict[str, Any] = {
        "store_url": f"{server.url}/pipeline",
        "dataset": "soundscapes",
        "soundscapes": SMALL,
        "encoders": {"audio_encoder": "logmel", "text_encoder": "hashing"},
        "images": {"image_size": "native"},
        "cache": {"chunk_size": 5},
    }
    run = prefect.submit("e2i/full-pipeline", **parameters)
    wait("embedding", worker.embedded)
    server.kill()
    time.sleep(10)
    server.start()
    worker.embeds_at(0.0)
    wait("the end", lambda: prefect.state(run) in {"COMPLETED", "FAILED", "CRASHED"})
    assert prefect.state(run) == "COMPLETED", prefect.log(run, level=40)
    tasks = prefect.task_runs(run)
    assert {task["state_type"] for task in tasks} == {"COMPLETED"}
    assert any(task["run_count"] > 1 for task in tasks), "nothing was tried again"
    assert worker.runs


def test_a_failed_run_says_how_to_go_on(prefect: PrefectServer, worker: Worker) -> None:
    prefect.run("e2i-cache-images/cache-images", code=1)
    run = prefect.latest_run("cache-images")
    assert run["state_type"] == "FAILED"
    (line,) = [line for line in prefect.log(run["id"], level=40) if "flow-run retry" in line]
    assert line == (
        "The run ended as Failed. What it stored stays, and nothing of that is made again: "
        f"`prefect flow-run retry {run['id']}`, or Retry in the UI, goes on from there."
    )


def test_a_wrong_parameter_is_refused_at_submission(prefect: PrefectServer) -> None:
    done = prefect.run("e2i/demo", code=1, training={"epochs": 0})
    assert "epochs" in done.stdout + done.stderr


def test_every_parameter_has_its_definition(prefect: PrefectServer) -> None:
    for name in ("demo", "full-pipeline"):
        deployment = prefect.get(f"/deployments/name/e2i/{name}")
        schema = deployment["parameter_openapi_schema"]
        assert "EncodersConfig" in schema["definitions"]
        encoder = schema["definitions"]["EncodersConfig"]["properties"]["audio_encoder"]
        assert encoder["description"]
        assert "logmel" in next(one["enum"] for one in encoder["anyOf"] if "enum" in one)
        assert deployment["parameters"]["store_url"].startswith("/")
