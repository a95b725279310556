"""What a cache has to send: its files, by name, and whether the Hub holds them already.

Conventions: names are below the cache's folder; the same names stand below `--hf-prefix` in the
data set. What is sent is what a manifest names, and the documents that belong to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from e2i.cache.layout import FAILURES_NAME, HEADER_NAME, MANIFEST_NAME, SNAPSHOT_NAMES
from e2i.cache.manifest import ShardEntry
from e2i.cache.reader import Cache
from e2i.errors import StorageNotFoundError
from e2i.hub.repository import Content, HubFile
from e2i.storage import Folder


@dataclass(frozen=True, slots=True)
class OutgoingFile:
    """A file that the Hub is to hold.

    Attributes:
        content: its bytes, a local file, or what reads them.
        size_bytes: of the file; None where its name says what it holds, and it is made when sent.
        sha256: of the file; empty where its name says what it holds.
    """

    content: Content
    size_bytes: int | None = None
    sha256: str = ""

    def is_held_by(self, file: HubFile | None) -> bool:
        """Whether the Hub holds it."""
        if file is None:
            return False
        if isinstance(self.content, bytes):
            return file.holds(self.content)
        if self.size_bytes not in {None, file.size_bytes}:
            return False
        return file.sha256 is None or not self.sha256 or file.sha256 == self.sha256


@dataclass(slots=True)
class Outgoing:
    """What is to be sent, by name: first what is large, then the documents that name it."""

    large: dict[str, OutgoingFile] = field(default_factory=dict)
    documents: dict[str, OutgoingFile] = field(default_factory=dict)


def whole_cache(cache: Cache) -> Outgoing:
    """A finished cache: its shards, then `failures.jsonl`, `cache.json` and `manifest.json`."""
    folder = cache.folder
    outgoing = Outgoing()
    if cache.read is not None:  # the original's files, which are all there is
        return outgoing
    for entry in (*cache.manifest.audio.shards, *cache.manifest.text.shards):
        outgoing.large[entry.name] = shard_file(folder, entry)
    for name in (FAILURES_NAME, HEADER_NAME):
        document = _document(folder, name)
        if document is not None:
            outgoing.documents[name] = document
    # The one that names these shards, whatever another run has written since.
    manifest = cache.manifest.as_bytes()
    sha256 = hashlib.sha256(manifest).hexdigest()
    outgoing.documents[MANIFEST_NAME] = OutgoingFile(manifest, len(manifest), sha256)
    return outgoing


def snapshot_files(folder: Folder) -> dict[str, OutgoingFile]:
    """The tensors of the original's form, and what names them; empty unless all are there."""
    found: dict[str, OutgoingFile] = {}
    for name in SNAPSHOT_NAMES:
        info = folder.info(name)
        if info is None:
            return {}
        sha256 = hashlib.sha256(folder.read(name)).hexdigest()
        found[name] = OutgoingFile(content_of(folder, name), info.size_bytes, sha256)
    return found


def shard_file(folder: Folder, entry: ShardEntry) -> OutgoingFile:
    """A shard as a manifest names it."""
    return OutgoingFile(content_of(folder, entry.name), entry.bytes, entry.sha256)


def content_of(folder: Folder, name: str) -> Content:
    """A file of the cache: as it lies on the local disk, else read when it is to be sent."""
    if folder.local_path is not None:
        return folder.local_path / name
    return _reader(folder, name)


def _reader(folder: Folder, name: str) -> Callable[[], bytes]:
    return lambda: folder.read(name)


def _document(folder: Folder, name: str) -> OutgoingFile | None:
    try:
        data = folder.read(name)
    except StorageNotFoundError:
        return None
    return OutgoingFile(data, len(data), hashlib.sha256(data).hexdigest())
