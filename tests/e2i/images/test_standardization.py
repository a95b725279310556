"""Standardized pseudo-images: statistics, folding, the way back, and what lies in the folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.errors import ImageError
from e2i.images.config import ImagesConfig
from e2i.images.fold import decode_images, encode_images, encode_tensor
from e2i.images.load import load_embeddings, load_images
from e2i.images.png import ImageLabel, decode_png, encode_png
from e2i.images.render import RenderCounts, render_images
from e2i.images.standardization import (
    Standardization,
    read_standardization,
    standardization_name,
)
from e2i.storage import Folder

IDS = [f"clip {number}.wav" for number in range(12)]
ROWS = np.random.default_rng(3).standard_normal((12, 50)).astype(np.float32)
ROWS[:, 7] *= 1000  # one dimension that would take all gray levels
BY = Standardization.of(ROWS[:9])
STANDARD = ImagesConfig(image_size="native", standardize=True)
LABEL = ImageLabel("audio", IDS[0], "f" * 16, "0" * 16)


def render(folder, config=STANDARD, by=BY):
    return render_images(
        folder, "audio", IDS, ROWS, config, fingerprint="f" * 16, standardization=by
    )


def test_statistics_are_numpys():
    np.testing.assert_allclose(BY.mean, ROWS[:9].mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(BY.deviation, ROWS[:9].std(axis=0, dtype=np.float64), rtol=1e-6)
    assert BY.mean.dtype == BY.deviation.dtype == np.float32


def test_statistics_of_many_rows_are_those_of_one_block(monkeypatch):
    rows = np.random.default_rng(0).standard_normal((5000, 300)).astype(np.float32) + 3
    mean = np.add.reduce(rows.astype(np.float64), axis=0) / len(rows)
    deviation = np.sqrt(np.add.reduce((rows.astype(np.float64) - mean) ** 2, axis=0) / len(rows))
    found = Standardization.of(rows)
    np.testing.assert_array_equal(found.mean, mean.astype(np.float32))
    np.testing.assert_array_equal(found.deviation, deviation.astype(np.float32))


def test_what_never_varies_keeps_deviation_1():
    rows = np.ones((5, 3), dtype=np.float32) * np.array([0.1, 0.0, 1e30], dtype=np.float32)
    np.testing.assert_array_equal(Standardization.of(rows).deviation, [1, 1, 1])


def test_images_are_those_of_standardized_embeddings():
    plain = ImagesConfig(image_size="native")
    pixels = encode_images(ROWS, STANDARD, standardization=BY).pixels
    np.testing.assert_array_equal(pixels, encode_images(BY.apply(ROWS), plain).pixels)
    on_device = (torch.from_numpy(BY.mean), torch.from_numpy(BY.deviation))
    tensor = encode_tensor(torch.from_numpy(ROWS), STANDARD, on_device)
    np.testing.assert_array_equal(pixels, tensor.numpy())
    # The outlier had left its channel two levels: its own, and that of all others.
    assert len(np.unique(encode_images(ROWS[:1], plain).pixels[0, 0])) < 10
    assert len(np.unique(pixels[0, 0])) > 12


@settings(max_examples=60, deadline=None)
@given(
    dim=st.integers(1, 200),
    count=st.integers(1, 4),
    channel_mode=st.sampled_from(["split", "replicate"]),
    seed=st.integers(0, 2**31),
)
def test_decode_gives_the_embedding_back(dim, count, channel_mode, seed):
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count + 5, dim)) * random.uniform(1e-3, 1e3, dim) + 5
    rows = rows.astype(np.float32)
    by = Standardization.of(rows[:5])
    config = STANDARD.model_copy(update={"image_channel_mode": channel_mode})
    images = encode_images(rows, config, standardization=by)
    read = decode_png(encode_png(images, 0, LABEL), "a.png").images
    assert read.standardized_by == by.digest
    step = (images.maxima - images.minima)[0].max() / 255
    error = np.abs(decode_images(read, by)[0] - rows[0])
    bound = step / 2 * by.deviation * (1 + 1e-4) + 1e-5 * (np.abs(rows[0]) + by.deviation)
    assert (error <= bound).all()


def test_decoding_takes_the_statistics_that_the_image_names():
    images = encode_images(ROWS, STANDARD, standardization=BY)
    other = Standardization.of(ROWS)
    for given_by, got in ((None, "none"), (other, repr(other.digest))):
        with pytest.raises(ImageError) as caught:
            decode_images(images, given_by)
        assert str(caught.value) == (
            f"a standardized pseudo-image is decoded by its own statistics: got {got}, expected "
            f"{BY.digest!r}. Read them with read_standardization, from the folder of the image."
        )


def test_without_statistics_or_with_those_of_other_embeddings_nothing_is_folded():
    with pytest.raises(ImageError, match="no statistics to standardize by: got none, expected"):
        encode_images(ROWS, STANDARD)
    with pytest.raises(ImageError, match="no statistics to standardize by: got none, expected"):
        encode_tensor(torch.from_numpy(ROWS), STANDARD)
    with pytest.raises(ImageError, match="of other embeddings: got 50 dimensions, expected 20"):
        encode_images(ROWS[:, :20], STANDARD, standardization=BY)


def test_plain_images_say_nothing_of_statistics():
    plain = encode_images(ROWS, ImagesConfig(image_size="native"), standardization=BY)
    assert plain.standardized_by == ""
    assert b"standardization" not in encode_png(plain, 0, LABEL)
    np.testing.assert_array_equal(decode_images(plain, BY), decode_images(plain))


def test_statistics_lie_beside_the_images(tmp_path):
    folder = Folder(tmp_path)
    assert render(folder) == RenderCounts(rendered=12, reused=0, replaced=0, deleted=0)
    below = folder.folder("pseudo_images/audio")
    assert below.info(standardization_name(BY.digest)) is not None
    found = read_standardization(below, BY.digest)
    np.testing.assert_array_equal(found.mean, BY.mean)
    np.testing.assert_array_equal(found.deviation, BY.deviation)
    assert render(folder) == RenderCounts(rendered=0, reused=12, replaced=0, deleted=0)
    decoded = load_embeddings(folder, "audio", IDS, STANDARD)
    assert (np.abs(decoded - ROWS) / BY.deviation).max() < 6 / 255
    loaded = load_images(folder, "audio", IDS, STANDARD, fingerprint="f" * 16, standardization=BY)
    np.testing.assert_array_equal(loaded, encode_images(ROWS, STANDARD, standardization=BY).pixels)


def test_other_statistics_render_anew_and_take_the_place_of_the_former(tmp_path):
    folder = Folder(tmp_path)
    render(folder)
    other = Standardization.of(ROWS)
    assert render(folder, by=other) == RenderCounts(rendered=12, reused=0, replaced=12, deleted=0)
    below = folder.folder("pseudo_images/audio")
    names = {file.name for file in below.files() if file.name.startswith("standardization")}
    assert names == {standardization_name(other.digest)}
    plain = ImagesConfig(image_size="native")
    assert render(folder, plain, None).replaced == 12
    assert not [file for file in below.files() if file.name.startswith("standardization")]
    np.testing.assert_array_equal(
        load_embeddings(folder, "audio", IDS, plain), decode_images(encode_images(ROWS, plain))
    )


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"mean": [1], "deviation": [1]}'])
def test_damaged_statistics_are_told_and_written_again(tmp_path, damage):
    folder = Folder(tmp_path)
    render(folder)
    below = folder.folder("pseudo_images/audio")
    below.write(standardization_name(BY.digest), damage)
    with pytest.raises(ImageError, match="statistics of standardized pseudo-images are damaged"):
        load_embeddings(folder, "audio", IDS, STANDARD)
    below.delete(standardization_name(BY.digest))
    with pytest.raises(ImageError, match=r"are missing: got no file standardization-[0-9a-f]{16}"):
        load_embeddings(folder, "audio", IDS, STANDARD)
    assert render(folder).reused == 12
    assert load_embeddings(folder, "audio", IDS, STANDARD).shape == ROWS.shape


def test_nothing_to_decode_is_told():
    with pytest.raises(ImageError) as caught:
        load_embeddings(Folder("memory://nothing-to-decode"), "audio", [], STANDARD)
    assert str(caught.value) == (
        "there is nothing to decode: got no ids, expected at least one. Give the ids of clips or "
        "captions of the cache."
    )
