"""`manifest.json`: the index of a finished cache, written last.

Conventions: a manifest is a pure function of what is wanted and what is stored, without a time of
day, so that two runs that end on the same cache write the same bytes. Which rows of a shard do not
count (superseded, stored twice, of clips that are gone) stands as half-open runs of row numbers. A
manifest that is not `complete` only keeps what the last complete one knew: readers refuse it.

A shard that no longer counts is first `released`: it may still be read by whoever opened an earlier
manifest, and its rows can come back. Whoever deletes a shard makes it `discarded` before: from then
on no run counts its rows, so that no manifest ever names a shard that is about to go.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from e2i.cache.header import CacheHeader
from e2i.cache.layout import MANIFEST_NAME, Document, Side, parse_document
from e2i.errors import StorageNotFoundError
from e2i.storage import Folder

Run = tuple[int, int]
"""Half-open run of row numbers."""


class ShardEntry(Document):
    """One shard that readers take rows from.

    Attributes:
        name: below the cache folder.
        rows: in the file, counting or not.
        bytes: of the file.
        sha256: of the file.
        excluded: runs of rows that do not count.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    excluded: tuple[Run, ...] = ()

    @property
    def counted(self) -> int:
        """Rows that count."""
        return self.rows - sum(stop - start for start, stop in self.excluded)

    def mask(self) -> list[bool]:
        """For each row whether it counts."""
        mask = [True] * self.rows
        for start, stop in self.excluded:
            mask[start:stop] = [False] * (stop - start)
        return mask

    def counts(self, row: int) -> bool:
        """Whether a row counts."""
        return not any(start <= row < stop for start, stop in self.excluded)


class SideManifest(Document):
    """One side of a finished cache.

    Attributes:
        fingerprint: of the encoder.
        generation: of the rows.
        dim: D.
        wanted: all ids, in the order of the metadata.
        failed: those among them that could not be embedded, in the same order.
        shards: sorted by name; with `failed` they account for each wanted id exactly once.
        released: shards that a manifest named before and this one does not, sorted.
        discarded: shards that are being deleted, sorted.
    """

    fingerprint: str
    generation: int
    dim: int
    wanted: tuple[str, ...]
    failed: tuple[str, ...]
    shards: tuple[ShardEntry, ...]
    released: tuple[str, ...] = ()
    discarded: tuple[str, ...] = ()

    @property
    def stored(self) -> int:
        """Ids that have a row."""
        return len(self.wanted) - len(self.failed)


class Verified(Document):
    """A recording whose size or version changed while its bytes did not."""

    bytes: int
    version: str
    sha256: str


class Counts(Document):
    """What a finished cache holds.

    Attributes:
        clips: wanted.
        captions: wanted.
        clips_failed: clips without an embedding.
        captions_failed: captions without an embedding.
        captions_without_clip: captions whose clip failed; they leave training and evaluation.
    """

    clips: int
    captions: int
    clips_failed: int
    captions_failed: int
    captions_without_clip: int


class Manifest(Document):
    """`manifest.json`.

    Attributes:
        source: the metadata that the ids come from, without credentials.
        verified: by clip id.
        revision: raised each time that shards are discarded; part of the key of later shards, so
            that none is taken for one that is going.
    """

    schema_version: Literal[1] = 1
    complete: bool
    dataset: str
    split: str
    source: str
    counts: Counts
    audio: SideManifest
    text: SideManifest
    verified: dict[str, Verified]
    revision: int = 0

    def side(self, side: Side) -> SideManifest:
        """The audio side or the text side."""
        return self.audio if side == "audio" else self.text

    def belongs_to(self, header: CacheHeader) -> bool:
        """Whether it describes rows under the header's fingerprints and generations."""
        return all(
            (mine.fingerprint, mine.generation, mine.dim)
            == (theirs.fingerprint, theirs.generation, theirs.dim)
            for mine, theirs in ((self.audio, header.audio), (self.text, header.text))
        )


def read_manifest(folder: Folder) -> tuple[Manifest, bytes, str] | None:
    """The stored manifest, its bytes and their version; None where there is none.

    Raises:
        CacheCorruptError: it cannot be read.
        SchemaVersionError: another version of e2i wrote it.
    """
    try:
        data, version = folder.read_versioned(MANIFEST_NAME)
    except StorageNotFoundError:
        return None
    return parse_document(Manifest, data, f"{folder.url}/{MANIFEST_NAME}"), data, version


def runs_of(rows: Iterable[int]) -> tuple[Run, ...]:
    """Ascending row numbers as half-open runs."""
    runs: list[Run] = []
    for row in rows:
        if runs and runs[-1][1] == row:
            runs[-1] = (runs[-1][0], row + 1)
        else:
            runs.append((row, row + 1))
    return tuple(runs)
