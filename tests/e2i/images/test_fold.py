from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from e2i.errors import ImageError
from e2i.images.config import ImagesConfig
from e2i.images.fold import (
    EncodedImages,
    decode_images,
    encode_images,
    encode_tensor,
    image_side,
    native_side,
)

CHANNEL_MODES = ("split", "replicate")
IMAGE_MODES = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
FLOAT32_MAX = float(np.finfo(np.float32).max)

dims = st.integers(1, 4096)
seeds = st.integers(0, 2**32 - 1)
# From denormals to the largest: ranges that overflow or vanish in float32.
scales = st.sampled_from([1e-45, 1e-40, 1e-30, 1e-3, 1.0, 1e4, 1e30, FLOAT32_MAX])


def native(channel_mode="split", **options):
    return ImagesConfig(image_size="native", image_channel_mode=channel_mode, **options)


def random_embeddings(count, dim, seed=0, scale=1.0):
    values = np.random.default_rng(seed).uniform(-1, 1, (count, dim)) * scale
    return values.astype(np.float32)


def assert_within_half_a_step(decoded, embeddings, images):
    side = native_side(images.dim, images.image_channel_mode)
    channel = np.arange(images.dim) // side**2 if images.image_channel_mode == "split" else 0
    low = images.minima.astype(np.float64)[:, channel].reshape(len(embeddings), -1)
    high = images.maxima.astype(np.float64)[:, channel].reshape(len(embeddings), -1)
    # Half a step, and one rounding to float32 of a value no larger than the ends.
    rounding = np.maximum(np.abs(low), np.abs(high)) * 2.0**-24 + 2.0**-150
    allowed = (high - low) / 510 * (1 + 1e-12) + rounding
    assert (np.abs(decoded.astype(np.float64) - embeddings) <= allowed).all()


@pytest.mark.parametrize(
    ("dim", "channel_mode", "side"),
    [
        (1, "split", 1),
        (3, "split", 1),
        (4, "split", 2),
        (12, "split", 2),
        (13, "split", 3),
        (768, "split", 16),
        (769, "split", 17),
        (1, "replicate", 1),
        (2, "replicate", 2),
        (4, "replicate", 2),
        (5, "replicate", 3),
        (768, "replicate", 28),
    ],
)
def test_the_native_side_is_the_smallest_that_holds_the_embedding(dim, channel_mode, side):
    assert native_side(dim, channel_mode) == side
    assert image_side(dim, native(channel_mode)) == side
    assert image_side(dim, ImagesConfig(image_channel_mode=channel_mode)) == 128


def test_split_by_hand():
    # D = 10: side 2, four cells a channel, two of them padding in blue. By hand: red spans 0..3, so
    # steps of 85; green is constant; blue spans -1..1.
    embedding = np.array([[0, 1, 2, 3, 7, 7, 7, 7, 1, -1]], dtype=np.float32)

    images = encode_images(embedding, native())

    assert images.pixels.tolist() == [
        [[[0, 85], [170, 255]], [[128, 128], [128, 128]], [[255, 0], [0, 0]]]
    ]
    assert images.minima.tolist() == [[0, 7, -1]]
    assert images.maxima.tolist() == [[3, 7, 1]]
    assert decode_images(images).tolist() == embedding.tolist()


def test_replicate_by_hand():
    # D = 3: side 2, one cell of padding. By hand: (x + 2) / 4 * 255 is 0, 127.5 (even: 128), 255.
    embedding = np.array([[-2, 0, 2]], dtype=np.float32)

    images = encode_images(embedding, native("replicate"))

    assert images.pixels.tolist() == [[[[0, 128], [255, 0]]] * 3]
    assert images.minima.tolist() == [[-2, -2, -2]]
    assert images.maxima.tolist() == [[2, 2, 2]]


def test_halves_are_rounded_to_even():
    # 0.5, 1.5 and 2.5 of 255 steps.
    embedding = np.array([[0, 0.5, 1.5, 2.5, 255]], dtype=np.float32)

    pixels = encode_images(embedding, native("replicate")).pixels

    assert pixels[0, 0].ravel()[:5].tolist() == [0, 0, 2, 2, 255]


