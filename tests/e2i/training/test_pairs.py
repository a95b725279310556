"""Joined caches: every caption stays with its clip."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.training.pairs import clip_keys, join


def rows_of(pairs):
    """What each pair is made of, by clip."""
    return [
        (pairs.keys[clip], pairs.audio[clip].tobytes(), text.tobytes())
        for clip, text in zip(pairs.pair_clip, pairs.text, strict=True)
    ]


def test_join_keeps_each_caption_with_its_clip(make_cache):
    caches = [make_cache(3, [2, 1, 3]), make_cache(2, [1, 4], split="b"), make_cache(4, split="cc")]
    expected = [
        (clip_keys(cache)[clip], cache.audio[clip].tobytes(), text.tobytes())
        for cache in caches
        for clip, text in zip(cache.caption_clip, cache.text, strict=True)
    ]
    assert rows_of(join(caches)) == expected


@settings(deadline=None, max_examples=50)
@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=12), chosen=st.data())
def test_of_clips_takes_these_clips_with_all_their_captions(make_cache, counts, chosen):
    pairs = join([make_cache(len(counts), counts)])
    clips = sorted(chosen.draw(st.sets(st.integers(0, len(counts) - 1))))
    part = pairs.of_clips(np.array(clips, dtype=np.int64))
    wanted = {pairs.keys[clip] for clip in clips}
    assert part.keys == tuple(pairs.keys[clip] for clip in clips)
    assert rows_of(part) == [row for row in rows_of(pairs) if row[0] in wanted]
