"""Add, remove, change, break, kill, resume, force in any order: the wanted rows come out."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from cache_world import new_world
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from e2i.cache.plan import CachePlan
from e2i.cache.reader import open_cache
from e2i.errors import CacheIncompleteError, CacheNotFoundError, FingerprintMismatchError

_SIZES = st.integers(1, 4)
_INDEX = st.integers(0, 1_000)


class CacheMachine(RuleBasedStateMachine):
    """A data set that changes while runs come, die and go on."""

    def __init__(self) -> None:
        super().__init__()
        self.world = new_world(2)
        self.plan: CachePlan | None = None
        self.number = 0

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
        rows = open_cache(self.world.folder).load() if self.usable() else None
        if rows is not None:
            self.check(rows)
        self.world.forget()
        assert not self.world.build(size).manifest_written
        assert self.world.counted() == ([], [])

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


CacheMachine.TestCase.settings = settings(deadline=None, max_examples=25, stateful_step_count=15)
TestCacheInAnyOrder = CacheMachine.TestCase
