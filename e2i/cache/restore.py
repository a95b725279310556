"""A cache fetched from where it is kept: the Hub, an object store, another folder.

Conventions: e2i's caches come by their manifest: `cache.json` first, then the shards, each held
against its sha256, the manifest last; so what was broken off is never taken for whole, and goes on
with the shards that are there. The original's three files have no sums: they are held against each
other once they are there (`original`). What a folder holds already is replaced only where asked.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from e2i.cache.header import CacheHeader, read_header
from e2i.cache.layout import (
    FAILURES_NAME,
    HEADER_NAME,
    MANIFEST_NAME,
    SNAPSHOT_METADATA_NAME,
    SNAPSHOT_NAMES,
    parse_document,
)
from e2i.cache.manifest import Manifest, ShardEntry, read_manifest
from e2i.cache.original import read_original
from e2i.cache.reader import incomplete_because
from e2i.errors import (
    CacheCorruptError,
    CacheError,
    CacheIncompleteError,
    CacheNotFoundError,
    StorageNotFoundError,
)
from e2i.storage import Folder

Progress = Callable[[int], None]
"""Told how many more files are there."""

_FETCHERS = 4


@dataclass(frozen=True, slots=True)
class KeptCache:
    """A cache where it is kept.

    Attributes:
        folder: where.
        header: bytes of its `cache.json`; None for the original's files.
        manifest: its manifest; None for the original's files.
        manifest_data: bytes of it.
    """

    folder: Folder
    header: bytes | None
    manifest: Manifest | None
    manifest_data: bytes

    @property
    def num_files(self) -> int:
        """Files that hold embeddings."""
        if self.manifest is None:
            return len(SNAPSHOT_NAMES)
        return len(self.manifest.audio.shards) + len(self.manifest.text.shards)


@dataclass(slots=True)
class Restored:
    """What restoring did.

    Attributes:
        fetched: files with embeddings that were fetched.
        fetched_bytes: their size.
        reused: those that were there.
    """

    fetched: int = 0
    fetched_bytes: int = 0
    reused: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, size_bytes: int | None) -> None:
        """Count a file; None for one that was there. Called from any thread."""
        with self._lock:
            if size_bytes is None:
                self.reused += 1
            else:
                self.fetched += 1
                self.fetched_bytes += size_bytes


def look_at(folder: Folder) -> KeptCache | None:
    """What a folder keeps, e2i's or the original's; None where it is neither.

    Raises:
        CacheIncompleteError: e2i's, and not finished.
        CacheCorruptError: `cache.json` or `manifest.json` cannot be read.
        StorageError: the store refused.
    """
    try:
        data = folder.read(HEADER_NAME)
    except StorageNotFoundError:
        if all(folder.info(name) is not None for name in SNAPSHOT_NAMES):
            return KeptCache(folder, None, None, b"")
        return None
    header = parse_document(CacheHeader, data, f"{folder.url}/{HEADER_NAME}")
    found = read_manifest(folder)
    fault = incomplete_because(header, found[0] if found else None)
    if found is None or fault:
        raise CacheIncompleteError(
            f"the cache there is not whole: got {fault} in {folder.url}, expected a complete "
            f"{MANIFEST_NAME}. Let the run that writes it end first."
        )
    return KeptCache(folder, data, found[0], found[1])


def restore(
    kept: KeptCache, target: Folder, *, force: bool = False, progress: Progress | None = None
) -> Restored:
    """Fetch a cache into a folder, or what is missing of it.

    Args:
        kept: what `look_at` found.
        target: where to.
        force: replace what the folder holds, if that is something else.
        progress: told of files as they are there.

    Raises:
        CacheError: the folder holds something else.
        CacheCorruptError: what was fetched is not as the manifest says.
        StorageError: a store refused; what was fetched stays, and is not fetched again.
    """
    tell = progress or (lambda _: None)
    if kept.header is None or kept.manifest is None:
        return _restore_original(kept, target, force=force, progress=tell)
    _check_target(kept.header, kept.manifest_data, target, force=force)
    _write_header(kept.header, target)
    restored = Restored()

    def fetch(entry: ShardEntry) -> None:
        restored.add(_fetch_shard(kept.folder, target, entry))
        tell(1)

    with ThreadPoolExecutor(_FETCHERS) as pool:
        # The list makes the first error come out; what has not begun then is dropped.
        pending = [
            pool.submit(fetch, entry)
            for entry in (*kept.manifest.audio.shards, *kept.manifest.text.shards)
        ]
        try:
            for future in pending:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    try:
        target.write(FAILURES_NAME, kept.folder.read(FAILURES_NAME))
    except StorageNotFoundError:
        target.delete(FAILURES_NAME)
    target.write(MANIFEST_NAME, kept.manifest_data)
    return restored


def _check_target(header: bytes, manifest: bytes, target: Folder, *, force: bool) -> None:
    """Refuse a folder that holds something else, unless it is to be replaced."""
    if force:
        stored = _read_if_there(target, HEADER_NAME), _read_if_there(target, MANIFEST_NAME)
        if stored != (header, manifest):
            target.delete(MANIFEST_NAME)
        return
    try:
        there = read_header(target)
    except CacheNotFoundError:
        if any(target.info(name) is not None for name in SNAPSHOT_NAMES):
            raise _other_content(target, "embeddings without a cache.json") from None
        return
    if there != parse_document(CacheHeader, header, HEADER_NAME):
        got = f"a cache of {there.dataset} {there.split} by other settings or another run"
        raise _other_content(target, got)
    found = read_manifest(target)
    if found is not None and found[0].complete and found[1] != manifest:
        raise _other_content(target, f"another state of {there.dataset} {there.split}")


def _other_content(target: Folder, got: str) -> CacheError:
    return CacheError(
        f"the folder holds something else: got {got} in {target.url}, expected an empty folder or "
        "the same cache. Use --force to replace it, or choose another --cache-dir."
    )


def _write_header(header: bytes, target: Folder) -> None:
    if _read_if_there(target, HEADER_NAME) != header:
        target.write(HEADER_NAME, header)


def _read_if_there(folder: Folder, name: str) -> bytes | None:
    try:
        return folder.read(name)
    except StorageNotFoundError:
        return None


def _fetch_shard(source: Folder, target: Folder, entry: ShardEntry) -> int | None:
    """Have a shard there; its bytes, or None if it was."""
    stored = target.info(entry.name)
    same_size = stored is not None and stored.size_bytes == entry.bytes
    if same_size and hashlib.sha256(target.read(entry.name)).hexdigest() == entry.sha256:
        return None
    try:
        data = source.read(entry.name)
    except StorageNotFoundError as error:
        raise _not_as_said(source, entry.name, "no such file", "it to be there") from error
    if len(data) != entry.bytes:
        raise _not_as_said(source, entry.name, f"{len(data)} bytes", f"{entry.bytes}")
    if (sha256 := hashlib.sha256(data).hexdigest()) != entry.sha256:
        raise _not_as_said(source, entry.name, f"sha256 {sha256}", entry.sha256)
    target.write(entry.name, data)
    return len(data)


def _not_as_said(source: Folder, name: str, got: str, expected: str) -> CacheCorruptError:
    return CacheCorruptError(
        f"a shard is not as its manifest says: got {got} for {source.url}/{name}, expected "
        f"{expected}. Run again; if it stays so, the cache has to be made again where it is kept."
    )


def _restore_original(
    kept: KeptCache, target: Folder, *, force: bool, progress: Progress
) -> Restored:
    """The original's three files, `metadata.json` last."""
    if target.info(HEADER_NAME) is not None:
        raise CacheError(
            f"the folder holds something else: got a cache of e2i in {target.url}, expected an "
            "empty folder or the original's files. Choose another --cache-dir."
        )
    metadata = kept.folder.read(SNAPSHOT_METADATA_NAME)
    there = _read_if_there(target, SNAPSHOT_METADATA_NAME)
    if there not in {None, metadata} and not force:
        raise CacheError(
            f"the folder holds something else: got the original's files of other pairs in "
            f"{target.url}, expected those of {kept.folder.url} or an empty folder. Choose another "
            "--cache-dir, or pass --force to replace them."
        )
    restored = Restored()
    for name in SNAPSHOT_NAMES:
        stored, info = target.info(name), kept.folder.info(name)
        same_size = stored is not None and info is not None and stored.size_bytes == info.size_bytes
        # What was broken off has no metadata yet: then nothing says what the tensors are of.
        if same_size and there is not None and not force:
            restored.add(None)
        else:
            data = kept.folder.read(name)
            target.write(name, data)
            restored.add(len(data))
        progress(1)
    read_original(target)
    return restored
