"""The mirror of a cache on the Hub.

Conventions: what is still to be sent is what the cache holds and the data set lacks, found by
looking at both. The cache on its disk or store is thus the queue, and survives whatever ends a run:
the next one sends what this one has not. Shards are sent as they are stored, whatever their run
came to; `cache.json` and `manifest.json` come last, in one commit with whatever was left, so that
the Hub never shows a manifest without its shards. Shards that the manifest no longer names leave
the data set in that commit; its history keeps them.

A commit holds at most 500 files, and there is at most one a minute. Where somebody else committed
first, the mirror looks again; where the Hub asks to come back later, it does, as often as its
patience says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from e2i.cache.header import CacheHeader, read_header
from e2i.cache.layout import HEADER_NAME, SIDES, Side, is_shard, parse_document
from e2i.cache.manifest import read_manifest
from e2i.cache.reader import open_cache
from e2i.cache.shards import ShardStamp, read_keys
from e2i.cache.snapshot import is_current
from e2i.errors import ConfigError, HubBusyError, StaleWriteError
from e2i.hub.card import CARD_NAME, CardFacts, data_card, speaks_of
from e2i.hub.config import HubConfig
from e2i.hub.contents import Outgoing, OutgoingFile, content_of, snapshot_files, whole_cache
from e2i.hub.repository import Content, Head, HubRepository
from e2i.storage import Folder

FILES_A_COMMIT = 500

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the mirror goes, and how long it tries.

    Attributes:
        interval_s: least time between two commits.
        pauses_s: before the second attempt, the third, and so on, where the Hub does not say.
        longest_pause_s: what the Hub may ask for; beyond it the attempt has failed.
    """

    interval_s: float = 60.0
    pauses_s: tuple[float, ...] = (2.0, 5.0, 15.0, 30.0, 60.0)
    longest_pause_s: float = 900.0


@dataclass(slots=True)
class Sent:
    """What was sent.

    Attributes:
        files: shards, images, documents.
        size_bytes: of these.
        commits: made.
        deleted: files that were taken out of the data set.
    """

    files: int = 0
    size_bytes: int = 0
    commits: int = 0
    deleted: int = 0


@dataclass(slots=True)
class _Change:
    """Files by path in the data set, and paths to delete."""

    large: dict[str, OutgoingFile] = field(default_factory=dict)
    documents: dict[str, OutgoingFile] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.large or self.documents or self.delete)


Find = Callable[[Head], _Change]
"""What is to change, given what the data set holds."""


