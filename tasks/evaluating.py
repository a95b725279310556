"""The task that scores projection heads on a cache, and stores what it found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prefect import task
from prefect.runtime import task_run

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.reader import Cache, open_cache
from e2i.errors import CacheNotFoundError, ConfigError
from e2i.heads.checkpoint import Checkpoint, load_checkpoint_and_digest
from e2i.report.projections import write_projections
from e2i.report.scores import (
    Metrics,
    ScoredFile,
    ScoreOrigin,
    metrics_of,
    score_record,
    write_query_tables,
    write_score_record,
)
from e2i.report.submission import write_submission
from e2i.retrieval.config import EvaluationConfig, RankingConfig
from e2i.retrieval.relevance import Relevance, read_relevance
from e2i.storage import Folder
from e2i.store_layout import join_url, public_url, split_url
from e2i.tracking.config import TrackingConfig
from e2i.tracking.tracker import StoredArtifact, tracked
from e2i.training.evaluate import Evaluation, Extras, evaluate_checkpoint
from e2i.training.pseudo_images import stored_images_of
from e2i.training.windows import stored_windows_of
from tasks.artifacts import links_artifact, scores_artifact
from tasks.policy import TRIED_AGAIN, WHOLE_TIMEOUT_S
from tasks.progress import Stage
from tasks.tracking import (
    cache_artifact,
    flow_run_tracker,
    labelled,
    provenance,
    run_facts,
    score_values,
    tags_of,
)

NO_CHECKPOINT = "none"


@dataclass(frozen=True)
class ScoreFiles:
    """Where an evaluation writes; what is empty is not written.

    Attributes:
        reports_url: folder of the score record and its tables.
        name: of the record; empty: that of the split, and the label.
        predictions: file for the similarities.
        embeddings_out: file for the projections.
    """

    reports_url: str = ""
    name: str = ""
    predictions: str = ""
    embeddings_out: str = ""


@dataclass(frozen=True)
class Scored:
    """What an evaluation found.

    Attributes:
        metrics: by key: value, low, high, chance.
        counts: clips and captions scored.
        notes: what a reader of the scores has to know.
        seen: whether clips were scored that were trained or selected on.
        locations: what was written where: `scores`, `predictions`, `embeddings`.
    """

    metrics: Metrics
    counts: dict[str, int]
    notes: tuple[str, ...]
    seen: bool
    locations: dict[str, str] = field(default_factory=dict)


def name_of_evaluation() -> str:
    """Name of an evaluation's task run."""
    label = task_run.get_parameters().get("label")
    return f"eval-projection-{label}" if label else "eval-projection"