def test_a_channel_of_padding_alone_is_black():
    images = encode_images(np.array([[-3.0]], dtype=np.float32), native())

    assert images.pixels.ravel().tolist() == [128, 0, 0]
    assert images.minima.tolist() == images.maxima.tolist() == [[-3, 0, 0]]
    assert decode_images(images).tolist() == [[-3]]


def test_clamping_comes_before_scaling():
    # Clamped to -1, 0, 1, 1: by hand 0, 127.5 (even: 128), 255, 255.
    embedding = np.array([[-50, 0, 1, 9]], dtype=np.float32)

    images = encode_images(embedding, native("replicate", clip_values=True))

    assert images.pixels[0, 0].ravel().tolist() == [0, 128, 255, 255]
    assert (images.minima[0, 0], images.maxima[0, 0]) == (-1, 1)


def test_nearest_enlarges_cells_by_hand():
    embedding = np.array([[0, 85, 170, 255]], dtype=np.float32)
    config = ImagesConfig(image_size=4, image_channel_mode="replicate")

    pixels = encode_images(embedding, config).pixels

    assert pixels[0, 2].tolist() == [
        [0, 0, 85, 85],
        [0, 0, 85, 85],
        [170, 170, 255, 255],
        [170, 170, 255, 255],
    ]


@settings(deadline=None, max_examples=60)
@given(dim=dims, channel_mode=st.sampled_from(CHANNEL_MODES), seed=seeds)
def test_padding_is_black_and_each_channel_spans_all_levels(dim, channel_mode, seed):
    pixels = encode_images(random_embeddings(2, dim, seed), native(channel_mode)).pixels

    planes = pixels if channel_mode == "split" else pixels[:, :1]
    cells = planes.reshape(2, -1)
    assert not cells[:, dim:].any()
    if channel_mode == "replicate":
        assert (pixels == pixels[:, :1]).all()
    channel = cells[:, : min(dim, pixels.shape[-1] ** 2)]
    if channel.shape[1] > 1:
        assert (channel.min(axis=1) == 0).all()
        assert (channel.max(axis=1) == 255).all()


@settings(deadline=None, max_examples=150)
@given(
    dim=dims,
    channel_mode=st.sampled_from(CHANNEL_MODES),
    enlarged_by=st.one_of(st.none(), st.integers(0, 90)),
    seed=seeds,
    scale=scales,
)
@example(dim=4096, channel_mode="split", enlarged_by=None, seed=0, scale=1.0)
@example(dim=4096, channel_mode="replicate", enlarged_by=1, seed=0, scale=FLOAT32_MAX)
@example(dim=1, channel_mode="split", enlarged_by=127, seed=0, scale=1e-45)
def test_decoding_gives_the_embedding_back(dim, channel_mode, enlarged_by, seed, scale):
    embeddings = random_embeddings(3, dim, seed, scale)
    size = "native" if enlarged_by is None else native_side(dim, channel_mode) + enlarged_by
    images = encode_images(
        embeddings, ImagesConfig(image_size=size, image_channel_mode=channel_mode)
    )

    decoded = decode_images(images)

    assert decoded.dtype == np.float32
    assert decoded.shape == embeddings.shape
    assert_within_half_a_step(decoded, embeddings, images)


def assert_decoding_gives_the_embedding_back(every_dim, channel_mode):
    longest = random_embeddings(1, 4096)
    for dim in every_dim:
        embeddings = longest[:, :dim]
        images = encode_images(embeddings, native(channel_mode))
        assert_within_half_a_step(decode_images(images), embeddings, images)


@pytest.mark.parametrize(("channel_mode", "planes"), [("split", 3), ("replicate", 1)])
def test_decoding_gives_the_embedding_back_where_the_side_changes(channel_mode, planes):
    full = [planes * side**2 for side in range(1, 65) if planes * side**2 < 4096]

    assert_decoding_gives_the_embedding_back(full, channel_mode)
    assert_decoding_gives_the_embedding_back([dim + 1 for dim in full], channel_mode)


