"""Tasks that embed: plan what is wanted, embed a chunk, finish the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prefect import get_run_logger, task
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run, task_run

from e2i.cache.chunk_result import ChunkResult
from e2i.cache.claims import claim, forget_claims
from e2i.cache.config import CacheConfig
from e2i.cache.embed_audio import embed_audio_chunk
from e2i.cache.embed_text import embed_text_chunk
from e2i.cache.finish import finish_cache
from e2i.cache.header import SideSettings
from e2i.cache.plan import AudioChunk, CachePlan, TextChunk, plan_cache, shuffled
from e2i.clips import CaptionedClips
from e2i.datasets.config import MetadataConfig
from e2i.datasets.tabular import read_metadata
from e2i.decoding.pool import WaveformLoader
from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import load_audio_encoder, load_text_encoder
from e2i.encoders.places import Place, encoder_places, taken_place
from e2i.errors import RunFailedError, is_transient
from e2i.storage import Folder
from tasks.artifacts import artifact_key
from tasks.policy import TRIED_AGAIN, WHOLE_TIMEOUT_S
from tasks.progress import Stage, progress_sink
from tasks.remote import cancel, outcome_of, runs_elsewhere, submitted

SHOWN_FAILURES = 5
PUT_OFF = {"put_off": 1}
"""What a chunk comes to that another run is at: it is left for last."""

# Flow runs that are to stop: their chunks in flight store what they have and end.
_stopping: set[str] = set()


@dataclass(frozen=True)
class SplitPlan:
    """What the chunks of a split need to be submitted.

    Attributes:
        label: data set and split, for names.
        clips: the split's clips and captions.
        plan: what is still to be embedded.
    """

    label: str
    clips: CaptionedClips
    plan: CachePlan

    @property
    def stage(self) -> str:
        """Name of the stage that progress is shown under."""
        return f"embed {self.label}"

    @property
    def artifact_key(self) -> str:
        """Key of the progress artifact."""
        return artifact_key("embedding", self.label)

    @property
    def total(self) -> int:
        """Clips and captions to embed."""
        plan = self.plan
        return plan.clips + plan.captions - plan.clips_stored - plan.captions_stored

    def outcome(self, done: Mapping[str, int]) -> str:
        """What the chunks came to, for people."""
        plan = self.plan
        stored = plan.clips_stored or plan.captions_stored
        text = (
            f"{done.get('embedded', 0)} clips and {done.get('captions_embedded', 0)} captions "
            "embedded"
        )
        return (
            f"{text}, {plan.clips_stored} and {plan.captions_stored} were stored"
            if stored
            else text
        )


def _audio_side(encoders: EncodersConfig, cache: CacheConfig) -> SideSettings:
    encoder = load_audio_encoder(encoders, store_windows=cache.store_windows)
    return SideSettings.of(encoder, store_windows=cache.store_windows)


@task(
    name="plan-embedding",
    task_run_name="plan-embedding",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def plan_embedding(
    source: MetadataConfig, cache_url: str, encoders: EncodersConfig, cache: CacheConfig
) -> SplitPlan:
    """Read a split and find out what its cache still lacks."""
    clips = read_metadata(source)
    run = flow_run.get_id() or ""
    plan = plan_cache(
        Folder(cache_url),
        clips,
        _audio_side(encoders, cache),
        SideSettings.of(load_text_encoder(encoders)),
        audio_root=Folder(clips.audio_root_url),
        chunk_size=cache.chunk_size,
        force=cache.force,
        force_token=run,
    )
    get_run_logger().info(
        "%s: %d of %d clips and %d of %d captions are stored; %d audio and %d text chunks to do",
        *(clips.split, plan.clips_stored, plan.clips, plan.captions_stored, plan.captions),
        *(len(plan.audio_chunks), len(plan.text_chunks)),
    )
    return SplitPlan(f"{clips.dataset} {clips.split}", clips, shuffled(plan, run))


def _claimed_by_this_run(cache_url: str, chunk: AudioChunk | TextChunk) -> bool:
    """Whether the chunk is this run's to embed; a second attempt finds the claim of the first."""
    return claim(Folder(cache_url), chunk) or (task_run.get_run_count() or 0) > 1


