"""Taking stock: which wanted rows are stored, and where.

Conventions: what is stored is told by the shards alone, under the fingerprint and generation of
`cache.json`, so that nothing else has to survive a kill. Where an id stands more than once, the row
counts whose content digest is that of the current recording or caption; among equals the one that
the manifest counts, then the one in the shard that comes first by name. Where the named
shards hold all that is wanted, the others are not opened. Shards that are being deleted hold
nothing. A recording that cannot be looked up keeps the row that it has: audio may be moved away
once it is embedded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from e2i.cache.header import CacheHeader
from e2i.cache.layout import SIDES, Side, is_shard
from e2i.cache.manifest import Manifest, ShardEntry, Verified, runs_of
from e2i.cache.shards import ShardKeys, ShardStamp, corrupt, read_keys
from e2i.cache.sources import digests, look_up
from e2i.clips import CaptionedClips
from e2i.storage import FileInfo, Folder

_READERS = 8


@dataclass(slots=True)
class SideStock:
    """What is stored of one side.

    Attributes:
        stored: wanted ids that have a row.
        shards: those with at least one row that counts, sorted by name.
        listed: names of all shards that lie there.
    """

    stored: set[str] = field(default_factory=set)
    shards: list[ShardEntry] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Stock:
    """What is stored of what is wanted.

    Attributes:
        audio: the clips.
        text: the captions.
        verified: recordings whose size or version changed while their bytes did not, by clip id.
    """

    audio: SideStock
    text: SideStock
    verified: dict[str, Verified]

    def side(self, side: Side) -> SideStock:
        """The audio side or the text side."""
        return self.audio if side == "audio" else self.text


def take_stock(
    folder: Folder,
    header: CacheHeader,
    clips: CaptionedClips,
    audio_root: Folder,
    manifest: Manifest | None,
    *,
    known: Mapping[str, Verified] | None = None,
    hashed: bool = False,
) -> Stock:
    """Which wanted rows the shards hold.

    Args:
        folder: the cache.
        header: its `cache.json`.
        clips: what is wanted.
        audio_root: where the recordings lie.
        manifest: the last manifest, for what it knows of shards and recordings.
        known: recordings verified since, by clip id.
        hashed: give the sha256 of each shard; those that the manifest knows are not read for it.

    Raises:
        CacheCorruptError: a shard cannot be read, or is not as the manifest has it.
    """
    gone = {name for side in SIDES for name in manifest.side(side).discarded} if manifest else set()
    if manifest is not None and not manifest.belongs_to(header):
        manifest = None
    wanted = _Wanted.of(clips)
    before = {**(manifest.verified if manifest else {}), **(known or {})}
    files = {side: _files(folder, side, manifest, gone) for side in SIDES}
    reading = _Reading(folder, header, manifest, hashed)
    read = {side: reading.keys(side, files[side].named) for side in SIDES}
    enough = manifest is not None and manifest.complete and wanted.is_of(manifest)
    stock = _evaluated(read, wanted, audio_root, manifest, before) if enough else None
    if stock is None or any(
        files[side].others and len(stock.side(side).stored) < len(wanted.ids(side))
        for side in SIDES
    ):
        before |= stock.verified if stock else {}
        read = {side: read[side] + reading.keys(side, files[side].others) for side in SIDES}
        stock = _evaluated(read, wanted, audio_root, manifest, before)
    for side in SIDES:
        stock.side(side).listed = files[side].listed
    return stock


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Names of recordings by clip id; clip id and text by caption id."""

    names: dict[str, str]
    captions: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, clips: CaptionedClips) -> _Wanted:
        captions = {
            c.caption_id: (c.clip_id, c.text) for clip in clips.clips for c in clip.captions
        }
        return cls({clip.clip_id: clip.audio_name for clip in clips.clips}, captions)

    def ids(self, side: Side) -> Mapping[str, object]:
        return self.names if side == "audio" else self.captions

    def is_of(self, manifest: Manifest) -> bool:
        return all(tuple(self.ids(side)) == manifest.side(side).wanted for side in SIDES)


