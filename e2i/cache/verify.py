"""Checking a cache: every stored byte against what the manifest says of it.

Conventions: a fault names one object below the cache folder and says `got ..., expected ...`. What
merging and pruning leave on purpose (shards that the manifest has released, or is deleting) is no
fault. Nothing is written. One shard a thread is in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from e2i.cache.failures import read_failure_file, read_failures
from e2i.cache.header import CacheHeader, read_header
from e2i.cache.layout import (
    FAILURES_FOLDER,
    FAILURES_NAME,
    HEADER_NAME,
    MANIFEST_NAME,
    SIDES,
    Side,
    is_shard,
)
from e2i.cache.manifest import Manifest, ShardEntry, read_manifest
from e2i.cache.reader import incomplete_because
from e2i.cache.shards import ID_COLUMN, ShardStamp, read_rows, stamp_of
from e2i.cache.stored_rows import embedding_rows, shard_bytes
from e2i.errors import CacheCorruptError, CacheError, CacheNotFoundError
from e2i.storage import FileInfo, Folder

_READERS = 4

FaultKind = Literal["header", "manifest", "incomplete", "shard", "unnamed", "rows", "failures"]
"""Where a fault lies: `shard` is one that readers need, `unnamed` one that they never open."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a cache.

    Attributes:
        kind: where it lies.
        name: of the object, below the cache folder.
        problem: what is wrong with it.
        unreadable: whether it is a shard that no run can use.
    """

    kind: FaultKind
    name: str
    problem: str
    unreadable: bool = False


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked, and what is wrong.

    Attributes:
        url: where the cache lies, without credentials.
        shards: checked.
        rows: in them.
        bytes: of them.
        released: shards left by merging, for readers of earlier manifests; `prune` deletes them.
        faults: none in a whole cache.
    """

    url: str
    shards: int
    rows: int
    bytes: int
    released: int
    faults: tuple[Fault, ...]


def verify_cache(folder: Folder) -> VerifyReport:
    """Check everything that a cache stores.

    Raises:
        CacheNotFoundError: there is no cache.
        StorageError: the store refused.
    """
    try:
        header = read_header(folder)
    except CacheNotFoundError:
        raise
    except CacheError as error:
        return _only(folder, Fault("header", HEADER_NAME, str(error)))
    faults: list[Fault] = []
    manifest: Manifest | None = None
    try:
        found = read_manifest(folder)
        manifest = found[0] if found else None
    except CacheError as error:
        faults.append(Fault("manifest", MANIFEST_NAME, str(error)))
    else:
        reason = incomplete_because(header, manifest)
        if reason:
            text = f"the cache is not whole: got {reason}, expected a complete one"
            faults.append(Fault("incomplete", MANIFEST_NAME, text))
        if manifest is not None and not manifest.belongs_to(header):
            manifest = None
    checks = [_Check(folder, header, side, manifest) for side in SIDES]
    with ThreadPoolExecutor(_READERS) as pool:
        for check in checks:
            faults += check.run(pool)
    faults += _failure_faults(folder, header, manifest)
    return VerifyReport(
        url=folder.url,
        shards=sum(check.shards for check in checks),
        rows=sum(check.rows for check in checks),
        bytes=sum(check.bytes for check in checks),
        released=sum(check.released for check in checks),
        faults=tuple(faults),
    )


def _only(folder: Folder, fault: Fault) -> VerifyReport:
    return VerifyReport(folder.url, 0, 0, 0, 0, (fault,))


@dataclass(slots=True)
class _Content:
    """What a shard holds: ids of its rows; `fault` where something is wrong with it."""

    stamp: ShardStamp | None = None
    ids: Sequence[str] = ()
    fault: str = ""
    unreadable: bool = False


