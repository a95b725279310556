"""Tasks that bring a data set: for now, the generated soundscapes."""

from __future__ import annotations

from prefect import task

from e2i.datasets.soundscapes.config import SoundscapesConfig
from e2i.datasets.soundscapes.generate import GenerationCounts, generate_soundscapes
from e2i.storage import Folder
from tasks.policy import RETRIES, RETRY_DELAYS_S, RETRY_JITTER, WHOLE_TIMEOUT_S, may_pass
from tasks.progress import Stage, progress_sink


@task(
    name="generate-soundscapes",
    task_run_name="generate-soundscapes",
    tags=["data"],
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_jitter_factor=RETRY_JITTER,
    retry_condition_fn=may_pass,
    timeout_seconds=WHOLE_TIMEOUT_S,
    persist_result=False,
)
def generate_dataset(data_url: str, config: SoundscapesConfig) -> GenerationCounts:
    """Generate the soundscapes that are not there yet."""
    total = config.num_development + config.num_validation + config.num_evaluation
    name = "generate soundscapes"
    with Stage(name, total, "clips") as stage:
        counts = generate_soundscapes(
            Folder(data_url),
            config,
            progress=lambda count: progress_sink().advance(name, count),
        )
        stage.outcome = f"{counts.generated} clips generated, {counts.reused} were there"
    return counts
