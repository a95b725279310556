"""The end of a run: stock is taken again, failures are merged, the manifest is written last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from e2i.cache.compact import MANY_MIRRORED_SHARDS, MANY_SHARDS, compact_cache
from e2i.cache.config import SnapshotMode
from e2i.cache.failures import Failure, read_failure_file, read_failures, write_merged
from e2i.cache.header import CacheHeader, SideSettings, check_header
from e2i.cache.layout import MANIFEST_NAME, SIDES, Side
from e2i.cache.manifest import Counts, Manifest, SideManifest, Verified, read_manifest
from e2i.cache.plan import PlannedStock
from e2i.cache.reader import Cache, open_cache
from e2i.cache.snapshot import write_snapshot
from e2i.cache.stock import Stock, take_stock
from e2i.clips import CaptionedClips
from e2i.errors import CacheIncompleteError, StaleWriteError
from e2i.storage import Folder

_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class CacheSummary:
    """A finished cache.

    Attributes:
        url: where it lies, without credentials.
        clips: wanted.
        captions: wanted.
        clips_stored: wanted and embedded.
        captions_stored: wanted and embedded.
        captions_without_clip: captions whose clip failed; they leave training and evaluation.
        failures: of clips and captions, in the order of the metadata.
        shards: of both sides together.
        shard_bytes: their size.
        manifest_sha256: names this state of the cache.
        manifest_written: False where the stored manifest was the same already.
        snapshot_written: False where there is none, or it was up to date already.
    """

    url: str
    clips: int
    captions: int
    clips_stored: int
    captions_stored: int
    captions_without_clip: int
    failures: tuple[Failure, ...]
    shards: int
    shard_bytes: int
    manifest_sha256: str
    manifest_written: bool
    snapshot_written: bool


def finish_cache(
    folder: Folder,
    clips: CaptionedClips,
    audio: SideSettings,
    text: SideSettings,
    *,
    audio_root: Folder | None = None,
    verified: Mapping[str, Verified] | None = None,
    stock: PlannedStock | None = None,
    snapshot: SnapshotMode = "auto",
    mirrored: bool = False,
) -> CacheSummary:
    """Write the manifest of a cache in which everything wanted is stored or has failed.

    Args:
        folder: the cache.
        clips: what is wanted.
        audio: settings of the audio encoder.
        text: settings of the text encoder.
        audio_root: where the recordings lie; default `clips.audio_root_url`.
        verified: what the plan has verified.
        stock: the plan's, where nothing was to be embedded.
        snapshot: whether the tensors of the original's form are written as well.
        mirrored: whether the Hub has the shards, so that merging them costs sending them again.

    Raises:
        CacheIncompleteError: clips or captions are neither stored nor failed; what is stored stays.
        CacheError, FingerprintMismatchError: the cache is one of something else.
        CacheCorruptError: a stored file cannot be read.
        StaleWriteError: others keep replacing the manifest.
        StorageError: the store refused.
    """
    root = audio_root or Folder(clips.audio_root_url)
    wanted = {
        *(("audio", clip.clip_id) for clip in clips.clips),
        *(("text", caption.caption_id) for caption in clips.captions),
    }
    for _ in range(_ATTEMPTS):
        header = check_header(folder, clips.dataset, clips.split, {"audio": audio, "text": text})
        found = read_manifest(folder)
        before = found[0] if found else None
        taken = _still_so(stock, found[2] if found else None)
        if taken is None:
            taken = take_stock(folder, header, clips, root, before, known=verified, hashed=True)
        recorded = read_failures(folder, header)
        manifest, failures = _manifest(folder, header, clips, taken, recorded.by_id)
        manifest = _with_left_over(manifest, taken, before)
        data = manifest.as_bytes()
        written = found is None or found[1] != data
        write_merged(folder, failures)
        if written:
            try:
                folder.replace(MANIFEST_NAME, data, found[2] if found else None)
            except StaleWriteError:
                continue
        for name in recorded.chunk_files:
            # A run of more clips than these may have put it there, and still needs it.
            if all((one.side, one.id) in wanted for one in read_failure_file(folder, name)):
                folder.delete(name)
        sha256 = hashlib.sha256(data).hexdigest()
        cache = Cache(folder, header, manifest, sha256)
        most = MANY_MIRRORED_SHARDS if mirrored else MANY_SHARDS
        if any(len(manifest.side(side).shards) > most for side in SIDES):
            cache = _compacted(cache, most)
        return _summary(
            cache,
            failures,
            manifest_written=written,
            snapshot_written=write_snapshot(cache, snapshot),
        )
    raise StaleWriteError(
        f"{folder.url}/{MANIFEST_NAME} keeps changing: got {_ATTEMPTS} writes by other runs, "
        "expected them to end. Run again."
    )


def _still_so(planned: PlannedStock | None, version: str | None) -> Stock | None:
    """The plan's stock, if the manifest is the same and has the sum of each shard; else None."""
    if planned is None or planned.manifest_version != version:
        return None
    sides = (planned.stock.audio, planned.stock.text)
    return planned.stock if all(e.sha256 for side in sides for e in side.shards) else None


