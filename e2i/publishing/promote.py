"""Putting a checkpoint in use, and taking it back.

Decides: a checkpoint is promoted with what was found of it at that moment. Every shard of the
caches that it names is held against its manifest's sha256, the heads against the encoders of the
evaluation cache; the checkpoint is copied into the store and scored there. Only then, and only if
nobody else published since this began, `published.json` is replaced.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import e2i
from e2i.cache.reader import Cache, open_cache
from e2i.cache.verify import verify_cache
from e2i.code_version import code_sha256
from e2i.errors import (
    CacheError,
    CacheNotFoundError,
    PublishError,
    SeenClipsError,
    StorageNotFoundError,
)
from e2i.heads.checkpoint import Checkpoint, checkpoint_from_bytes, read_checkpoint_bytes
from e2i.publishing.published import (
    CHECKPOINT_NAME,
    PUBLISHED_FOLDER,
    PUBLISHED_NAME,
    SCORED_NAME,
    SCORES_NAME,
    Change,
    Promotion,
    Published,
    PublishedCache,
    PublishedCheckpoint,
    PublishedScore,
    read_published_versioned,
    replace_published,
)
from e2i.report.scored_set import ScoredSet, write_scored_set
from e2i.report.scores import (
    ScoredFile,
    ScoreOrigin,
    metrics_of,
    score_record,
    write_query_tables,
    write_score_record,
)
from e2i.retrieval.config import EvaluationConfig
from e2i.storage import Folder
from e2i.store_layout import StoreLayout, join_url, public_url, split_url
from e2i.training.evaluate import Evaluation, Extras, evaluate_checkpoint
from e2i.training.pseudo_images import stored_images_of
from e2i.training.windows import stored_windows_of

_KEY_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Promoted:
    """What a promotion or a roll-back came to.

    Attributes:
        promotion: what is in use now.
        former: what was before; None where nothing was.
        changed: whether anything changed: promoting what is in use already does nothing.
        notes: what a reader has to know, in sentences.
    """

    promotion: Promotion
    former: Promotion | None
    changed: bool
    notes: tuple[str, ...] = ()


def promote(
    store_url: str,
    checkpoint_url: str,
    cache_url: str,
    evaluation: EvaluationConfig,
    *,
    device: str,
    date: str,
) -> Promoted:
    """Put a checkpoint in use.

    Args:
        store_url: the store, absolute.
        checkpoint_url: the checkpoint to take.
        cache_url: the cache that it is evaluated on, now and later.
        evaluation: of the scores at promotion.
        device: that they are computed on.
        date: now, UTC.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is of other encoders than the cache.
        CacheError: a cache is not whole, or a shard is not what the manifest says.
        SeenClipsError: the checkpoint has seen the clips that it is to be evaluated on.
        PublishError: `published.json` cannot be read.
        StaleWriteError: somebody else published in the meantime.
        StorageError: the store refused.
    """
    store = Folder(StoreLayout(store_url).store_url)
    held = read_published_versioned(store)
    parent, name = split_url(checkpoint_url)
    data = read_checkpoint_bytes(Folder(parent), name)
    checkpoint = checkpoint_from_bytes(data, public_url(checkpoint_url))
    cache = _verified(Folder(cache_url))
    caches, notes = _named(checkpoint, cache)
    file = PublishedCheckpoint(
        url="", sha256=hashlib.sha256(data).hexdigest(), source=public_url(checkpoint_url)
    )
    promotion = _drafted(store, file, caches, held[0] if held else None, date)
    current = held[0].current if held else None
    if current is not None and current.key == promotion.key:
        if not checkpoint_fault(store, current):
            return Promoted(current, current, changed=False, notes=("It is published already.",))
        _scored(store, current, (data, checkpoint), cache, (evaluation, device))
        mended = "Its copy in the store was not what was published, and is written anew."
        return Promoted(current, current, changed=False, notes=(mended,))
    found = _scored(store, promotion, (data, checkpoint), cache, (evaluation, device))
    scores = {key: PublishedScore.model_validate(s) for key, s in metrics_of(found).items()}
    promotion = promotion.model_copy(update={"scores": scores})
    change = Change(date=date, kind="promoted", number=promotion.number)
    if held:
        replace_published(store, held[0].with_current(promotion, change), held[1])
    else:
        replace_published(store, Published(current=promotion, changes=(change,)), None)
    return Promoted(promotion, current, changed=True, notes=(*found.notes, *notes))


def _drafted(
    store: Folder,
    file: PublishedCheckpoint,
    caches: list[PublishedCache],
    published: Published | None,
    date: str,
) -> Promotion:
    """A promotion without its scores."""
    key = _key(file.sha256, caches[0])
    url = join_url(store.url, PUBLISHED_FOLDER, key, CHECKPOINT_NAME)
    return Promotion(
        number=published.last_number + 1 if published else 1,
        key=key,
        date=date,
        e2i_version=e2i.__version__,
        code_sha256=code_sha256(),
        checkpoint=file.model_copy(update={"url": url}),
        caches=tuple(caches),
        scores={},
        former=published.current.number if published else None,
    )


def roll_back(store_url: str, *, date: str) -> Promoted:
    """Put in use again what the current promotion took the place of.

    Args:
        store_url: the store, absolute.
        date: now, UTC.

    Raises:
        PublishError: nothing came before, or the former checkpoint is not what it was.
        CacheError: its evaluation cache is gone, or not whole.
        StaleWriteError: somebody else published in the meantime.
        StorageError: the store refused.
    """
    store = Folder(StoreLayout(store_url).store_url)
    held = read_published_versioned(store)
    if held is None or held[0].current.former is None:
        got = "nothing published" if held is None else f"promotion {held[0].current.number}"
        raise PublishError(
            f"there is nothing to roll back to: got {got} in {store.url}, expected a promotion "
            "that took the place of another. Publish a checkpoint with `e2i publish`."
        )
    published, version = held
    former = next(one for one in published.earlier if one.number == published.current.former)
    fault = checkpoint_fault(store, former)
    if fault:
        raise PublishError(
            f"the former checkpoint is not what was published: got {fault}, expected sha256 "
            f"{former.checkpoint.sha256}. Publish a checkpoint with `e2i publish`."
        )
    _require_encoders(former, open_cache(Folder(former.evaluation.url)))
    change = Change(date=date, kind="rolled back", number=former.number)
    replace_published(store, published.with_current(former, change), version)
    return Promoted(former, published.current, changed=True)


def checkpoint_fault(store: Folder, promotion: Promotion) -> str:
    """What is wrong with the bytes of a promotion's checkpoint; empty where nothing is.

    Raises:
        StorageError: the store refused.
    """
    try:
        data = store.folder(promotion.folder).read(CHECKPOINT_NAME)
    except StorageNotFoundError:
        return f"no {promotion.checkpoint.url}"
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 == promotion.checkpoint.sha256:
        return ""
    return f"sha256 {sha256} of {promotion.checkpoint.url}"


def _verified(folder: Folder) -> Cache:
    """A whole cache, every byte of it as its manifest says.

    Raises:
        CacheError: it is not.
    """
    cache = open_cache(folder)
    faults = () if cache.read is not None else verify_cache(folder).faults
    broken = [fault for fault in faults if fault.kind != "unnamed"]
    if broken:
        raise CacheError(
            f"the cache is not as it was written: got {len(broken)} faults in {folder.url} (the "
            f"first, {broken[0].name}: {broken[0].problem}), expected none. Run `e2i cache repair`."
        )
    return cache


def _named(checkpoint: Checkpoint, cache: Cache) -> tuple[list[PublishedCache], list[str]]:
    """The evaluation cache, and those of training beside it; what is to be said of them."""
    caches, notes = [_cache("evaluation", cache)], []
    above = split_url(cache.folder.url)[0]
    record = checkpoint.record
    for used in record.caches:
        wanted = (used.dataset, used.split)
        try:
            found = _verified(Folder(join_url(above, used.split)))
        except CacheNotFoundError:
            found = None
        if found is None or (found.manifest.dataset, found.manifest.split) != wanted:
            notes.append(f"The cache of {'/'.join(wanted)} is not beside the other one.")
            continue
        named = _cache(used.role, found)
        if (named.audio_fingerprint, named.text_fingerprint) == (
            record.audio_fingerprint,
            record.text_fingerprint,
        ):
            caches.append(named)
        else:
            notes.append(
                f"The cache of {'/'.join(wanted)} was embedded by other encoders since, so it is "
                "not named."
            )
    return caches, notes


def _cache(role: str, cache: Cache) -> PublishedCache:
    manifest = cache.manifest
    return PublishedCache.model_validate(
        {
            "role": role,
            "url": cache.folder.url,
            "dataset": manifest.dataset,
            "split": manifest.split,
            "manifest_sha256": cache.manifest_sha256,
            "audio_fingerprint": manifest.audio.fingerprint,
            "text_fingerprint": manifest.text.fingerprint,
        }
    )


def _key(sha256: str, cache: PublishedCache) -> str:
    """Names a promotion's folder: the same heads, scored on the same cache by the same code."""
    parts = [sha256, cache.url, cache.manifest_sha256, code_sha256()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_KEY_DIGITS]


