"""What the arms see: the embedding, what 8 bits leave of it, and cells in another order."""

from __future__ import annotations

import numpy as np
import pytest

from e2i.images.config import ImagesConfig
from e2i.images.fold import encode_images
from e2i.sweep.arms import images_for, permuted_cells, seen_by
from e2i.sweep.config import ALL_ARMS
from e2i.sweep.data import SweepData

NATIVE = ImagesConfig(image_size="native")


def test_only_two_arms_see_something_else_and_their_caches_say_so(data: SweepData) -> None:
    cache = data.evaluation
    fingerprints = {arm: seen_by(arm, cache, 13, None).audio_fingerprint for arm in ALL_ARMS}
    other = {arm for arm, found in fingerprints.items() if found != cache.audio_fingerprint}
    assert other == {"mlp-decoded", "cnn-permuted"}
    assert len(set(fingerprints.values())) == 3
    assert (
        seen_by("cnn-permuted", cache, 14, None).audio_fingerprint != fingerprints["cnn-permuted"]
    )


def test_the_decoded_embedding_is_near_and_not_the_same(data: SweepData) -> None:
    cache = data.evaluation
    decoded = seen_by("mlp-decoded", cache, 13, None).audio
    encoded = encode_images(cache.audio, NATIVE)
    steps = (encoded.maxima - encoded.minima).max(axis=1, keepdims=True) / 255
    assert not np.array_equal(decoded, cache.audio)
    assert (np.abs(decoded - cache.audio) <= 0.5 * steps * (1 + 1e-4)).all()
    by = data.standardization
    finer = seen_by("mlp-decoded", cache, 13, by).audio
    standardized = encode_images(by.apply(cache.audio), NATIVE)
    steps = (standardized.maxima - standardized.minima).max(axis=1, keepdims=True) / 255
    assert (np.abs(finer - cache.audio) <= 0.5 * steps * by.deviation * (1 + 1e-4)).all()
    assert not np.array_equal(finer, decoded)


def test_cells_move_as_wholes_and_alike_in_all_clips(data: SweepData) -> None:
    pixels = encode_images(data.evaluation.audio, NATIVE).pixels
    moved = permuted_cells(pixels, 13)
    assert moved.shape == pixels.shape
    assert not np.array_equal(moved, pixels)
    side = pixels.shape[-1]
    marks = np.arange(side * side, dtype=np.uint8).reshape(1, 1, side, side).repeat(3, axis=1)
    order = permuted_cells(marks, 13)[0]
    assert (order == order[0]).all()
    assert sorted(order[0].ravel()) == list(range(side * side))
    flat, found = (images.reshape(len(pixels), 3, -1) for images in (pixels, moved))
    assert np.array_equal(found, flat[:, :, order[0].ravel()])
    assert not np.array_equal(permuted_cells(pixels, 14), moved)


def test_permuted_images_come_as_if_they_were_stored(data: SweepData) -> None:
    load = images_for("cnn-permuted", 13)
    assert load is not None
    pixels = encode_images(data.evaluation.audio, NATIVE).pixels
    assert np.array_equal(load(data.evaluation, NATIVE, None), permuted_cells(pixels, 13))
    assert [images_for(arm, 13) for arm in ALL_ARMS if arm != "cnn-permuted"] == [None] * 6


@pytest.mark.parametrize("seed", [0, 13])
def test_the_order_of_cells_is_the_same_every_time(seed: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 5, 5), dtype=np.uint8)
    assert np.array_equal(permuted_cells(pixels, seed), permuted_cells(pixels, seed))
