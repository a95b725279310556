"""The flow `e2i-reevaluate`: whether what is published is still as good as it was."""

from __future__ import annotations

from dataclasses import asdict, replace

from prefect.runtime import flow_run

from e2i.cache.config import CacheConfig
from e2i.datasets.config import MetadataConfig
from e2i.encoders.config import EncodersConfig
from e2i.errors import RunFailedError
from e2i.reevaluation.config import ReevaluationConfig
from e2i.reevaluation.reevaluate import HowToReevaluate
from e2i.retrieval.config import ComparisonConfig, EvaluationConfig
from e2i.store_layout import StoreLayout, split_url
from e2i.tracking.config import TrackingConfig
from flows.caching import embed_split
from flows.chunk_threads import CHUNK_RUNNER
from flows.flow_setup import flow
from flows.parameters import DATA_ROOT
from flows.run_record import RunRecord, started_at_utc
from flows.summary import RunSummary
from tasks.reevaluating import evaluate_and_compare, find_published, look_for_drift


def name_reevaluation() -> str:
    """Name of a flow run: what is looked at."""
    return f"reevaluate-{split_url(str(flow_run.get_parameters().get('store_url')))[1]}"


@flow(
    name="e2i-reevaluate",
    flow_run_name=name_reevaluation,
    task_runner=CHUNK_RUNNER,
    persist_result=False,
)
def reevaluate(
    store_url: str = DATA_ROOT,
    source: MetadataConfig = MetadataConfig(),
    encoders: EncodersConfig = EncodersConfig(),
    cache: CacheConfig = CacheConfig(),
    reevaluation: ReevaluationConfig = ReevaluationConfig(),
    evaluation: EvaluationConfig = EvaluationConfig(),
    comparison: ComparisonConfig = ComparisonConfig(),
    tracking: TrackingConfig = TrackingConfig(log_dir=""),
) -> RunSummary:
    """Evaluate what is published on today's recordings, by today's code; fail where it dropped.

    Args:
        store_url: Absolute folder or URL of the store that it is published in.
        source: Where the recordings and captions are; default: what the cache has on record.
        encoders: Which encoders, and how they run; default: those that the cache has on record.
        cache: How embeddings are stored.
        reevaluation: What is tolerated, and how drift is looked for.
        evaluation: How retrieval is evaluated.
        comparison: How the result is compared with the last accepted one.
        tracking: Where the run is logged; by default below the store.
    """
    layout = StoreLayout(store_url)
    record = RunRecord()
    target = find_published(store_url, source, encoders, cache)
    record.locations["cache"] = target.cache_url
    counts = embed_split(target.source, target.cache_url, target.encoders, target.cache)
    record.add_embedded(counts, target.cache_url)
    drift = look_for_drift(target, reevaluation)
    record.add({"drawn": drift.clips, "moved": len(drift.moved)})
    tracking = tracking.model_copy(update={"log_dir": tracking.log_dir or layout.logs_url})
    judged = evaluate_and_compare(
        store_url,
        target,
        drift,
        dict(record.counts),
        HowToReevaluate(reevaluation, evaluation, comparison, device=target.encoders.device),
        tracking,
        started_at_utc(),
    )
    record.locations |= {
        "checkpoint": target.promotion.checkpoint.url,
        "report": judged.record_url,
        "logs": tracking.log_dir,
    }
    if judged.verdict.failed:
        raise RunFailedError(f"{' '.join(judged.notes)} The record is {judged.record_url}.")
    record.notes += judged.notes
    details = {
        "outcome": judged.verdict.outcome,
        "accepted": judged.verdict.accepted,
        "differences": {name: asdict(one) for name, one in judged.differences.items()},
        "moved": [one.id for one in drift.moved],
    }
    return replace(record.summary(metrics=judged.metrics), details=details)
