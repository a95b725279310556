"""Taking out of a cache what is broken, so that the next run embeds it again, and only that.

Conventions: a shard that is damaged is discarded by the manifest first and deleted then, and the
manifest is marked as not complete: no reader takes the cache for whole until a run has embedded
what is missing. A manifest that cannot be read is deleted: it is made anew from what is stored.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from e2i.cache.header import read_header
from e2i.cache.layout import MANIFEST_NAME, SIDES, is_shard
from e2i.cache.manifest import Manifest, read_manifest
from e2i.cache.verify import Fault, VerifyReport, verify_cache
from e2i.errors import CacheCorruptError, StaleWriteError
from e2i.storage import Folder

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Damage:
    """What a check found, and what was taken out for it.

    Attributes:
        report: of the check.
        set_aside: shards that were deleted because nothing can read them.
        to_embed: whether a run has to embed, or to count anew.
        source: the metadata that the cache was made from; empty where that is not known.
    """

    report: VerifyReport
    set_aside: tuple[str, ...]
    to_embed: bool
    source: str


def set_broken_aside(folder: Folder) -> Damage:
    """Check a cache and take out of it what is broken; rows in use and sound stay.

    Raises:
        CacheNotFoundError: there is no cache.
        CacheCorruptError: `cache.json` cannot be read, which nothing can be made from.
        SchemaVersionError: another version of e2i wrote the cache.
        StaleWriteError: runs keep replacing the manifest.
        StorageError: the store refused.
    """
    for _ in range(_ATTEMPTS):
        header = read_header(folder)
        found, damaged = _manifest_and_damage(folder)
        report = verify_cache(folder)
        broken = tuple(fault.name for fault in report.faults if fault.unreadable)
        needed = [fault for fault in report.faults if fault.kind != "unnamed"]
        if found is not None and found[0].belongs_to(header) and (broken or needed):
            cleared = _without(found[0], report.faults, complete=not needed)
            try:
                folder.replace(MANIFEST_NAME, cleared.as_bytes(), found[1])
            except StaleWriteError:
                continue
        elif damaged:
            folder.delete(MANIFEST_NAME)
        unusable = [fault.name for fault in report.faults if fault.kind == "failures"]
        gone = [n for side in SIDES for n in found[0].side(side).discarded] if found else []
        for name in (*broken, *unusable, *gone):
            folder.delete(name)
        return Damage(report, broken, bool(needed), found[0].source if found else "")
    raise StaleWriteError(
        f"{folder.url}/{MANIFEST_NAME} keeps changing: got {_ATTEMPTS} writes by runs, expected "
        "one that lasts while shards are checked. Repair when no run is going on."
    )


def _manifest_and_damage(folder: Folder) -> tuple[tuple[Manifest, str] | None, bool]:
    """The manifest and its version, and whether there is one that cannot be read."""
    try:
        found = read_manifest(folder)
    except CacheCorruptError:
        return None, True
    return ((found[0], found[2]) if found else None), False


def _without(manifest: Manifest, faults: Collection[Fault], *, complete: bool) -> Manifest:
    """The manifest without the shards at fault, whose names no later shard gets."""
    sides: dict[str, object] = {}
    for side in SIDES:
        listed = manifest.side(side)
        lost = {fault.name for fault in faults if fault.kind == "shard"}
        going = {f.name for f in faults if f.unreadable and is_shard(f.name, side)}
        sides[side] = listed.model_copy(
            update={
                "shards": tuple(e for e in listed.shards if e.name not in going | lost),
                "released": tuple(name for name in listed.released if name not in going),
                "discarded": tuple(sorted({*listed.discarded, *going})),
            }
        )
    changes = {"complete": manifest.complete and complete, "revision": manifest.revision + 1}
    return manifest.model_copy(update={**sides, **changes})