def _scored(
    store: Folder,
    promotion: Promotion,
    heads: tuple[bytes, Checkpoint],
    cache: Cache,
    how: tuple[EvaluationConfig, str],
) -> Evaluation:
    """Score the checkpoint, and store it and what was found in the promotion's folder."""
    data, checkpoint = heads
    config, device = how
    embeddings = cache.load()
    try:
        found = evaluate_checkpoint(
            checkpoint,
            embeddings,
            config,
            device=device,
            load_stored=stored_images_of(cache.folder),
            load_windows=stored_windows_of(cache.folder),
            extras=Extras(failed_clips=frozenset(cache.manifest.audio.failed)),
        )
    except SeenClipsError as error:
        raise SeenClipsError(
            "nothing is published by scores on clips that were trained or selected on: got "
            f"{cache.folder.url} for {promotion.checkpoint.source}, expected a cache that it has "
            "not seen. Give another one as --cache-dir."
        ) from error
    below = store.folder(promotion.folder)
    below.write(CHECKPOINT_NAME, data)
    fault = checkpoint_fault(store, promotion)
    if fault:
        raise PublishError(
            f"the copy of the checkpoint is not what was written: got {fault}, expected sha256 "
            f"{promotion.checkpoint.sha256}. Check the store, and publish again."
        )
    write_scored_set(below, SCORED_NAME, ScoredSet.of(found, cache))
    file = ScoredFile(promotion.checkpoint.url, promotion.checkpoint.sha256)
    record = score_record(found, embeddings, ScoreOrigin((file,), checkpoint.record, config=config))
    record["queries"] = write_query_tables(below, SCORES_NAME.removesuffix(".json"), found)
    write_score_record(below, SCORES_NAME, record)
    return found


def _require_encoders(promotion: Promotion, cache: Cache) -> None:
    """Refuse a cache that was embedded by other encoders since the promotion."""
    wanted = promotion.evaluation
    got = (cache.manifest.audio.fingerprint, cache.manifest.text.fingerprint)
    expected = (wanted.audio_fingerprint, wanted.text_fingerprint)
    if got != expected:
        raise PublishError(
            f"the evaluation cache was embedded by other encoders since: got {' and '.join(got)} "
            f"in {wanted.url}, expected {' and '.join(expected)} as at the promotion. Publish a "
            f"checkpoint of these encoders; {PUBLISHED_NAME} is left as it is."
        )
