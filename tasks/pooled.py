"""Steps that run as flow runs of their own, on the work pool of GPUs, while their caller waits.

What they make lies in the store, so nothing comes back but whether they ended well. A step that
crashes is run again by the automation of `make deploy`, and waited for; a caller that is ended ends
what it started.
"""

from __future__ import annotations

import time
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from e2i.cache.config import CacheConfig
from e2i.cache.info import cache_info
from e2i.configuration import Configuration
from e2i.datasets.config import MetadataConfig
from e2i.encoders.config import EncodersConfig
from e2i.errors import ConfigError, RunFailedError
from e2i.heads.config import HeadsConfig
from e2i.storage import Folder
from e2i.store_layout import join_url, split_url
from e2i.tracking.config import TrackingConfig
from e2i.training.config import TrainingConfig
from tasks.learning import Trained
from tasks.policy import WHOLE_TIMEOUT_S

EMBEDDING = "e2i-cache-embeddings/cache-embeddings"
TRAINING = "e2i-train-projection/train-projection"
POLL_S = 5.0
CRASH_PATIENCE_S = 180.0
"""How long a crashed step may take to be scheduled again; the automation waits for a minute."""

_OPTIONS: dict[str, Any] = {"timeout_seconds": WHOLE_TIMEOUT_S, "persist_result": False}


@task(name="embed-on-pool", task_run_name="embed {source.split} on a pool", **_OPTIONS)
def embed_on_pool(
    source: MetadataConfig,
    cache_url: str,
    encoders: EncodersConfig,
    cache: CacheConfig,
    runner: Configuration,
) -> dict[str, int]:
    """Embed a split where the GPUs are, by that task runner; what the cache then holds.

    Raises:
        ConfigError: the deployment is not there.
        RunFailedError: the step did not end well.
    """
    parameters = {
        "source": source.model_dump(mode="json"),
        "cache_dir": cache_url,
        "encoders": encoders.model_dump(mode="json"),
        "cache": cache.model_dump(mode="json"),
        "runner": runner.model_dump(mode="json"),
    }
    _run_and_wait(EMBEDDING, f"embed {split_url(cache_url)[1]}", parameters)
    info = cache_info(Folder(cache_url))
    return {
        "clips": info.audio.stored,
        "captions": info.text.stored,
        "failed": info.audio.failed,
    }


@task(
    name="train-on-pool",
    task_run_name="train {checkpoint_name} on a pool",
    **_OPTIONS,
)
def train_on_pool(
    cache_urls: list[str],
    val_cache_url: str,
    output_url: str,
    checkpoint_name: str,
    heads: HeadsConfig,
    training: TrainingConfig,
    tracking: TrackingConfig,
    label: str = "",
) -> Trained:
    """Train heads where the GPUs are; takes what `tasks.learning.train` takes.

    Raises:
        ConfigError: the deployment is not there.
        RunFailedError: the step did not end well.
    """
    parameters = {
        "cache_dir": cache_urls,
        "val_cache_dir": val_cache_url,
        "output_dir": output_url,
        "checkpoint_name": checkpoint_name,
        "heads": heads.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "tracking": tracking.model_dump(mode="json"),
    }
    _run_and_wait(TRAINING, f"train {label or 'projection'} heads", parameters)
    return Trained(join_url(output_url, checkpoint_name), counts={}, metrics={}, notes=())


def _run_and_wait(deployment: str, name: str, parameters: dict[str, Any]) -> None:
    try:
        started = run_deployment(deployment, parameters=parameters, flow_run_name=name, timeout=0)
    except ObjectNotFound as error:
        raise ConfigError(
            f"placement 'pools' needs a deployment that is not there: got no {deployment} on the "
            "Prefect server, expected it on the work pool of GPUs. Register it with `make deploy`."
        ) from error
    run = cast("FlowRun", started)  # a coroutine only where one is awaited
    get_run_logger().info("%s: flow run %s of %s", name, run.id, deployment)
    with get_client(sync_client=True) as client:
        try:
            state = _ended(client, run.id)
        except BaseException:
            client.set_flow_run_state(run.id, State(type=StateType.CANCELLING))
            raise
    if not state.is_completed():
        raise RunFailedError(
            f"a step on the work pool did not end well: got {state.name} ({state.message}) of "
            f"{name}, flow run {run.id}, expected Completed. Read its log; what is stored stays."
        )


def _ended(client: SyncPrefectClient, run_id: UUID) -> State[Any]:
    """The state that a flow run ends in; a crash is none before it had time to be run again."""
    crashed_since: float | None = None
    while True:
        state = client.read_flow_run(run_id).state
        if state is not None and state.is_crashed():
            crashed_since = crashed_since or time.monotonic()
            if time.monotonic() - crashed_since > CRASH_PATIENCE_S:
                return state
        elif state is not None and state.is_final():
            return state
        else:
            crashed_since = None
        time.sleep(POLL_S)
