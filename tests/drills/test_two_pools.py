"""A full pipeline of which only embedding and training run on the pool of GPUs."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from deployed import (
    CLIPS,
    HELD,
    IN_FLIGHT,
    SLOW,
    Worker,
    check_stored_once,
    small_pipeline,
    stored,
)
from prefect_server import PrefectServer, wait

STEPS = ["cache-embeddings"] * 3 + ["train-projection"]


def _steps(prefect: PrefectServer, parent: str) -> list[dict[str, Any]]:
    """The runs that the pipeline started, in the order of their beginning."""
    children = {"parent_flow_run_id": {"any_": [parent]}}
    return list(prefect.ask("/flow_runs/filter", flow_runs=children, sort="START_TIME_ASC"))


@pytest.mark.long
def test_embedding_and_training_run_on_the_gpu_pool_and_outlive_a_kill(
    prefect: PrefectServer, worker: Worker, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    worker.embeds_at(SLOW)
    parameters = small_pipeline(store, placement="pools")
    run = prefect.submit("e2i/full-pipeline-two-pools", **parameters)
    wait("embedding", lambda: len(stored(store)) >= 2)
    worker.embeds_at(HELD)
    (step,) = _steps(prefect, run)
    os.kill(prefect.process_of(step["id"]), signal.SIGKILL)
    wait("the crash", lambda: prefect.state(step["id"]) == "CRASHED")
    before = stored(store)
    worker.embeds_at(0.0)
    wait("the end", lambda: prefect.state(run) not in {"RUNNING", "PENDING", "SCHEDULED"}, 900)
    assert prefect.state(run) == "COMPLETED", prefect.log(run, level=40)
    parent, steps = prefect.flow_run(run), _steps(prefect, run)
    assert parent["work_pool_name"] == "e2i-cpu"
    assert parent["run_count"] == 1
    deployments = {one["id"]: one["name"] for one in prefect.ask("/deployments/filter")}
    assert [deployments[one["deployment_id"]] for one in steps] == STEPS
    splits = [one["name"].split("-")[1] for one in steps[:3]]
    assert splits == ["development", "validation", "evaluation"]
    for one in steps:
        assert (one["work_pool_name"], one["state_type"]) == ("e2i-gpu", "COMPLETED")
        assert one["infrastructure_pid"] != parent["infrastructure_pid"]
    assert steps[0]["run_count"] >= 2
    assert [one["run_count"] for one in steps[1:]] == [1, 1, 1]
    spans = [span for one in steps for span in prefect.at_work(one["id"])]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    check_stored_once(store, before)
    assert sum(worker.embedded().values()) <= CLIPS + IN_FLIGHT
    own = {task["name"] for task in prefect.task_runs(run)}
    assert not any("chunk" in name and "embed" in name for name in own)