class Mirror:
    """One cache and the folder of a data set that mirrors it; for one thread at a time.

    Attributes:
        sent: what this mirror has sent so far.
        lacking: files that the data set lacked when it was last looked at; None before that.
    """

    def __init__(
        self,
        folder: Folder,
        config: HubConfig,
        *,
        pace: Pace = Pace(),
        endpoint: str | None = None,
    ) -> None:
        """Point at both; nothing is asked yet.

        Args:
            folder: the cache.
            config: where it is mirrored to.
            pace: of commits and attempts.
            endpoint: of another Hub than the client's own.

        Raises:
            ConfigError: no data set is given.
        """
        if config.hf_dataset is None:
            raise ConfigError(
                "no data set to mirror to: got none, expected 'owner/name'. Give --hf-dataset."
            )
        self._folder = folder
        self._prefix = config.hf_prefix
        self._pace = pace
        self.repository = HubRepository(config.hf_dataset, config.token, endpoint)
        self.sent = Sent()
        self.lacking: int | None = None
        self._last_commit: float | None = None
        self._stamps: dict[str, tuple[ShardStamp | None, int]] = {}
        self._ensured = False
        self._stop = threading.Event()

    @property
    def url(self) -> str:
        """Where people look at it."""
        return self.repository.url + (f"/tree/main/{self._prefix}" if self._prefix else "")

    def stop(self) -> None:
        """Let pauses end at once, with the error that they were for, until `resume`."""
        self._stop.set()

    def resume(self) -> None:
        """Pause again where there is reason to."""
        self._stop.clear()

    def check(self) -> None:
        """Make the data set if there is none; refuse a folder of it that holds another cache.

        Raises:
            ConfigError: it holds a cache of another data set, split or encoder.
            StorageError: the Hub refused, or does not answer.
        """
        self._refuse_other_cache(self._head())

    def send_shards(self, at_least: int = 1, captions_per_clip: float = 1.0) -> None:
        """Send the shards that are stored by now and that the data set lacks, in one commit.

        Args:
            at_least: pairs that they have to hold together; fewer wait for more. Pairs are the
                captions, or the captions of the clips, whichever are more.
            captions_per_clip: of the cache.

        Raises:
            ConfigError: see `check`.
            CacheError: a shard or `cache.json` cannot be read.
            StorageError: the Hub refused, or does not answer; nothing is lost by that.
        """
        header = read_header(self._folder)

        def find(head: Head) -> _Change:
            change, rows = self._stored_shards(head, header)
            pairs = max(rows["text"], rows["audio"] * captions_per_clip)
            return change if pairs >= at_least else _Change()

        self._bring(find, "Add shards", one_commit=True, header=header)

    def send_images(self, packs: Mapping[str, OutgoingFile]) -> None:
        """Send the packs of pseudo-images that the data set lacks.

        Raises:
            ConfigError: see `check`.
            StorageError: the Hub refused, or does not answer; nothing is lost by that.
        """
        header = open_cache(self._folder).header

        def find(head: Head) -> _Change:
            return _Change(self._lacking(head, packs))

        self._bring(find, "Add pseudo-images", one_commit=False, header=header)

    def finish(
        self,
        images: Mapping[str, OutgoingFile] | None = None,
        *,
        cache: bool = True,
        snapshot: bool = False,
    ) -> None:
        """Make the data set hold what the finished cache does.

        Args:
            images: packs of pseudo-images, by name below the cache.
            cache: send shards and documents.
            snapshot: send the tensors of the original's form as well, where they are up to date.

        Raises:
            CacheError: the cache is not finished.
            ConfigError: see `check`.
            StorageError: the Hub refused, or does not answer; what it took stays.
        """
        opened = open_cache(self._folder)
        outgoing = whole_cache(opened) if cache else Outgoing()
        if snapshot and (opened.read is not None or is_current(opened)):
            outgoing.large |= snapshot_files(self._folder)
        outgoing.large |= images or {}
        facts = CardFacts.of(opened, images or {}, with_shards=cache and opened.read is None)

        def find(head: Head) -> _Change:
            change = _Change(
                self._lacking(head, outgoing.large), self._lacking(head, outgoing.documents)
            )
            change.delete = self._spare(head, outgoing)
            card = data_card(self.repository.read(head, CARD_NAME), self._prefix, facts)
            file = OutgoingFile(card, len(card))
            if not file.is_held_by(head.files.get(CARD_NAME)):
                change.documents[CARD_NAME] = file
            return change

        title = f"Mirror {opened.manifest.dataset} {opened.manifest.split}"
        self._bring(find, title, one_commit=False, header=opened.header)

    def _bring(self, find: Find, title: str, *, one_commit: bool, header: CacheHeader) -> None:
        """Commit what `find` finds, until it finds nothing (or, for one commit, once)."""
        while True:

            def step() -> bool:
                head = self._head()
                self._refuse_other_cache(head, header)
                change = find(head)
                self.lacking = len(change.large) + len(change.documents)
                if not change:
                    return True
                part = self._part(change)
                self._wait_for_turn()
                size_bytes = self.repository.commit(head, _contents(part), title, part.delete)
                self._count(part, size_bytes)
                self.lacking -= len(part.large) + len(part.documents)
                return one_commit or part is change

            if self._patiently(step):
                return

    def _part(self, change: _Change) -> _Change:
        """As much as one commit may hold; documents and deletions only with the last of it."""
        if len(change.large) + len(change.documents) <= FILES_A_COMMIT:
            return change
        first = list(change.large.items())[:FILES_A_COMMIT]
        return _Change(dict(first))

    def _count(self, part: _Change, size_bytes: int) -> None:
        self._last_commit = time.monotonic()
        self.sent.files += len(part.large) + len(part.documents)
        self.sent.size_bytes += size_bytes
        self.sent.deleted += len(part.delete)
        self.sent.commits += 1

    def _head(self) -> Head:
        if not self._ensured:
            self.repository.ensure()
            self._ensured = True
        return self.repository.head()

    def _wait_for_turn(self) -> None:
        if self._last_commit is None:
            return
        if self._pause(self._last_commit + self._pace.interval_s - time.monotonic()):
            raise HubBusyError(
                f"not sent to {self.url} yet: got the end of the run before this commit's turn, "
                f"expected {self._pace.interval_s:g} s between two. The next one sends it."
            )

    def _pause(self, seconds: float) -> bool:
        """Wait; whether it was cut short."""
        return seconds > 0 and self._stop.wait(seconds)

    def _patiently(self, step: Callable[[], T]) -> T:
        """Do a step, again where it may pass."""
        for pause_s in self._pace.pauses_s:
            try:
                return step()
            except (HubBusyError, StaleWriteError) as error:
                asked = getattr(error, "after_s", None)
                wait_s = pause_s if asked is None else asked
                if wait_s > self._pace.longest_pause_s or self._pause(wait_s):
                    raise
        return step()

    def _refuse_other_cache(self, head: Head, header: CacheHeader | None = None) -> None:
        """Refuse a folder of the data set that holds a cache of something else."""
        path = self._path(HEADER_NAME)
        data = self.repository.read(head, path)
        if data is None:
            return
        here = header or read_header(self._folder)
        there = parse_document(CacheHeader, data, f"{self.repository.url}/{path}")
        facts = [("data set", here.dataset, there.dataset), ("split", here.split, there.split)]
        for side in SIDES:
            mine, theirs = here.side(side), there.side(side)
            # A side that was embedded again by force takes the place of what it was before.
            if mine.generation <= theirs.generation:
                facts.append((f"{side} fingerprint", mine.fingerprint, theirs.fingerprint))
        for what, mine_is, theirs_is in facts:
            if mine_is != theirs_is:
                raise ConfigError(
                    f"the data set {self.repository.repo_id} holds another cache in "
                    f"{self._prefix or 'its root'}: got {what} {mine_is!r}, expected "
                    f"{theirs_is!r} as there. Choose another --hf-prefix."
                )

    def _stored_shards(self, head: Head, header: CacheHeader) -> tuple[_Change, dict[Side, int]]:
        """Shards of the present encoders that the data set lacks, and their rows by side.

        Those that were merged into others are on their way out, and are not sent again.
        """
        found: dict[str, OutgoingFile] = {}
        stored_manifest = read_manifest(self._folder)
        sides = [stored_manifest[0].side(side) for side in SIDES] if stored_manifest else []
        gone = {name for one in sides for name in (*one.released, *one.discarded)}
        rows: dict[Side, int] = dict.fromkeys(SIDES, 0)
        for side in SIDES:
            stamp = ShardStamp.of(header, side)
            for file in self._folder.files(side):
                if not is_shard(file.name, side) or file.name in gone:
                    continue
                if self._path(file.name) in head.files:
                    continue
                if file.name not in self._stamps:
                    keys = read_keys(self._folder, file, side, hashed=False)
                    self._stamps[file.name] = keys.stamp, keys.rows
                stored, count = self._stamps[file.name]
                if stored == stamp:
                    content = content_of(self._folder, file.name)
                    found[file.name] = OutgoingFile(content, file.size_bytes)
                    rows[side] += count
        change = _Change(self._lacking(head, found))
        if change:
            card = self.repository.read(head, CARD_NAME)
            if not speaks_of(card, self._prefix):
                card = data_card(card, self._prefix, CardFacts.of_header(header))
                change.documents[CARD_NAME] = OutgoingFile(card, len(card))
        return change, rows

    def _lacking(self, head: Head, files: Mapping[str, OutgoingFile]) -> dict[str, OutgoingFile]:
        """By path in the data set: those that it does not hold."""
        return {
            path: file
            for name, file in files.items()
            if not file.is_held_by(head.files.get(path := self._path(name)))
        }

    def _spare(self, head: Head, outgoing: Outgoing) -> list[str]:
        """Paths of shards and image packs that are of folders sent now, and not among them."""
        names = set(outgoing.large)
        folders = {name.rpartition("/")[0] for name in names if _is_replaced(name)}
        start = f"{self._prefix}/" if self._prefix else ""
        held = (path[len(start) :] for path in head.files if path.startswith(start))
        return [
            self._path(name)
            for name in held
            if name not in names and name.rpartition("/")[0] in folders and _is_replaced(name)
        ]

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name


def _is_replaced(name: str) -> bool:
    """Whether a file of that name is a shard or a pack of images, which its content names."""
    file = name.rpartition("/")[2]
    return file.startswith(("shard-", "images-")) and file.endswith(".parquet")


def _contents(part: _Change) -> dict[str, Content]:
    """The large files first: a reader who sees the documents finds what they name."""
    files: Iterable[tuple[str, OutgoingFile]] = (*part.large.items(), *part.documents.items())
    return {path: file.content for path, file in files}
