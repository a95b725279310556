"""Tasks that bring a data set: for now, the generated soundscapes."""

from __future__ import annotations

from prefect import task

from e2i.datasets.soundscapes.config import SoundscapesConfig
from e2i.datasets.soundscapes.generate import generate_soundscapes
from e2i.storage import Folder
from tasks.policy import TRIED_AGAIN, WHOLE_TIMEOUT_S
from tasks.progress import Stage, progress_sink


@task(
    name="generate-soundscapes",
    task_run_name="generate-soundscapes",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def generate_dataset(data_url: str, config: SoundscapesConfig) -> dict[str, int]:
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
    return {"generated": counts.generated, "generated_before": counts.reused}