@dataclass(frozen=True, slots=True)
class _Files:
    """The shards of a side: those that the manifest names, the others that may count, all names."""

    named: list[FileInfo]
    others: list[FileInfo]
    listed: set[str]


def _files(folder: Folder, side: Side, manifest: Manifest | None, gone: set[str]) -> _Files:
    files = [file for file in folder.files(side) if is_shard(file.name, side)]
    entries = manifest.side(side).shards if manifest else ()
    named = {entry.name for entry in entries}
    return _Files(
        named=[file for file in files if file.name in named],
        others=[file for file in files if file.name not in named and file.name not in gone],
        listed={file.name for file in files},
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    """How shards are read for their ids."""

    folder: Folder
    header: CacheHeader
    manifest: Manifest | None
    hashed: bool

    def keys(self, side: Side, files: Sequence[FileInfo]) -> list[ShardKeys]:
        """What the files hold, of those under the header's fingerprint and generation."""
        entries = self.manifest.side(side).shards if self.manifest else ()
        stamp = ShardStamp.of(self.header, side)
        found = _read(self.folder, side, files, entries, hashed=self.hashed)
        return [keys for keys in found if keys.stamp == stamp]


def _evaluated(
    read: Mapping[Side, Sequence[ShardKeys]],
    wanted: _Wanted,
    audio_root: Folder,
    manifest: Manifest | None,
    before: Mapping[str, Verified],
) -> Stock:
    """The first row of each wanted id that is current."""
    entries: dict[Side, dict[str, ShardEntry]] = {
        side: {entry.name: entry for entry in (manifest.side(side).shards if manifest else ())}
        for side in SIDES
    }
    digest, verified = _current_digests(wanted.names, read["audio"], audio_root, manifest, before)
    return Stock(
        audio=_counted(
            read["audio"],
            "clip_id",
            entries["audio"],
            lambda columns: [
                digest.get(clip_id) == sha
                for clip_id, sha in zip(columns["clip_id"], columns["content_sha256"], strict=True)
            ],
        ),
        text=_counted(
            read["text"],
            "caption_id",
            entries["text"],
            lambda columns: [
                wanted.captions.get(caption_id) == (clip_id, text)
                for caption_id, clip_id, text in zip(*columns.values(), strict=True)
            ],
        ),
        verified=verified,
    )


def read_shards(
    folder: Folder,
    side: Side,
    entries: Iterable[ShardEntry] = (),
    *,
    skip: Collection[str] = (),
    hashed: bool = False,
) -> list[ShardKeys]:
    """The ids in all shards of a side, sorted by name.

    Args:
        folder: the cache.
        side: audio or text.
        entries: what the manifest says of shards: sizes are compared, sums are taken over.
        skip: shards to leave out.
        hashed: give the sha256 of the others too.

    Raises:
        CacheCorruptError: a shard cannot be read, or is not as the manifest has it.
    """
    listed = (file for file in folder.files(side) if file.name not in skip)
    files = [file for file in listed if is_shard(file.name, side)]
    return _read(folder, side, files, entries, hashed=hashed)


def _read(
    folder: Folder,
    side: Side,
    files: Sequence[FileInfo],
    entries: Iterable[ShardEntry],
    *,
    hashed: bool,
) -> list[ShardKeys]:
    by_name = {entry.name: entry for entry in entries}

    def read(file: FileInfo) -> ShardKeys:
        entry = by_name.get(file.name)
        if entry is None:
            return read_keys(folder, file, side, hashed=hashed)
        if entry.bytes != file.size_bytes:
            raise corrupt(folder, file.name, f"{file.size_bytes} bytes", f"{entry.bytes} bytes")
        return replace(read_keys(folder, file, side, hashed=False), sha256=entry.sha256)

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, files))