@pytest.mark.slow
@pytest.mark.parametrize("channel_mode", CHANNEL_MODES)
def test_decoding_gives_the_embedding_back_at_every_dimension(channel_mode):
    assert_decoding_gives_the_embedding_back(range(1, 4097), channel_mode)


@settings(deadline=None, max_examples=60)
@given(
    value=st.floats(width=32, allow_nan=False, allow_infinity=False),
    dim=st.integers(1, 50),
    channel_mode=st.sampled_from(CHANNEL_MODES),
)
@example(value=FLOAT32_MAX, dim=7, channel_mode="split")
@example(value=1e-45, dim=7, channel_mode="replicate")
def test_a_constant_is_grey_and_decodes_exactly(value, dim, channel_mode):
    embedding = np.full((1, dim), value, dtype=np.float32)
    images = encode_images(embedding, native(channel_mode))

    planes = images.pixels if channel_mode == "split" else images.pixels[:, :1]
    assert (planes.reshape(1, -1)[:, :dim] == 128).all()
    assert (decode_images(images) == embedding).all()


def test_the_largest_range_neither_overflows_nor_loses_its_ends():
    embedding = np.array([[-FLOAT32_MAX, 0, FLOAT32_MAX]], dtype=np.float32)
    images = encode_images(embedding, native("replicate"))

    assert images.pixels[0, 0].ravel().tolist() == [0, 128, 255, 0]
    decoded = decode_images(images)
    assert decoded[0, [0, 2]].tolist() == [-FLOAT32_MAX, FLOAT32_MAX]


def test_zeros_of_both_signs_are_one_constant():
    images = encode_images(np.array([[-0.0, 0.0, -0.0]], dtype=np.float32), native("replicate"))

    assert images.pixels[0, 0].ravel().tolist() == [128, 128, 128, 0]
    assert not np.signbit(images.minima).any()
    assert not np.signbit(images.maxima).any()


@pytest.mark.parametrize("mode", IMAGE_MODES)
@pytest.mark.parametrize("channel_mode", CHANNEL_MODES)
@pytest.mark.parametrize("size", ["native", 5, 30])
def test_pixels_do_not_depend_on_batch_mates(mode, channel_mode, size):
    embeddings = random_embeddings(9, 500)
    config = ImagesConfig(image_size=size, image_mode=mode, image_channel_mode=channel_mode)
    together = encode_images(embeddings, config)

    for row in (0, 4, 8):
        alone = encode_images(embeddings[row : row + 1], config)
        assert (alone.pixels[0] == together.pixels[row]).all()
        assert (alone.minima[0] == together.minima[row]).all()
        assert (alone.maxima[0] == together.maxima[row]).all()
    backwards = encode_images(embeddings[::-1], config)
    assert (backwards.pixels[::-1] == together.pixels).all()


def test_large_images_are_made_in_blocks_and_still_whole():
    embeddings = random_embeddings(7, 40)
    config = ImagesConfig(image_size=900)  # two images fill a block

    pixels = encode_images(embeddings, config).pixels

    assert (pixels[6] == encode_images(embeddings[6:], config).pixels[0]).all()
    assert pixels.shape == (7, 3, 900, 900)


def as_torch_resizes(pixels, size, mode):
    """What torch gives for the rounded values, before rounding again."""
    source = torch.from_numpy(pixels).float()
    options = {"align_corners": False} if mode in ("bilinear", "bicubic") else {}
    return functional.interpolate(source, size=(size, size), mode=mode, **options).numpy()


@settings(deadline=None, max_examples=150)
@given(dim=dims, channel_mode=st.sampled_from(CHANNEL_MODES), size=st.integers(1, 160))
@example(dim=768, channel_mode="split", size=128)
@example(dim=768, channel_mode="split", size=82)  # float32 does not give floor(41 * 16 / 82) = 8
def test_nearest_is_that_of_torch_to_the_pixel(dim, channel_mode, size):
    embeddings = random_embeddings(2, dim)
    small = encode_images(embeddings, native(channel_mode)).pixels

    config = ImagesConfig(image_size=size, image_channel_mode=channel_mode)
    pixels = encode_images(embeddings, config).pixels

    assert (pixels == as_torch_resizes(small, size, "nearest")).all()


