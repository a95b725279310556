from __future__ import annotations

import pickle

from cache_world import World, new_world
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.cache.plan import CachePlan, shuffled


def planned(plan: CachePlan) -> tuple[list[str], list[str]]:
    return (
        [clip.clip_id for chunk in plan.audio_chunks for clip in chunk.clips],
        [caption.caption_id for chunk in plan.text_chunks for caption in chunk.captions],
    )


@given(
    captions=st.lists(st.integers(1, 4), max_size=12),
    size=st.integers(1, 15),
    stored=st.integers(0, 6),
    seed=st.text(max_size=3),
)
@settings(deadline=None, max_examples=40)
def test_what_is_not_stored_is_planned_once(
    captions: list[int], size: int, stored: int, seed: str
) -> None:
    world = new_world()
    for number, count in enumerate(captions):
        world.put(f"{number}", captions=count)
    first = world.plan(size)
    results = world.embed(first, stored)
    plan = world.plan(size)
    clips, texts = planned(plan)
    done = planned(
        CachePlan(first.audio_chunks[:stored],
                  first.text_chunks[: max(0, stored - len(first.audio_chunks))], 0, 0, 0, 0, 0, {})
    )  # fmt: skip
    assert sorted(clips + done[0]) == sorted(world.texts)
    assert sorted(texts + done[1]) == sorted(c.caption_id for c in world.clips.captions)
    assert plan.clips_stored + plan.captions_stored == sum(result.embedded for result in results)
    for chunks in (plan.audio_chunks, plan.text_chunks):
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
        assert all(chunk.total == len(chunks) for chunk in chunks)
    assert all(len(chunk.clips) == size for chunk in plan.audio_chunks[:-1])
    assert all(len({c.clip_id for c in t.captions}) == size for t in plan.text_chunks[:-1])
    mixed = shuffled(plan, seed)
    assert shuffled(plan, seed) == mixed
    assert set(mixed.audio_chunks) == set(plan.audio_chunks)
    assert set(mixed.text_chunks) == set(plan.text_chunks)


def test_from_the_same_state_comes_the_same_plan(world: World) -> None:
    assert world.plan() == world.plan()
    world.embed(world.plan(), 2)
    assert world.plan() == world.plan()


def test_runs_side_by_side_take_other_orders() -> None:
    plan = new_world(30).plan(1)
    firsts = {shuffled(plan, f"run {n}").audio_chunks[0].index for n in range(20)}
    assert len(firsts) > 8


def test_what_failed_before_comes_last_and_shifts_no_border(world: World) -> None:
    world.record("clip 001 #odd%20&.wav", b"broken")
    first = world.plan(3)
    world.embed(first, 1)
    plan = world.plan(3)
    clips = [[clip.clip_id[:8] for clip in chunk.clips] for chunk in plan.audio_chunks]
    assert clips == [
        ["clip 003", "clip 004", "clip 005"],
        ["clip 006", "clip 007", "clip 008"],
        ["clip 009", "clip 001"],
    ]
    assert plan.retried == 1


def test_a_chunk_travels(world: World) -> None:
    plan = world.plan()
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert len(pickle.dumps(plan.audio_chunks[0])) < 2_000


def test_chunk_keys_are_distinct(world: World) -> None:
    plan = world.plan(1)
    chunks = [*plan.audio_chunks, *plan.text_chunks]
    assert len({chunk.key for chunk in chunks}) == len(chunks) == 20


def test_the_default_size_is_the_encoders(world: World) -> None:
    plan = world.plan(chunk_size=None)
    assert len(plan.audio_chunks) == len(plan.text_chunks) == 1