@dataclass(slots=True)
class _Check:
    """The check of one side."""

    folder: Folder
    header: CacheHeader
    side: Side
    manifest: Manifest | None
    shards: int = 0
    rows: int = 0
    bytes: int = 0
    released: int = 0

    def run(self, pool: ThreadPoolExecutor) -> list[Fault]:
        """The faults of this side."""
        named = self.manifest.side(self.side) if self.manifest else None
        entries = {entry.name: entry for entry in named.shards} if named else {}
        files = {f.name: f for f in self.folder.files(self.side) if is_shard(f.name, self.side)}
        faults = [
            Fault("shard", name, "the shard is missing: got nothing, expected a file")
            for name in entries
            if name not in files
        ]
        left = {*named.released, *named.discarded} if named else set()
        checked = [file for file in files.values() if file.name not in left]
        contents = pool.map(lambda file: self._content(file, entries.get(file.name)), checked)
        counted: Counter[str] = Counter()
        for file, content in zip(checked, contents, strict=True):
            entry = entries.get(file.name)
            self.shards, self.rows = self.shards + 1, self.rows + len(content.ids)
            self.bytes += file.size_bytes
            faults += self._judged(file, entry, content)
            if entry is not None and not content.fault:
                counted.update(_counting(entry, content.ids))
        self.released = len(left & files.keys())
        sound = all(fault.kind == "unnamed" for fault in faults)
        return faults + (self._row_faults(counted) if sound else [])

    def _content(self, file: FileInfo, entry: ShardEntry | None) -> _Content:
        known = entry or ShardEntry(name=file.name, rows=-1, bytes=file.size_bytes, sha256="")
        try:
            data = shard_bytes(self.folder, known)
        except CacheCorruptError as error:
            return _Content(fault=str(error), unreadable=True)
        if entry is not None and len(data) != entry.bytes:
            return _broken(f"got {len(data)} bytes, expected {entry.bytes}")
        if entry is not None:
            sha256 = hashlib.sha256(data).hexdigest()
            if sha256 != entry.sha256:
                return _broken(f"got sha256 {sha256}, expected {entry.sha256}")
        return self._rows_of(file, entry, data)

    def _rows_of(self, file: FileInfo, entry: ShardEntry | None, data: pa.Buffer) -> _Content:
        try:
            stamp = stamp_of(self.folder, file.name, self.side, data)
            if stamp is None:
                return _broken("got no shard of this side and version, expected one")
            table = read_rows(self.folder, file.name, self.side, data)
            rows = embedding_rows(self.folder, file.name, table, stamp.dim)
        except CacheCorruptError as error:
            return _broken(str(error))
        ids = table.column(ID_COLUMN[self.side]).to_pylist()
        content = _Content(stamp, ids)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            content.fault = (
                f"got values that are not finite for {ids[int(np.argmin(finite))]!r}, expected "
                "numbers"
            )
        elif entry is not None and len(ids) != entry.rows:
            content.fault = f"got {len(ids)} rows, expected {entry.rows}"
        elif entry is not None and stamp != ShardStamp.of(self.header, self.side):
            content.fault = self._strange(stamp)
        content.unreadable = bool(content.fault)
        return content

    def _judged(self, file: FileInfo, entry: ShardEntry | None, content: _Content) -> list[Fault]:
        if entry is not None:
            if not content.fault:
                return []
            text = f"a shard is damaged: {content.fault}"
            return [Fault("shard", file.name, text, unreadable=content.unreadable)]
        if content.fault:
            text = f"a shard is damaged: {content.fault}"
            return [Fault("unnamed", file.name, text, unreadable=True)]
        stamp = content.stamp
        own = stamp is None or stamp == ShardStamp.of(self.header, self.side)
        if own and (self.manifest is None or not self.manifest.complete):
            return []  # of a run that goes on, or is to be resumed
        why = "rows that no reader sees" if own or stamp is None else self._strange(stamp)
        text = f"the manifest does not name this shard: got {why}, expected only shards in use"
        return [Fault("unnamed", file.name, text)]

    def _strange(self, stamp: ShardStamp) -> str:
        mine = ShardStamp.of(self.header, self.side)
        names = ("dataset", "split", "fingerprint", "generation", "dim")
        differing = [n for n in names if getattr(stamp, n) != getattr(mine, n)]
        shown = ", ".join(f"{n} {getattr(stamp, n)!r}" for n in differing)
        return f"rows of {shown} where the cache has " + ", ".join(
            f"{getattr(mine, n)!r}" for n in differing
        )

    def _row_faults(self, counted: Counter[str]) -> list[Fault]:
        """Whether the rows that count are those wanted."""
        if self.manifest is None or not self.manifest.complete:
            return []
        listed = self.manifest.side(self.side)
        expected = set(listed.wanted) - set(listed.failed)
        faults = []
        for what, names in (
            ("no row", expected - counted.keys()),
            ("a row that is not wanted", counted.keys() - expected),
            ("more than one row", {name for name, times in counted.items() if times > 1}),
        ):
            if names:
                text = (
                    f"the {self.side} rows are not those wanted: got {what} for {len(names)} ids "
                    f"(the first is {min(names)!r}), expected one a wanted id"
                )
                faults.append(Fault("rows", MANIFEST_NAME, text))
        return faults


def _broken(problem: str) -> _Content:
    return _Content(fault=problem, unreadable=True)


def _counting(entry: ShardEntry, ids: Sequence[str]) -> Iterable[str]:
    """Ids of the rows that count."""
    start = 0
    for excluded, following in (*entry.excluded, (len(ids), len(ids))):
        yield from ids[start:excluded]
        start = following


def _failure_faults(folder: Folder, header: CacheHeader, manifest: Manifest | None) -> list[Fault]:
    """Whether the failures can be read, and are those of the manifest."""
    faults = []
    for name in (FAILURES_NAME, *(file.name for file in folder.files(FAILURES_FOLDER))):
        try:
            read_failure_file(folder, name)
        except CacheError as error:
            faults.append(Fault("failures", name, str(error)))
    if manifest is None or faults:
        return faults
    recorded = read_failures(folder, header).by_id
    counts = manifest.counts
    sizes = {"audio": (counts.clips, counts.clips_failed)}
    sizes["text"] = (counts.captions, counts.captions_failed)
    for side in SIDES:
        listed = manifest.side(side)
        nameless = [name for name in listed.failed if (side, name) not in recorded]
        if nameless and manifest.complete:
            text = (
                f"a failure has no reason on record: got none for {nameless[0]!r} and "
                f"{len(nameless) - 1} others, expected one a failure"
            )
            faults.append(Fault("failures", FAILURES_NAME, text))
        if sizes[side] != (len(listed.wanted), len(listed.failed)):
            text = (
                f"the counts are not those of the ids: got {sizes[side]} {side} wanted and failed, "
                f"expected {(len(listed.wanted), len(listed.failed))}"
            )
            faults.append(Fault("manifest", MANIFEST_NAME, text))
    return faults