@pytest.mark.parametrize("mode", IMAGE_MODES[1:])
@pytest.mark.parametrize("size", [7, 16, 24, 64, 128])
def test_the_other_modes_are_those_of_torch(mode, size):
    embeddings = random_embeddings(4, 768)
    small = encode_images(embeddings, native()).pixels

    pixels = encode_images(embeddings, ImagesConfig(image_size=size, image_mode=mode)).pixels

    theirs = as_torch_resizes(small, size, mode).clip(0, 255)
    # At exact halves torch's float32 sums fall to either side, on each processor as they may.
    at_a_half = np.abs(theirs % 1 - 0.5) < 1e-3
    assert (pixels == theirs.round())[~at_a_half].all()
    assert (np.abs(pixels - theirs) < 0.501).all()


def test_halves_of_an_interpolation_are_rounded_to_even():
    # Two cells a side at 4 px: the second cell's weights are 0, 1/4, 3/4, 1 along each axis.
    embedding = np.array([[0, 0, 2, 255]], dtype=np.float32)
    config = ImagesConfig(image_size=4, image_mode="bilinear", image_channel_mode="replicate")

    pixels = encode_images(embedding, config).pixels[0, 0]

    # Left column: 0, 2 * 1/4 = 0.5 (even: 0), 2 * 3/4 = 1.5 (even: 2), 2.
    assert pixels[:, 0].tolist() == [0, 0, 2, 2]
    # Bottom row: 2, 2 + 253/4 = 65.25, 2 + 253 * 3/4 = 191.75, 255.
    assert pixels[3].tolist() == [2, 65, 192, 255]


@pytest.mark.parametrize("mode", IMAGE_MODES)
def test_every_mode_leaves_the_native_size_as_it_is(mode):
    embeddings = random_embeddings(2, 300)

    pixels = encode_images(embeddings, ImagesConfig(image_size=10, image_mode=mode)).pixels

    assert (pixels == encode_images(embeddings, native()).pixels).all()


@pytest.mark.parametrize("mode", IMAGE_MODES)
@pytest.mark.parametrize("channel_mode", CHANNEL_MODES)
def test_a_tensor_gives_the_same_pixels(mode, channel_mode):
    embeddings = random_embeddings(5, 700)
    config = ImagesConfig(image_size=40, image_mode=mode, image_channel_mode=channel_mode)

    pixels = encode_tensor(torch.from_numpy(embeddings).requires_grad_(), config)

    assert pixels.dtype == torch.uint8
    assert not pixels.requires_grad
    assert (pixels.numpy() == encode_images(embeddings, config).pixels).all()


@pytest.mark.gpu
@pytest.mark.parametrize("mode", IMAGE_MODES)
@pytest.mark.parametrize("channel_mode", CHANNEL_MODES)
@pytest.mark.parametrize("scale", [1e-45, 1.0, FLOAT32_MAX])
def test_a_gpu_gives_the_same_pixels(mode, channel_mode, scale):
    embeddings = random_embeddings(50, 700, scale=scale)
    config = ImagesConfig(image_size=100, image_mode=mode, image_channel_mode=channel_mode)

    pixels = encode_tensor(torch.from_numpy(embeddings).to("cuda"), config)

    assert pixels.device.type == "cuda"
    assert (pixels.cpu().numpy() == encode_images(embeddings, config).pixels).all()


DIGEST_IN_ANOTHER_PROCESS = """
import hashlib, sys
import numpy as np, torch
from e2i.images.config import ImagesConfig
from e2i.images.fold import encode_images
torch.set_num_threads(1)
embeddings = np.load(sys.argv[1])
digest = hashlib.sha256()
for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area"):
    digest.update(encode_images(embeddings, ImagesConfig(image_size=50, image_mode=mode)).pixels)
print(digest.hexdigest(), end="")
"""


