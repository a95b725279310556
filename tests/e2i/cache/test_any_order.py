"""Add, remove, change, break, kill, resume, force, compact, prune, repair in any order.

Exactly the wanted rows come out, and whatever opens in between is whole.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
from cache_world import killed_after, new_world
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from e2i.cache.compact import compact_cache
from e2i.cache.layout import SIDES
from e2i.cache.plan import CachePlan
from e2i.cache.prune import prune_cache
from e2i.cache.reader import Cache, open_cache
from e2i.cache.repair import set_broken_aside
from e2i.cache.verify import verify_cache
from e2i.errors import (
    CacheCorruptError,
    CacheError,
    CacheIncompleteError,
    CacheNotFoundError,
    FingerprintMismatchError,
)
from e2i.storage import Folder

_SIZES = st.integers(1, 4)
_INDEX = st.integers(0, 1_000)
_CHANGES = st.integers(0, 12)


class CacheMachine(RuleBasedStateMachine):
    """A data set that changes while runs come, die and go on."""

    def __init__(self) -> None:
        super().__init__()
        self.world = new_world(2, self.new_folder())
        self.plan: CachePlan | None = None
        self.number = 0

    def new_folder(self) -> Folder | None:
        """Where the cache lies; None: in memory."""
        return None

    def teardown(self) -> None:
        for folder in (self.world.folder, self.world.audio_root):
            for file in folder.files():
                folder.delete(file.name)

    def pick(self, index: int) -> str:
        return sorted(self.world.texts)[index % len(self.world.texts)]

    @rule(captions=st.integers(1, 3), broken=st.integers(0, 5))
    def add(self, captions: int, broken: int) -> None:
        self.number += 1
        content = f"{'broken' if broken == 0 else 'sound'} {self.number}"
        self.world.put(f"new {self.number}", content.encode(), captions)

    @precondition(lambda self: len(self.world.texts) > 1)
    @rule(index=_INDEX)
    def remove(self, index: int) -> None:
        self.world.drop(self.pick(index))

    @rule(index=_INDEX, broken=st.integers(0, 5))
    def change_recording(self, index: int, broken: int) -> None:
        self.number += 1
        content = f"{'broken' if broken == 0 else 'other'} {self.number}"
        self.world.record(self.pick(index), content.encode())

    @rule(index=_INDEX)
    def change_caption(self, index: int) -> None:
        self.number += 1
        self.world.texts[self.pick(index)][0] = f"words {self.number}"

    @rule(index=_INDEX)
    def swap_recordings(self, index: int) -> None:
        one, other = self.pick(index), self.pick(index + 1)
        contents = self.world.contents[one], self.world.contents[other]
        self.world.record(other, contents[0])
        self.world.record(one, contents[1])

    @rule(size=_SIZES, chunks=st.integers(0, 6))
    def run_and_die(self, size: int, chunks: int) -> None:
        self.plan = self.world.plan(size)
        self.world.embed(self.plan, chunks)

    @precondition(lambda self: self.plan is not None)
    @rule(chunks=st.integers(1, 6))
    def go_on_with_an_old_plan(self, chunks: int) -> None:
        try:
            self.world.embed(self.plan, chunks)
        except FingerprintMismatchError:
            self.plan = None

    @rule(size=_SIZES)
    def force_and_die(self, size: int) -> None:
        self.world.embed(self.world.plan(size, force=True), 1)
        self.world.forget()

    @rule(size=_SIZES)
    def other_text_encoder(self, size: int) -> None:
        self.world.text.salt += 1
        self.plan = self.world.plan(size, force=True)

    @rule(size=_SIZES)
    def run(self, size: int) -> None:
        self.world.build(size)
        assert {fault.kind for fault in verify_cache(self.world.folder).faults} <= {"unnamed"}
        rows = open_cache(self.world.folder).load() if self.usable() else None
        if rows is not None:
            self.check(rows)
        self.world.forget()
        assert not self.world.build(size).manifest_written
        assert self.world.counted() == ([], [])

    @rule(size=_SIZES, changes=_CHANGES)
    def killed_run(self, size: int, changes: int) -> None:
        with killed_after(changes):
            self.world.build(size)
        self.world.forget()

    @rule(changes=_CHANGES)
    def compact(self, changes: int) -> None:
        """A reader that opened the cache before goes on."""
        before = self.opened()
        with killed_after(changes):
            self.on_a_whole_cache(compact_cache)
        if before is not None and before.manifest.audio.stored:
            self.same_rows(before)

    @rule(changes=_CHANGES)
    def prune(self, changes: int) -> None:
        before = self.opened()
        with killed_after(changes):
            self.on_a_whole_cache(prune_cache)
        after = self.opened()
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert before.manifest.audio.wanted == after.manifest.audio.wanted

    @rule()
    def prune_to_the_end(self) -> None:
        self.on_a_whole_cache(prune_cache)
        cache = self.opened()
        if cache is None:
            return
        assert verify_cache(self.world.folder).released == 0
        for side in SIDES:
            entries = cache.manifest.side(side).shards
            assert all(not entry.excluded for entry in entries)

    @rule(index=_INDEX, at=st.integers(0, 10_000), size=_SIZES)
    def damage_and_repair(self, index: int, at: int, size: int) -> None:
        """A flipped byte of a shard that the manifest names."""
        cache = self.opened()
        names = (
            [e.name for side in SIDES for e in cache.manifest.side(side).shards] if cache else ()
        )
        if not names:
            return
        name = names[index % len(names)]
        data = bytearray(self.world.folder.read(name))
        data[at % len(data)] ^= 1
        self.world.folder.write(name, bytes(data))
        assert name in {fault.name for fault in verify_cache(self.world.folder).faults}
        with killed_after(at % 3):
            set_broken_aside(self.world.folder)
        if set_broken_aside(self.world.folder).to_embed or self.opened() is None:
            self.run(size)

    def opened(self) -> Cache | None:
        try:
            return open_cache(self.world.folder)
        except (CacheIncompleteError, CacheNotFoundError):
            return None

    def on_a_whole_cache(self, step: Callable[[Folder], object]) -> None:
        try:
            step(self.world.folder)
        except CacheNotFoundError:
            assert self.world.folder.info("cache.json") is None
        except CacheIncompleteError:
            assert self.opened() is None

    def same_rows(self, before: Cache) -> None:
        rows, now = self.loaded(before), self.opened()
        assert now is not None
        others = self.loaded(now)
        if rows is None or others is None:
            assert rows is others
            return
        assert rows.clip_ids == others.clip_ids
        assert np.array_equal(rows.audio, others.audio)
        assert np.array_equal(rows.text, others.text)

    def loaded(self, cache: Cache):
        try:
            return cache.load()
        except CacheCorruptError:
            raise
        except CacheError:  # of a clip that failed, nothing is left to load
            return None

    def usable(self) -> list[str]:
        contents = self.world.contents
        return [c for c in self.world.texts if not contents[c].startswith(b"broken")]

    def check(self, rows) -> None:
        world, clip_ids = self.world, self.usable()
        texts = [text for clip_id in clip_ids for text in world.texts[clip_id]]
        assert list(rows.clip_ids) == clip_ids
        assert list(rows.captions) == texts
        for row, clip_id in zip(rows.audio, clip_ids, strict=True):
            assert np.array_equal(row, world.audio.one(world.contents[clip_id]))
        for row, text in zip(rows.text, texts, strict=True):
            assert np.array_equal(row, world.text.one(text))

    @invariant()
    def whatever_opens_is_whole(self) -> None:
        try:
            cache = open_cache(self.world.folder)
        except (CacheIncompleteError, CacheNotFoundError):
            return
        if cache.manifest.audio.stored:
            rows = cache.load()
            failed = set(cache.manifest.audio.failed)
            assert rows.clip_ids == tuple(
                clip_id for clip_id in cache.manifest.audio.wanted if clip_id not in failed
            )


class DiskMachine(CacheMachine):
    """The same on the local disk."""

    def new_folder(self) -> Folder:
        self.path = tempfile.mkdtemp(prefix="e2i-any-order-")
        return Folder(self.path)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.path)


CacheMachine.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=15)
TestCacheInAnyOrder = CacheMachine.TestCase
DiskMachine.TestCase.settings = settings(deadline=None, max_examples=10, stateful_step_count=15)
TestCacheOnDiskInAnyOrder = DiskMachine.TestCase