def _counted(
    shards: Sequence[ShardKeys],
    id_column: str,
    entries: Mapping[str, ShardEntry],
    current: Callable[[dict[str, list[Any]]], list[bool]],
) -> SideStock:
    """One row of each id, among those that are current: the one that counted before, if any."""
    stock = SideStock()
    usable = {keys.name: current(keys.columns) for keys in shards}
    kept: dict[str, list[bool]] = {}
    known = [keys for keys in shards if keys.name in entries]
    for keys in known:
        counts = entries[keys.name].mask()
        may = [a and b for a, b in zip(usable[keys.name], counts, strict=True)]
        kept[keys.name] = _take(keys.columns[id_column], may, stock.stored)
    for keys in sorted(shards, key=lambda keys: keys.name):
        have = kept.get(keys.name, [False] * keys.rows)
        if not all(have):
            more = _take(keys.columns[id_column], usable[keys.name], stock.stored)
            have = [a or b for a, b in zip(have, more, strict=True)]
        if any(have):
            excluded = runs_of(row for row, has in enumerate(have) if not has)
            entry = ShardEntry(
                name=keys.name,
                rows=keys.rows,
                bytes=keys.size_bytes,
                sha256=keys.sha256,
                excluded=excluded,
            )
            stock.shards.append(entry)
    return stock


def _take(ids: Sequence[str], usable: Sequence[bool], stored: set[str]) -> list[bool]:
    """Which rows are taken: usable ones of ids that are not stored yet, which they are then."""
    taken = []
    for name, good in zip(ids, usable, strict=True):
        new = good and name not in stored
        if new:
            stored.add(name)
        taken.append(new)
    return taken


def _current_digests(
    names: Mapping[str, str],
    shards: Sequence[ShardKeys],
    audio_root: Folder,
    manifest: Manifest | None,
    before: Mapping[str, Verified],
) -> tuple[dict[str, str], dict[str, Verified]]:
    """The digest that each clip's row must have, and what had to be verified for it.

    Told by size and version, else by what was verified before, else by hashing the recording.
    """
    infos = look_up(audio_root, names.values())
    digest, kept, changed = _by_version(shards, names, infos, manifest)
    verified: dict[str, Verified] = {}
    for clip_id, sha in kept.items():
        digest[clip_id] = sha
        if (known := before.get(clip_id)) is not None and known.sha256 == sha:
            verified[clip_id] = known
    hashes = {
        clip_id: before[clip_id].sha256
        for clip_id in changed
        if clip_id in before and _is_same(before[clip_id], infos[names[clip_id]])
    }
    unknown = [clip_id for clip_id in changed if clip_id not in hashes]
    read = digests(audio_root, (names[clip_id] for clip_id in unknown))
    hashes |= {clip_id: read[names[clip_id]] for clip_id in unknown if names[clip_id] in read}
    for clip_id, sha in hashes.items():
        if sha in changed[clip_id]:
            info = infos[names[clip_id]]
            digest[clip_id] = sha
            verified[clip_id] = Verified(bytes=info.size_bytes, version=info.version, sha256=sha)
    return digest, dict(sorted(verified.items()))


def _by_version(
    shards: Sequence[ShardKeys],
    names: Mapping[str, str],
    infos: Mapping[str, FileInfo],
    manifest: Manifest | None,
) -> tuple[dict[str, str], dict[str, str], dict[str, set[str]]]:
    """By clip id: digests told by size and version; those of recordings that cannot be looked up.

    The third is what is stored of recordings whose size or version is another one.
    """
    entries = {entry.name: entry for entry in (manifest.audio.shards if manifest else ())}
    digest: dict[str, str] = {}
    kept: dict[str, str] = {}
    preferred: dict[str, str] = {}
    changed: dict[str, set[str]] = {}
    for keys in shards:
        entry = entries.get(keys.name)
        for row, (clip_id, sha, size, version) in enumerate(
            zip(*keys.columns.values(), strict=True)
        ):
            name = names.get(clip_id)
            if name is None or clip_id in digest:
                continue
            info = infos.get(name)
            if info is None:
                kept.setdefault(clip_id, sha)
                if entry is not None and entry.counts(row):
                    preferred[clip_id] = sha
            elif (info.size_bytes, info.version) == (size, version):
                digest[clip_id] = sha
                changed.pop(clip_id, None)
            else:
                changed.setdefault(clip_id, set()).add(sha)
    return digest, kept | preferred, changed


def _is_same(known: Verified, info: FileInfo) -> bool:
    return (known.bytes, known.version) == (info.size_bytes, info.version)