def test_two_processes_give_the_same_pixels(tmp_path):
    embeddings = random_embeddings(20, 768)
    np.save(tmp_path / "embeddings.npy", embeddings)
    digest = hashlib.sha256()
    for mode in IMAGE_MODES:
        config = ImagesConfig(image_size=50, image_mode=mode)
        digest.update(encode_images(embeddings, config).pixels)

    other = subprocess.run(
        [sys.executable, "-c", DIGEST_IN_ANOTHER_PROCESS, tmp_path / "embeddings.npy"],
        check=True,
        capture_output=True,
        text=True,
    )

    assert other.stdout == digest.hexdigest()


def test_float16_rows_and_read_only_ones_are_taken():
    embeddings = random_embeddings(2, 30).astype(np.float16)
    embeddings.flags.writeable = False
    exact = embeddings.astype(np.float32)
    exact.flags.writeable = False

    assert (
        encode_images(embeddings, native()).pixels == encode_images(exact, native()).pixels
    ).all()


def test_no_embeddings_give_no_images():
    assert encode_images(np.zeros((0, 30), dtype=np.float32), native()).pixels.shape == (0, 3, 4, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_row_or_id(value):
    embeddings = random_embeddings(4, 30)
    embeddings[2, 7] = value

    with pytest.raises(ImageError) as caught:
        encode_images(embeddings, native())
    assert str(caught.value) == (
        f"the embedding in row 2 is not finite: got {value} at position 7, expected finite "
        "numbers. Embed it again."
    )
    with pytest.raises(ImageError, match=r"the embedding of 'c\.wav' is not finite"):
        encode_images(embeddings, native(), ids=["a.wav", "b.wav", "c.wav", "d.wav"])


def test_float64_beyond_float32_is_refused():
    with pytest.raises(ImageError, match="row 0 is not finite: got inf at position 1"):
        encode_images(np.array([[0.0, 1e300]]), native())


def test_an_embedding_without_values_is_refused():
    with pytest.raises(ImageError) as caught:
        encode_images(np.zeros((2, 0), dtype=np.float32), native())
    assert str(caught.value) == (
        "an embedding without values has no image: got dimension 0, expected at least 1. Check the "
        "encoder."
    )


def test_a_lone_embedding_is_refused():
    with pytest.raises(ImageError) as caught:
        encode_images(np.zeros(30, dtype=np.float32), native())
    assert str(caught.value) == (
        "embeddings come as one row each: got shape (30,), expected (B, D). Reshape them."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_mode": "bilinear"},
            "a pseudo-image that was interpolated cannot be decoded: got image_mode 'bilinear', "
            "expected 'nearest'. Render it with --image-mode nearest.",
        ),
        (
            {"clip_values": True},
            "a clamped pseudo-image cannot be decoded: got clip_values=True, expected False. "
            "Render it without --clip-values.",
        ),
        (
            {"image_size": 15},
            "the pseudo-image is too small to decode: got 15 px, expected at least 16 px for 768 "
            "dimensions. Render it with --image-size native.",
        ),
    ],
)
def test_what_lost_something_is_not_decoded(options, message):
    images = encode_images(random_embeddings(2, 768), ImagesConfig(**options))

    with pytest.raises(ImageError) as caught:
        decode_images(images)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("pixels", "minima", "message"),
    [
        ((1, 1, 4, 4), (1, 3), "has three channels and is square: got (1, 4, 4)"),
        ((1, 3, 4, 5), (1, 3), "has three channels and is square: got (3, 4, 5)"),
        (
            (2, 3, 4, 4),
            (1, 3),
            "minima and maxima do not belong to these images: got shapes (1, 3)",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(pixels, minima, message):
    images = EncodedImages(
        pixels=np.zeros(pixels, dtype=np.uint8),
        minima=np.zeros(minima, dtype=np.float32),
        maxima=np.zeros(minima, dtype=np.float32),
        dim=30,
        image_mode="nearest",
        image_channel_mode="split",
        clip_values=False,
    )

    with pytest.raises(ImageError) as caught:
        decode_images(images)
    assert message in str(caught.value)