def _compacted(cache: Cache, most: int) -> Cache:
    """The cache after merging; as it is where another run is writing: the next one merges."""
    try:
        compact_cache(cache.folder, above=most)
        return open_cache(cache.folder)
    except (StaleWriteError, CacheIncompleteError):
        return cache


def _manifest(
    folder: Folder,
    header: CacheHeader,
    clips: CaptionedClips,
    stock: Stock,
    recorded: Mapping[tuple[Side, str], Failure],
) -> tuple[Manifest, list[Failure]]:
    """The manifest of this stock, and the failures in it."""
    wanted: dict[Side, tuple[str, ...]] = {
        "audio": tuple(clip.clip_id for clip in clips.clips),
        "text": tuple(c.caption_id for clip in clips.clips for c in clip.captions),
    }
    lacking: dict[Side, tuple[str, ...]] = {
        side: tuple(name for name in wanted[side] if name not in stock.side(side).stored)
        for side in SIDES
    }
    undone = {side: [n for n in lacking[side] if (side, n) not in recorded] for side in SIDES}
    if undone["audio"] or undone["text"]:
        raise CacheIncompleteError(_undone_text(folder, undone))
    sides = {
        side: SideManifest(
            fingerprint=header.side(side).fingerprint,
            generation=header.side(side).generation,
            dim=header.side(side).dim,
            wanted=wanted[side],
            failed=lacking[side],
            shards=tuple(stock.side(side).shards),
        )
        for side in SIDES
    }
    failed_clips = set(lacking["audio"])
    manifest = Manifest(
        complete=True,
        dataset=clips.dataset,
        split=clips.split,
        source=clips.source,
        counts=Counts(
            clips=len(wanted["audio"]),
            captions=len(wanted["text"]),
            clips_failed=len(lacking["audio"]),
            captions_failed=len(lacking["text"]),
            captions_without_clip=sum(
                len(clip.captions) for clip in clips.clips if clip.clip_id in failed_clips
            ),
        ),
        audio=sides["audio"],
        text=sides["text"],
        verified=stock.verified,
    )
    return manifest, [recorded[side, name] for side in SIDES for name in lacking[side]]


def _with_left_over(manifest: Manifest, stock: Stock, before: Manifest | None) -> Manifest:
    """With the shards that lie there and were named before, and those that are being deleted."""
    if before is None:
        return manifest
    sides: dict[str, object] = {}
    for side in SIDES:
        known, listed = before.side(side), stock.side(side).listed
        gone = listed & set(known.discarded)
        once = {entry.name for entry in known.shards} | set(known.released)
        now = {entry.name for entry in manifest.side(side).shards}
        sides[side] = manifest.side(side).model_copy(
            update={
                "released": tuple(sorted((once & listed) - now - gone)),
                "discarded": tuple(sorted(gone)),
            }
        )
    return manifest.model_copy(update={**sides, "revision": before.revision})


def _undone_text(folder: Folder, undone: Mapping[Side, list[str]]) -> str:
    example = next(name for side in SIDES for name in undone[side])
    return (
        f"the cache is not whole: got {len(undone['audio'])} clips and {len(undone['text'])} "
        f"captions that are neither stored nor failed (the first is {example!r}) in {folder.url}, "
        "expected none. Run `e2i cache-embeddings` again as before, without --force: what is "
        "stored is kept."
    )


def _summary(
    cache: Cache,
    failures: list[Failure],
    *,
    manifest_written: bool,
    snapshot_written: bool,
) -> CacheSummary:
    manifest = cache.manifest
    shards = (*manifest.audio.shards, *manifest.text.shards)
    return CacheSummary(
        url=cache.folder.url,
        clips=manifest.counts.clips,
        captions=manifest.counts.captions,
        clips_stored=manifest.audio.stored,
        captions_stored=manifest.text.stored,
        captions_without_clip=manifest.counts.captions_without_clip,
        failures=tuple(failures),
        shards=len(shards),
        shard_bytes=sum(entry.bytes for entry in shards),
        manifest_sha256=cache.manifest_sha256,
        manifest_written=manifest_written,
        snapshot_written=snapshot_written,
    )
