"""The task that writes the report of one or several scored models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefect import get_run_logger, task

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.reader import open_cache
from e2i.datasets.config import MetadataConfig
from e2i.datasets.tabular import read_metadata
from e2i.errors import E2IError, is_transient
from e2i.heads.checkpoint import load_checkpoint_and_digest
from e2i.report import html
from e2i.report.config import ReportConfig
from e2i.report.content import ReportOrigin, ScoredModel, report_content
from e2i.report.queries import LoadRecording
from e2i.retrieval.config import EvaluationConfig
from e2i.storage import Folder
from e2i.store_layout import join_url, split_url
from e2i.training.evaluate import Extras, evaluate_checkpoint
from e2i.training.windows import LoadWindows, stored_windows_of
from tasks.evaluating import NO_CHECKPOINT, relevance_of
from tasks.policy import TRIED_AGAIN, WHOLE_TIMEOUT_S
from tasks.progress import Stage

DEFAULT_REPORT = ReportConfig()
_LARGEST_READ_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ReportedModel:
    """One model of a report.

    Attributes:
        name: what the reader calls it, such as `MLP`.
        checkpoint_url: where it lies; `none` compares the embeddings as they are.
    """

    name: str
    checkpoint_url: str


@task(
    name="write-report",
    task_run_name="write-report",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def write_report(
    cache_url: str,
    models: Sequence[ReportedModel],
    reports_url: str,
    evaluation: EvaluationConfig,
    source: MetadataConfig | None = None,
    report: ReportConfig = DEFAULT_REPORT,
    device: str = "auto",
    allow_seen: bool = False,
    date: str = "",
) -> str:
    """Write the report of models on a cache, named after its split; its location.

    The scores are those that `evaluate` finds: the same cache, weights and seed give the same.
    Recordings are playable where `source` says where they lie.
    """
    cache = open_cache(Folder(cache_url))
    embeddings = cache.load()
    extras = Extras(
        relevance=relevance_of(evaluation), failed_clips=frozenset(cache.manifest.audio.failed)
    )
    with Stage("write report", len(models), "models" if len(models) > 1 else "model") as stage:
        scored = [
            _scored(
                model,
                embeddings,
                evaluation,
                extras,
                device,
                load_windows=stored_windows_of(cache.folder),
                allow_seen=allow_seen,
            )
            for model in models
        ]
        content = report_content(
            scored,
            embeddings,
            evaluation,
            report,
            origin=ReportOrigin(
                date, {"audio": cache.header.audio.settings, "text": cache.header.text.settings}
            ),
            load_recording=_recordings_of(source) if source is not None else None,
            device=device,
        )
        location = html.write_report(Folder(reports_url), embeddings.split, content)
        stage.outcome = location
    return location


def _scored(
    model: ReportedModel,
    cache: CachedEmbeddings,
    evaluation: EvaluationConfig,
    extras: Extras,
    device: str,
    *,
    load_windows: LoadWindows,
    allow_seen: bool,
) -> ScoredModel:
    """A model's scores, made anew: what tasks hand on is too small to hold them."""
    checkpoint, location, digest = None, "", ""
    if model.checkpoint_url != NO_CHECKPOINT:
        folder_url, name = split_url(model.checkpoint_url)
        folder = Folder(folder_url)
        checkpoint, digest = load_checkpoint_and_digest(folder, name)
        location = join_url(folder.url, name)
    result = evaluate_checkpoint(
        checkpoint,
        cache,
        evaluation,
        allow_seen=allow_seen,
        device=device,
        load_windows=load_windows,
        extras=extras,
    )
    return ScoredModel(model.name, result, checkpoint, location, digest)


def _recordings_of(source: MetadataConfig) -> LoadRecording:
    """Reads the recordings of a split; one that cannot be had is left out, an outage is not."""
    clips = read_metadata(source)
    root = Folder(clips.audio_root_url)
    names = {clip.clip_id: clip.audio_name for clip in clips.clips}

    def load(clip_id: str) -> bytes | None:
        try:
            info = root.info(names[clip_id]) if clip_id in names else None
            if info is None or info.size_bytes > _LARGEST_READ_BYTES:
                return None
            return root.read(info.name)
        except E2IError as error:
            if is_transient(error):
                raise
            get_run_logger().info("Not playable in the report: %s", error)
            return None

    return load