def _run_going_on() -> str:
    """The flow run that a chunk belongs to.

    Raises:
        RunFailedError: it is stopping.
    """
    run = flow_run.get_id() or ""
    if run in _stopping:
        raise RunFailedError("the run is stopping: this chunk was not begun.")
    return run


@task(
    name="embed-audio",
    task_run_name="{stage}: audio chunk {chunk.index}",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def embed_audio(
    cache_url: str,
    audio_root_url: str,
    chunk: AudioChunk,
    encoders: EncodersConfig,
    stage: str,
    *,
    claimed: bool = False,
) -> dict[str, int]:
    """Embed the recordings of one chunk and store its shard; one that others are at is put off."""
    run = _run_going_on()
    if not (claimed or _claimed_by_this_run(cache_url, chunk)):
        return dict(PUT_OFF)
    loader = WaveformLoader(encoders.resampler, encoders.decode_workers, encoders.decode_timeout)
    with taken_place(encoder_places(encoders), chunk.index) as place:
        windows = chunk.stamp.store_windows
        result = embed_audio_chunk(
            Folder(cache_url),
            Folder(audio_root_url),
            chunk,
            load_audio_encoder(encoders, store_windows=windows, place=place),
            loader,
            measure=loader.measure,
            decoders=loader.at_once,
            progress=lambda count: progress_sink().advance(stage, count),
            stop=lambda: run in _stopping,
        )
    _log(result, "clips", place)
    return {"embedded": result.embedded, "reused": result.reused + result.discarded}


@task(
    name="embed-text",
    task_run_name="{stage}: text chunk {chunk.index}",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def embed_text(
    cache_url: str,
    chunk: TextChunk,
    encoders: EncodersConfig,
    stage: str,
    *,
    claimed: bool = False,
) -> dict[str, int]:
    """Embed the captions of one chunk and store its shard; one that others are at is put off."""
    run = _run_going_on()
    if not (claimed or _claimed_by_this_run(cache_url, chunk)):
        return dict(PUT_OFF)
    with taken_place(encoder_places(encoders), chunk.index) as place:
        result = embed_text_chunk(
            Folder(cache_url),
            chunk,
            load_text_encoder(encoders, place=place),
            progress=lambda count: progress_sink().advance(stage, count),
            stop=lambda: run in _stopping,
        )
    _log(result, "captions", place)
    return {
        "captions_embedded": result.embedded,
        "captions_reused": result.reused + result.discarded,
    }


def _log(result: ChunkResult, unit: str, place: Place) -> None:
    get_run_logger().info(
        "%d %s embedded on %s, %d found stored, %d failed, %.1f s",
        *(result.embedded, unit, place, result.reused + result.discarded, len(result.failed)),
        result.seconds,
    )


def submit_chunks(
    cache_url: str, split: SplitPlan, encoders: EncodersConfig, *, claimed: bool = False
) -> list[PrefectFuture[dict[str, int]]]:
    """Submit a task run for each chunk of a split, audio first.

    Args:
        cache_url: of the cache.
        split: its plan.
        encoders: which, and how they run.
        claimed: whether chunks that other runs have claimed are embedded too.
    """
    root_url = split.clips.audio_root_url
    return [
        *(
            embed_audio.submit(
                cache_url, root_url, submitted(chunk), encoders, split.stage, claimed=claimed
            )
            for chunk in split.plan.audio_chunks
        ),
        *(
            embed_text.submit(cache_url, submitted(chunk), encoders, split.stage, claimed=claimed)
            for chunk in split.plan.text_chunks
        ),
    ]


def put_off(split: SplitPlan, futures: Sequence[PrefectFuture[dict[str, int]]]) -> SplitPlan:
    """The split with those chunks alone that another run was at, once all are gathered.

    Where the run is stopping, those are left to the next one.
    """
    plan = split.plan
    keys = [*(c.key for c in plan.audio_chunks), *(c.key for c in plan.text_chunks)]
    stopping = (flow_run.get_id() or "") in _stopping
    left: set[str] = set()
    if not stopping:
        done = zip(keys, futures, strict=True)
        left = {key for key, future in done if outcome_of(future) == PUT_OFF}
    plan = replace(
        plan,
        audio_chunks=tuple(chunk for chunk in plan.audio_chunks if chunk.key in left),
        text_chunks=tuple(chunk for chunk in plan.text_chunks if chunk.key in left),
    )
    return replace(split, plan=plan)


def gather_chunks(
    futures: Sequence[PrefectFuture[dict[str, int]]], stage: Stage
) -> tuple[Counter[str], list[BaseException]]:
    """Wait for all chunks; one that fails does not stop the others.

    Returns:
        Their counts added up, and the errors of those that failed, the first to fail first.
    """
    run = flow_run.get_id() or ""
    counts: Counter[str] = Counter()
    errors: list[BaseException] = []
    try:
        for future in as_completed(list(futures)):
            outcome = outcome_of(future)
            if isinstance(outcome, BaseException):
                errors.append(outcome)
                if is_transient(outcome):
                    # It was tried again for a minute: the others need not find out one by one.
                    _stopping.add(run)
                    cancel(futures)
                continue
            counts.update(outcome)
            if outcome != PUT_OFF:
                stage.settle(sum(outcome.values()), told=not runs_elsewhere())
    except BaseException:
        _stopping.add(run)
        raise
    return counts, errors


def raise_failed(errors: Sequence[BaseException], chunks: int) -> None:
    """Turn the errors of chunks, once all have been waited for, into one.

    Raises:
        RunFailedError: there are some; names how many, and the first reason.
    """
    if errors:
        raise RunFailedError(
            f"{len(errors)} of {chunks} chunks could not be embedded: got {errors[0]} "
            "Run the same command again: what is stored is kept."
        ) from errors[0]


@task(
    name="finish-cache",
    task_run_name="finish-cache",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def finish_embedding(
    cache_url: str,
    split: SplitPlan,
    encoders: EncodersConfig,
    cache: CacheConfig,
    done: dict[str, int],
    *,
    mirrored: bool = False,
) -> dict[str, int]:
    """Write the manifest of a split whose chunks are done; the counts.

    Raises:
        RunFailedError: more clips failed than may, or none is left; everything stored is kept.
    """
    summary = finish_cache(
        Folder(cache_url),
        split.clips,
        _audio_side(encoders, cache),
        SideSettings.of(load_text_encoder(encoders)),
        audio_root=Folder(split.clips.audio_root_url),
        verified=split.plan.verified,
        stock=split.plan.stock,
        snapshot=cache.snapshot,
        mirrored=mirrored,
    )
    forget_claims(Folder(cache_url))
    failed = [failure for failure in summary.failures if failure.side == "audio"]
    for failure in failed[:SHOWN_FAILURES]:
        progress_sink().note(f"{failure.id}: {failure.reason}")
    if len(failed) > SHOWN_FAILURES:
        progress_sink().note(f"… and {len(failed) - SHOWN_FAILURES} more, in failures.jsonl")
    plan = split.plan
    allowed = cache.allowed_failures(summary.clips)
    if len(failed) > allowed or not summary.clips_stored:
        raise RunFailedError(
            f"too many recordings of {split.label} could not be embedded: got {len(failed)} of "
            f"{summary.clips}, expected at most {allowed} (the first, {failed[0].id}: "
            f"{failed[0].reason}) All are named in {summary.url}/failures.jsonl. Mend them, or "
            "raise --max-failures; what is stored is kept."
        )
    return {
        "clips": summary.clips,
        "captions": summary.captions,
        "embedded": done.get("embedded", 0),
        "reused": plan.clips_stored + done.get("reused", 0),
        "failed": len(failed),
        "captions_embedded": done.get("captions_embedded", 0),
        "captions_reused": plan.captions_stored + done.get("captions_reused", 0),
        "captions_failed": len(summary.failures) - len(failed),
        "captions_without_clip": summary.captions_without_clip,
    }
