"""Batches: each pair once an epoch, no clip twice in a batch."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.heads.build import seeded_generator
from e2i.training.batches import DistinctClipBatches, RandomPairBatches

CAPTION_COUNTS = st.one_of(
    st.lists(st.integers(1, 7), min_size=1, max_size=40),
    st.builds(lambda clips, captions: [captions] * clips, st.integers(1, 60), st.integers(1, 6)),
    st.builds(lambda few, many: [*few, many], st.lists(st.integers(1, 3)), st.integers(10, 40)),
)


def pair_clips(counts: list[int], seed: int = 0) -> torch.Tensor:
    """The clip of each pair, pairs in random order."""
    clips = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return clips[torch.randperm(len(clips), generator=seeded_generator(seed, "pairs"))]


@settings(deadline=None, max_examples=300)
@given(CAPTION_COUNTS, st.integers(2, 64), st.integers(0, 2**32))
def test_each_pair_once_and_no_clip_twice_in_a_batch(counts, batch_size, seed):
    pair_clip = pair_clips(counts, seed)
    plan = DistinctClipBatches(pair_clip, batch_size).epoch(seeded_generator(seed, "batches"))
    assert torch.equal(plan.order.sort().values, torch.arange(len(pair_clip)))
    assert sum(plan.sizes) == len(pair_clip)
    for batch in plan:
        assert 1 <= len(batch) <= batch_size
        assert len(pair_clip[batch].unique()) == len(batch)


@settings(deadline=None, max_examples=200)
@given(CAPTION_COUNTS, st.integers(2, 64), st.integers(0, 2**32))
def test_full_batches_hold_no_clip_twice_either(counts, batch_size, seed):
    pair_clip = pair_clips(counts, seed)
    size = DistinctClipBatches(pair_clip, batch_size, only_full=True).fits
    plan = DistinctClipBatches(pair_clip, size, only_full=True).epoch(
        seeded_generator(seed, "batches")
    )
    assert plan.sizes == (size,) * (len(pair_clip) // size)
    assert len(plan.order.unique()) == len(plan.order) == sum(plan.sizes)
    for batch in plan:
        assert len(pair_clip[batch].unique()) == len(batch)


@settings(deadline=None, max_examples=200)
@given(CAPTION_COUNTS, st.integers(2, 64), st.integers(0, 2**32))
def test_as_few_batches_as_can_be_and_all_alike(counts, batch_size, seed):
    pair_clip = pair_clips(counts, seed)
    batches = DistinctClipBatches(pair_clip, batch_size)
    sizes = batches.epoch(seeded_generator(seed, "batches")).sizes
    # A clip with n captions needs n batches, and N pairs need N / B of them.
    assert len(sizes) == max(*counts, -(-len(pair_clip) // batch_size), 1)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batches.fits <= batch_size


def test_clotho_in_batches_of_256():
    # 3,839 clips of five captions: 19,195 pairs in 75 batches of 255 or 256.
    batches = DistinctClipBatches(pair_clips([5] * 3839), 256)
    sizes = batches.epoch(seeded_generator(0, "batches")).sizes
    assert len(sizes) == 75
    assert set(sizes) == {255, 256}


def test_fewer_clips_than_a_batch_holds_cut_it():
    assert DistinctClipBatches(pair_clips([5] * 24), 256).fits == 24
    assert DistinctClipBatches(pair_clips([5] * 320), 256).fits == 256
    assert RandomPairBatches(pair_clips([5] * 24), 256).fits == 120


def test_batch_mates_change_within_and_between_epochs():
    pair_clip = pair_clips([5] * 200)
    batches = DistinctClipBatches(pair_clip, 100)
    generator = seeded_generator(0, "batches")
    epochs = [batches.epoch(generator) for _ in range(2)]
    mates = [{frozenset(pair_clip[batch].tolist()) for batch in plan} for plan in epochs]
    assert len(mates[0]) == len(mates[1]) == 10
    assert not mates[0] & mates[1]
    # Any two clips meet in about half the batches of a clip: 2.5 of 5, with some spread.
    together = torch.zeros((200, 200))
    for batch in epochs[0]:
        clips = pair_clip[batch]
        together[clips[:, None], clips] += 1
    of_others = together[~torch.eye(200, dtype=torch.bool)]
    assert 2.3 < float(of_others.mean()) < 2.7
    assert float((of_others == 5).float().mean()) < 0.06  # 1/32 were they independent


def test_captions_of_a_clip_stand_in_random_order():
    pair_clip = torch.arange(100).repeat_interleave(2)
    batches = DistinctClipBatches(pair_clip, 10)
    order = batches.epoch(seeded_generator(0, "batches")).order
    place = torch.empty(200, dtype=torch.int64)
    place[order] = torch.arange(200)
    second_first = (place[1::2] < place[::2]).float().mean()
    assert 0.3 < float(second_first) < 0.7


def test_seed_decides():
    batches = DistinctClipBatches(pair_clips([3] * 50), 16)
    first, again, other = (batches.epoch(seeded_generator(s, "batches")).order for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@settings(deadline=None, max_examples=100)
@given(CAPTION_COUNTS, st.integers(2, 64), st.integers(0, 2**32))
def test_random_pairs_pass_each_pair_once(counts, batch_size, seed):
    pair_clip = pair_clips(counts)
    plan = RandomPairBatches(pair_clip, batch_size).epoch(seeded_generator(seed, "batches"))
    assert torch.equal(plan.order.sort().values, torch.arange(len(pair_clip)))
    assert len(plan.sizes) == -(-len(pair_clip) // batch_size)
    assert max(plan.sizes) <= batch_size


def test_random_pairs_repeat_clips():
    pair_clip = pair_clips([5] * 20)
    plan = RandomPairBatches(pair_clip, 50).epoch(seeded_generator(0, "batches"))
    assert all(len(pair_clip[batch].unique()) < len(batch) for batch in plan)


def test_clips_with_fewer_captions_meet_others_each_epoch():
    # Two rounds: one clip is in both, the other twenty in either.
    pair_clip = pair_clips([2] + [1] * 20)
    batches = DistinctClipBatches(pair_clip, 64)
    generator = seeded_generator(0, "batches")
    halves = [
        frozenset(frozenset(pair_clip[batch].tolist()) for batch in batches.epoch(generator))
        for _ in range(3)
    ]
    assert len(set(halves)) == 3