@task(
    name="eval-projection",
    task_run_name=name_of_evaluation,
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def evaluate(
    cache_url: str,
    checkpoint_url: str,
    evaluation: EvaluationConfig,
    tracking: TrackingConfig,
    batch_size: int = 1024,
    device: str = "auto",
    allow_seen: bool = False,
    label: str = "",
    ranking: RankingConfig = RankingConfig(),
    files: ScoreFiles = ScoreFiles(),
) -> Scored:
    """Score a checkpoint, or an ensemble, on a cache; store what is asked for."""
    cache_folder = Folder(cache_url)
    opened = open_cache(cache_folder)
    cache = opened.load()
    urls = ranking.ensemble or (() if checkpoint_url == NO_CHECKPOINT else (checkpoint_url,))
    loaded = [_loaded(url) for url in urls]
    checkpoints = tuple(checkpoint for checkpoint, _ in loaded)
    extras = Extras(
        others=checkpoints[1:],
        relevance=relevance_of(evaluation),
        failed_clips=frozenset(opened.manifest.audio.failed),
        distractors=_cache(ranking.distractors),
        bank=_bank(ranking, cache_url, cache, checkpoints) if ranking.qb_norm else None,
    )
    first = checkpoints[0] if checkpoints else None
    stage_name = f"evaluate {label} retrieval" if label else "evaluate retrieval"
    run = run_facts()
    settings = {
        "cache": cache.url,
        "checkpoint": ", ".join(file.url for _, file in loaded) or NO_CHECKPOINT,
        "evaluation": evaluation.model_dump(mode="json"),
        "ranking": ranking.model_dump(mode="json"),
        "audio_fingerprint": cache.audio_fingerprint,
        "text_fingerprint": cache.text_fingerprint,
        **run,
    }
    folders = [Folder(url) for url in (cache_url, ranking.distractors) if url]
    with (
        tracked(flow_run_tracker("eval", tracking, tags_of([opened])), settings) as tracker,
        Stage(stage_name, len(cache.caption_ids), "captions") as stage,
    ):
        result = evaluate_checkpoint(
            first,
            cache,
            evaluation,
            allow_seen=allow_seen,
            batch_size=batch_size,
            device=device,
            load_stored=stored_images_of(*folders),
            load_windows=stored_windows_of(*folders),
            extras=extras,
        )
        scored = result.retrieval
        stage.outcome = (
            f"{scored.num_captions} captions against {scored.num_clips} clips"
            f"{', seen' if result.seen else ''}"
        )
        metrics = metrics_of(result)
        tracker.summary(labelled(score_values(metrics, cache.split, seen=result.seen), label))
        origin = ScoreOrigin(
            checkpoints=tuple(file for _, file in loaded),
            record=None if first is None else first.record,
            config=evaluation,
            bank="" if extras.bank is None else extras.bank.url,
            distractors="" if extras.distractors is None else extras.distractors.url,
            run={**run, "links": tracker.links()},
        )
        locations = _written(result, cache, origin, files, label)
        for artifact in _artifacts(opened, origin, locations, label):
            tracker.artifact(artifact)
    scores_artifact(metrics, cache.dataset, cache.split, result.notes, label)
    weights: dict[str, str] = {}
    for number, file in enumerate(origin.checkpoints, start=1):
        name = f"checkpoint {number}" if len(origin.checkpoints) > 1 else "checkpoint"
        weights |= {name: file.url, f"{name} sha256": file.sha256}
    links_artifact(
        f"eval {cache.split} {label}".strip(),
        {**locations, **tracker.links()},
        provenance({**cache_artifact(opened).facts, **weights}),
    )
    return Scored(
        metrics=metrics,
        counts={"clips": scored.num_clips, "captions": scored.num_captions},
        notes=result.notes,
        seen=result.seen,
        locations=locations,
    )


def _artifacts(
    cache: Cache, origin: ScoreOrigin, locations: Mapping[str, str], label: str
) -> Iterator[StoredArtifact]:
    """What an evaluation read and wrote, as its logs name it."""
    yield cache_artifact(cache)
    for file in origin.checkpoints:
        name = split_url(file.url)[1].rpartition(".")[0]
        yield StoredArtifact(name, "model", file.url, file.sha256)
    if "scores" in locations:
        of = f"scores-{cache.header.dataset}-{cache.header.split}"
        yield StoredArtifact(f"{of}-{label}" if label else of, "scores", locations["scores"])


def relevance_of(evaluation: EvaluationConfig) -> Relevance | None:
    """The relevance file of an evaluation, if it has one."""
    if not evaluation.relevance:
        return None
    parent, name = split_url(evaluation.relevance)
    return read_relevance(Folder(parent), name)


def _written(
    result: Evaluation,
    cache: CachedEmbeddings,
    origin: ScoreOrigin,
    files: ScoreFiles,
    label: str,
) -> dict[str, str]:
    """Write what is asked for; where it lies. The record comes last, as it names the rest."""
    locations: dict[str, str] = {}
    record = score_record(result, cache, origin)
    if files.predictions:
        parent, name = split_url(files.predictions)
        locations["predictions"] = write_submission(Folder(parent), name, result)
    if files.embeddings_out:
        parent, name = split_url(files.embeddings_out)
        facts = {key: record[key] for key in ("dataset", "split", "part", "cache", "checkpoints")}
        locations["embeddings"] = write_projections(Folder(parent), name, result, facts)
    if files.reports_url:
        name = files.name or (f"{cache.split}_{label}" if label else cache.split)
        reports = Folder(files.reports_url)
        record["queries"] = write_query_tables(reports, name, result)
        locations["scores"] = write_score_record(reports, f"{name}.json", record)
    return locations


def _loaded(url: str) -> tuple[Checkpoint, ScoredFile]:
    parent, name = split_url(url)
    checkpoint, digest = load_checkpoint_and_digest(Folder(parent), name)
    return checkpoint, ScoredFile(public_url(url), digest)


def _cache(url: str) -> CachedEmbeddings | None:
    return open_cache(Folder(url)).load() if url else None


def _bank(
    ranking: RankingConfig,
    cache_url: str,
    cache: CachedEmbeddings,
    checkpoints: tuple[Checkpoint, ...],
) -> CachedEmbeddings:
    """The cache that corrects for hubs: the one given, else the one that was trained on.

    Raises:
        ConfigError: none is given, and the one trained on is not beside the cache.
    """
    if ranking.qb_norm_cache:
        return open_cache(Folder(ranking.qb_norm_cache)).load()
    trained = [one for c in checkpoints for one in c.record.caches if one.role == "train"]
    if not trained:
        raise ConfigError(
            "there are no training captions to correct for hubs with: got no checkpoint, expected "
            "one that says what it was trained on. Give --qb-norm-cache."
        )
    wanted = (trained[0].dataset, trained[0].split)
    if wanted == (cache.dataset, cache.split):
        return cache
    url = join_url(split_url(cache_url)[0], trained[0].split)
    try:
        found = open_cache(Folder(url)).load()
    except CacheNotFoundError as error:
        raise ConfigError(
            "the cache that the checkpoint was trained on is not beside the one evaluated: got no "
            f"cache at {public_url(url)}, expected that of {'/'.join(wanted)}. Give "
            "--qb-norm-cache."
        ) from error
    if (found.dataset, found.split) != wanted:
        raise ConfigError(
            "the cache beside the one evaluated is not the one that the checkpoint was trained on: "
            f"got {found.dataset}/{found.split} at {found.url}, expected {'/'.join(wanted)}. Give "
            "--qb-norm-cache."
        )
    return found
