"""Evaluating what is published anew, and comparing it with the last accepted result.

Decides: the last accepted result is that of the last accepted re-evaluation, whichever checkpoint
was published then; before the first one, or where the published split is another one, it is the
scores at promotion of the first checkpoint in the row of those that took each other's place. A
checkpoint whose bytes are not those that were published is evaluated as it lies there, since it is
what is in use, and its result is never accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from e2i.cache.reader import Cache
from e2i.code_version import code_sha256
from e2i.errors import CheckpointError, PublishError
from e2i.heads.checkpoint import load_checkpoint_and_digest
from e2i.publishing.promote import checkpoint_fault
from e2i.publishing.published import CHECKPOINT_NAME, SCORED_NAME, Promotion, Published
from e2i.reevaluation.config import ReevaluationConfig
from e2i.reevaluation.drift import Drift
from e2i.reevaluation.records import IndexEntry, add_to_index, read_index, write_record
from e2i.reevaluation.verdict import Verdict, drop_in_words, judge
from e2i.report.common_clips import CommonComparison, compare_on_common_clips
from e2i.report.scored_set import ScoredSet, read_scored_set
from e2i.report.scores import (
    Metrics,
    ScoredFile,
    ScoreOrigin,
    metrics_of,
    score_record,
    write_query_tables,
)
from e2i.retrieval.comparison import FIRST_METRIC, Difference
from e2i.retrieval.config import ComparisonConfig, EvaluationConfig
from e2i.retrieval.relevance import Relevance
from e2i.storage import Folder
from e2i.store_layout import StoreLayout, join_url
from e2i.training.evaluate import Evaluation, Extras, evaluate_checkpoint
from e2i.training.pseudo_images import stored_images_of
from e2i.training.windows import stored_windows_of

_SHOWN = 10
_REPORTS = "reports"
_DAY = len("2026-11-26")


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """The run that a record is of: its id, and when it began, UTC (2026-11-26T02:00:00Z)."""

    run_id: str
    date: str


@dataclass(frozen=True, slots=True)
class HowToReevaluate:
    """The options of a re-evaluation.

    Attributes:
        reevaluation: what is tolerated.
        evaluation: of the scores.
        comparison: of intervals and test.
        relevance: which clips answer some captions, if that is known.
        device: that the heads run on.
    """

    reevaluation: ReevaluationConfig
    evaluation: EvaluationConfig
    comparison: ComparisonConfig
    relevance: Relevance | None = None
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Reference:
    """The last accepted result.

    Attributes:
        name: of its record, or of the promotion, for people.
        promotion: number of the promotion that it is of.
        scored: file of what was ranked, below the store.
    """

    name: str
    promotion: int
    scored: str


@dataclass(frozen=True, slots=True)
class Reevaluation:
    """What a re-evaluation found.

    Attributes:
        found: scores of today, on all clips.
        comparison: with the reference, on common clips.
        reference: the last accepted result.
        checkpoint: the file that was evaluated.
        drift: what embedding a sample anew showed.
        verdict: what it comes to.
    """

    found: Evaluation
    comparison: CommonComparison
    reference: Reference
    checkpoint: ScoredFile
    drift: Drift
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Recorded:
    """A re-evaluation as it is stored.

    Attributes:
        result: what was found.
        metrics: today's scores.
        notes: what a reader has to know, in sentences; the first says what it comes to.
        url: of the record.
    """

    result: Reevaluation
    metrics: Metrics
    notes: tuple[str, ...]
    url: str


def reevaluate(
    store_url: str,
    published: Published,
    cache: Cache,
    drift: Drift,
    how: HowToReevaluate,
    *,
    run: RunIdentity,
    counts: Mapping[str, int],
) -> Recorded:
    """Evaluate what is published, compare it, decide, and store all of it.

    Args:
        store_url: the store, absolute.
        published: what is published.
        cache: its evaluation cache, up to date and opened.
        drift: what embedding a sample anew showed.
        how: the options.
        run: that the record is of.
        counts: what bringing the cache up to date came to; stored with the record.

    Raises:
        PublishError: the published checkpoint is gone, or cannot be read.
        CheckpointError: it is of other encoders than the cache, or of another version of e2i.
        ReportError: the index, or what was scored before, cannot be read.
        StorageError: the store refused.
    """
    store = Folder(StoreLayout(store_url).store_url)
    reports = store.folder(_REPORTS)
    promotion = published.current
    result, scores, ranked = _evaluated(store, published, cache, drift, how, run=run)
    notes = notes_of(result, promotion, how.reevaluation)
    part = _part(result, promotion, how.reevaluation, run, counts) | {"notes": list(notes)}

    def scored_of(name: str) -> str:
        return f"{_REPORTS}/{name}/{SCORED_NAME}" if ranked else result.reference.scored

    def make(name: str) -> Mapping[str, object]:
        if ranked:
            store.write(scored_of(name), ranked)
        queries = write_query_tables(reports, name, result.found)
        return {**scores, "queries": queries, "reevaluation": {**part, "scored": scored_of(name)}}

    name = write_record(reports, run.date[:_DAY], run.run_id, make)
    entry = _entry(
        name,
        scored=scored_of(name),
        result=result,
        number=promotion.number,
        cache=cache,
        run=run,
    )
    add_to_index(reports, entry)
    return Recorded(result, metrics_of(result.found), notes, join_url(reports.url, f"{name}.json"))


def _evaluated(
    store: Folder,
    published: Published,
    cache: Cache,
    drift: Drift,
    how: HowToReevaluate,
    *,
    run: RunIdentity,
) -> tuple[Reevaluation, dict[str, object], bytes | None]:
    """What was found, its score record, and the file of what was ranked, if that is a new one."""
    promotion = published.current
    folder = store.folder(promotion.folder)
    try:
        checkpoint, sha256 = load_checkpoint_and_digest(folder, CHECKPOINT_NAME)
    except CheckpointError as error:
        fault = checkpoint_fault(store, promotion)
        if not fault:
            raise
        raise PublishError(
            f"the published checkpoint cannot be read: got {fault}, "
            f"expected sha256 {promotion.checkpoint.sha256} as it was published. Publish it again, "
            "or run `e2i publish --rollback`."
        ) from error
    file = ScoredFile(promotion.checkpoint.url, sha256)
    reference = _reference(store.folder(_REPORTS), published, run)
    embeddings = cache.load()
    found = evaluate_checkpoint(
        checkpoint,
        embeddings,
        how.evaluation,
        device=how.device,
        load_stored=stored_images_of(cache.folder),
        load_windows=stored_windows_of(cache.folder),
        extras=Extras(relevance=how.relevance, failed_clips=frozenset(cache.manifest.audio.failed)),
    )
    today, before = ScoredSet.of(found, cache), read_scored_set(store, reference.scored)
    comparison = compare_on_common_clips(today, before, how.evaluation, how.comparison)
    verdict = judge(
        comparison.differences,
        how.reevaluation,
        moved=bool(drift.moved),
        damaged=sha256 != promotion.checkpoint.sha256,
    )
    result = Reevaluation(found, comparison, reference, file, drift, verdict)
    scores = score_record(
        found, embeddings, ScoreOrigin((file,), checkpoint.record, how.evaluation)
    )
    ranked = today.as_bytes()
    return result, scores, None if ranked == before.as_bytes() else ranked


def _reference(reports: Folder, published: Published, run: RunIdentity) -> Reference:
    """The last accepted result, or the scores at promotion."""
    of = published.current.evaluation
    entry = read_index(reports).last_accepted(of.dataset, of.split, run.run_id)
    if entry is not None:
        return Reference(f"{entry.name}.json", entry.promotion, entry.scored)
    promotion = published.origin
    scored = f"{promotion.folder}/{SCORED_NAME}"
    return Reference(f"promotion {promotion.number}", promotion.number, scored)


def notes_of(
    result: Reevaluation, promotion: Promotion, config: ReevaluationConfig
) -> tuple[str, ...]:
    """What a reader of a re-evaluation has to know, in sentences."""
    return (
        _outcome_in_words(result, config),
        *_about_reference(result, promotion),
        *_about_drift(result.drift),
        *result.found.notes,
    )


def _outcome_in_words(result: Reevaluation, config: ReevaluationConfig) -> str:
    """What it comes to, and which metrics fell by how much."""
    verdict, differences = result.verdict, result.comparison.differences
    fell = "; ".join(drop_in_words(name, differences[name]) for name in verdict.fell)
    since, also = f"since {result.reference.name}", f" {fell}." if fell else ""
    words = {
        "unchanged": f"Unchanged {since}.",
        "accepted": f"No drop {since} that is more than luck.",
        "lower": f"Lower {since}: {fell or _first_in_words(differences)}. The result stays with "
        "the former.",
        "drifted": f"Embeddings moved, and so the result stays with the former.{also}",
        "incomparable": f"No clip is in common with {result.reference.name}: nothing can be "
        "compared. `e2i reevaluate --accept` takes the result for later ones.",
        "dropped": f"Dropped {since} by more than {config.max_drop:g}: {fell}.",
        "damaged": "The checkpoint is not what was published: got sha256 "
        f"{result.checkpoint.sha256} of {result.checkpoint.url}. Publish it again, or run "
        f"`e2i publish --rollback`.{also}",
    }[verdict.outcome]
    if verdict.accepted and verdict.outcome not in ("unchanged", "accepted"):
        words += " It was accepted by hand."
    return words


def _first_in_words(differences: Mapping[str, Difference]) -> str:
    """How far the first metric fell; nothing where it did not."""
    first = differences.get(FIRST_METRIC)
    return drop_in_words(FIRST_METRIC, first) if first is not None and first.value < 0 else ""


def _about_reference(result: Reevaluation, promotion: Promotion) -> tuple[str, ...]:
    notes = []
    reference, changes = result.reference, result.comparison.changes
    if reference.promotion != promotion.number:
        notes.append(
            f"The published checkpoint changed since {reference.name}: it is that of promotion "
            f"{promotion.number} now, and was that of {reference.promotion}."
        )
    if changes.any:
        notes.append(
            f"The evaluation set changed since {reference.name}: clips that are new "
            f"{changes.new_clips}, gone {changes.gone_clips}, with another recording "
            f"{changes.changed_recordings}; other captions {changes.changed_captions}. Compared "
            f"are the {result.comparison.num_clips} clips and {result.comparison.num_captions} "
            "captions that both have."
        )
    if promotion.code_sha256 != code_sha256():
        notes.append(f"The code is not that of promotion {promotion.number}.")
    return tuple(notes)


def _about_drift(drift: Drift) -> tuple[str, ...]:
    if not drift.moved:
        return ()
    shown = "; ".join(f"{one.id} ({one.reason})" for one in drift.moved[:_SHOWN])
    more = f"; and {len(drift.moved) - _SHOWN} more" if len(drift.moved) > _SHOWN else ""
    return (
        f"Of {drift.clips} clips and {drift.captions} captions embedded anew {len(drift.moved)} "
        f"moved: {shown}{more}. Where that is meant, `e2i cache-embeddings --force` embeds the "
        "cache anew.",
    )


def _part(
    result: Reevaluation,
    promotion: Promotion,
    config: ReevaluationConfig,
    run: RunIdentity,
    counts: Mapping[str, int],
) -> dict[str, object]:
    """What the record has beyond the scores, as JSON values."""
    comparison, verdict = result.comparison, result.verdict
    return {
        "run_id": run.run_id,
        "date": run.date,
        "code_sha256": code_sha256(),
        "promotion": promotion.model_dump(mode="json"),
        "reference": asdict(result.reference),
        "config": config.model_dump(mode="json"),
        "cache_update": dict(counts),
        "evaluation_set": asdict(comparison.changes),
        "common": {"clips": comparison.num_clips, "captions": comparison.num_captions},
        "differences": {name: asdict(one) for name, one in comparison.differences.items()},
        "drift": asdict(result.drift),
        **asdict(verdict),
        "failed": verdict.failed,
    }


def _entry(
    name: str, *, scored: str, result: Reevaluation, number: int, cache: Cache, run: RunIdentity
) -> IndexEntry:
    scores = result.found.retrieval.scores
    return IndexEntry(
        name=name,
        date=run.date,
        run_id=run.run_id,
        outcome=result.verdict.outcome,
        accepted=result.verdict.accepted,
        promotion=number,
        checkpoint_sha256=result.checkpoint.sha256,
        manifest_sha256=cache.manifest_sha256,
        dataset=cache.manifest.dataset,
        split=cache.manifest.split,
        scores={key: score.value for key, score in scores.items()},
        moved=len(result.drift.moved),
        scored=scored,
    )
