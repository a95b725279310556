"""Tasks that look again at what is published: find it, look for drift, evaluate and compare."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, replace
from typing import Any

from prefect import get_run_logger, task
from prefect.events import emit_event
from prefect.runtime import flow_run

from e2i.cache.config import CacheConfig
from e2i.cache.header import read_header
from e2i.cache.reader import open_cache
from e2i.datasets.config import MetadataConfig
from e2i.datasets.tabular import read_metadata
from e2i.decoding.pool import WaveformLoader
from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import load_audio_encoder, load_text_encoder
from e2i.errors import ConfigError, PublishError
from e2i.publishing.published import Promotion, Published, read_published
from e2i.reevaluation.config import ReevaluationConfig
from e2i.reevaluation.drift import Drift, find_drift
from e2i.reevaluation.reevaluate import (
    HowToReevaluate,
    Recorded,
    RunIdentity,
    reevaluate,
)
from e2i.reevaluation.verdict import Verdict
from e2i.report.scores import Metrics
from e2i.retrieval.comparison import Difference
from e2i.storage import Folder
from e2i.store_layout import StoreLayout
from e2i.tracking.config import TrackingConfig
from e2i.tracking.tracker import tracked
from tasks.artifacts import comparison_artifacts, scores_artifact
from tasks.evaluating import relevance_of
from tasks.policy import TRIED_AGAIN, WHOLE_TIMEOUT_S
from tasks.progress import Stage
from tasks.stored_origin import stored_encoders
from tasks.tracking import (
    cache_artifact,
    flow_run_tracker,
    run_facts,
    score_values,
    tags_of,
)

EVENT_PREFIX = "e2i.reevaluation."


@dataclass(frozen=True)
class Target:
    """What is published, and how its evaluation cache is brought up to date.

    Attributes:
        published: what is published.
        source: the recordings and captions of the evaluation cache.
        encoders: those that it was made with.
        cache: how it stores embeddings.
    """

    published: Published
    source: MetadataConfig
    encoders: EncodersConfig
    cache: CacheConfig

    @property
    def promotion(self) -> Promotion:
        """The promotion that is in use."""
        return self.published.current

    @property
    def cache_url(self) -> str:
        """The evaluation cache."""
        return self.promotion.evaluation.url


@dataclass(frozen=True)
class Judged:
    """What a re-evaluation came to.

    Attributes:
        metrics: today's scores.
        differences: today's less the last accepted, by key.
        verdict: what it comes to.
        notes: what a reader has to know; the first says what it comes to.
        record_url: where it is stored.
    """

    metrics: Metrics
    differences: dict[str, Difference]
    verdict: Verdict
    notes: tuple[str, ...]
    record_url: str


@task(
    name="find-published",
    task_run_name="find-published",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def find_published(
    store_url: str, source: MetadataConfig, encoders: EncodersConfig, cache: CacheConfig
) -> Target:
    """Read what is published, and how its evaluation cache was made.

    Raises:
        NothingPublishedError: nothing is.
        ConfigError: the cache is to be embedded anew, or does not say what it was made from.
    """
    if cache.force:
        raise ConfigError(
            "a re-evaluation does not replace what is stored: got force, expected it off, as drift "
            "would not show. Embed with `e2i cache-embeddings --force`."
        )
    published = read_published(Folder(StoreLayout(store_url).store_url))
    folder = Folder(published.current.evaluation.url)
    header = read_header(folder)
    metadata = source.metadata or open_cache(folder).manifest.source or None
    if metadata is None:
        raise ConfigError(
            f"the evaluation cache does not say what it was made from: got {folder.url} without a "
            "source, expected --metadata. Give the one that `e2i cache-embeddings` was given."
        )
    return Target(
        published=published,
        source=source.model_copy(
            update={"metadata": metadata, "split": source.split or header.split}
        ),
        encoders=stored_encoders(encoders, header),
        cache=cache.model_copy(update={"store_windows": header.audio.store_windows}),
    )


@task(
    name="find-drift",
    task_run_name="find-drift",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def look_for_drift(target: Target, config: ReevaluationConfig) -> Drift:
    """Embed a random sample of clips anew, and compare with what is stored."""
    cache = open_cache(Folder(target.cache_url))
    encoders = target.encoders
    loader = WaveformLoader(encoders.resampler, encoders.decode_workers, encoders.decode_timeout)
    seed = config.drift_seed if config.drift_seed is not None else secrets.randbits(32)
    with Stage("embed a sample anew", config.drift_sample, "clips") as stage:
        drift = find_drift(
            cache,
            cache.load(),
            read_metadata(target.source),
            (load_audio_encoder(encoders), load_text_encoder(encoders)),
            loader,
            sample=config.drift_sample,
            seed=seed,
            measure=loader.measure,
            decoders=loader.at_once,
        )
        stage.outcome = f"{drift.clips} clips, {len(drift.moved)} moved"
    for one in drift.moved:
        get_run_logger().warning("%s moved: %s", one.id, one.reason)
    return drift


@task(
    name="reevaluate",
    task_run_name="reevaluate",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def evaluate_and_compare(
    store_url: str,
    target: Target,
    drift: Drift,
    counts: dict[str, int],
    how: HowToReevaluate,
    tracking: TrackingConfig,
    date: str,
) -> Judged:
    """Evaluate what is published, compare with the last accepted result, store and show it."""
    cache = open_cache(Folder(target.cache_url))
    run = RunIdentity(flow_run.get_id() or "", date)
    how = replace(how, relevance=relevance_of(how.evaluation))
    settings = {
        "cache": cache.folder.url,
        "checkpoint": target.promotion.checkpoint.url,
        "promotion": target.promotion.number,
        "reevaluation": how.reevaluation.model_dump(mode="json"),
        **run_facts(),
    }
    with (
        tracked(flow_run_tracker("eval", tracking, tags_of([cache])), settings) as tracker,
        Stage("evaluate what is published", cache.manifest.counts.captions, "captions") as stage,
    ):
        try:
            recorded = reevaluate(
                store_url, target.published, cache, drift, how, run=run, counts=counts
            )
        except PublishError as error:
            _tell("damaged", {"message": str(error), "outcome": "damaged"})
            raise
        stage.outcome = recorded.result.verdict.outcome
        tracker.summary(score_values(recorded.metrics, cache.manifest.split, seen=False))
        tracker.artifact(cache_artifact(cache))
    _show(recorded, cache.manifest.dataset, cache.manifest.split)
    return Judged(
        metrics=recorded.metrics,
        differences=dict(recorded.result.comparison.differences),
        verdict=recorded.result.verdict,
        notes=recorded.notes,
        record_url=recorded.url,
    )


def _show(recorded: Recorded, dataset: str, split: str) -> None:
    """Artifacts of every run, and events of those that somebody should look at."""
    result = recorded.result
    scores_artifact(recorded.metrics, dataset, split, result.found.notes)
    comparison_artifacts(
        result.comparison.differences, dataset, split, recorded.notes, recorded.url
    )
    if result.verdict.accepted:
        return
    happened = {
        result.verdict.outcome: result.verdict.failed,
        "dropped": bool(result.verdict.dropped),
        "drifted": bool(result.drift.moved),
    }
    for name in (name for name, true in happened.items() if true):
        _tell(
            name,
            {
                "message": " ".join(recorded.notes),
                "outcome": result.verdict.outcome,
                "record": recorded.url,
                "dropped": {
                    metric: asdict(result.comparison.differences[metric])
                    for metric in result.verdict.dropped
                },
                "moved": [one.id for one in result.drift.moved],
            },
        )


def _tell(happened: str, payload: dict[str, Any]) -> None:
    """An event of this run, which the automation of `deployments/notification.py` listens to."""
    emit_event(
        event=f"{EVENT_PREFIX}{happened}",
        resource={"prefect.resource.id": f"prefect.flow-run.{flow_run.get_id()}"},
        payload=payload,
    )
