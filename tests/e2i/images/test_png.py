from __future__ import annotations

import io
import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from e2i.errors import ImageError
from e2i.images.config import ImagesConfig
from e2i.images.fold import decode_images, encode_images
from e2i.images.png import ImageLabel, decode_png, encode_png

LABEL = ImageLabel("audio", "Dog [2] it&#39;s.wav", "0123456789abcdef", "fedcba9876543210")


def random_images(dim=50, count=1, **options):
    embeddings = np.random.default_rng(3).standard_normal((count, dim)).astype(np.float32)
    return encode_images(embeddings, ImagesConfig(**options))


def png(**options):
    return encode_png(random_images(**options), 0, LABEL)


def with_facts(**changed):
    """A good PNG whose text chunk has other facts; None leaves one out."""
    with Image.open(io.BytesIO(png(image_size="native"))) as picture:
        facts = json.loads(picture.info["e2i"]) | changed
        return with_text(
            picture, json.dumps({key: value for key, value in facts.items() if value is not None})
        )


def with_text(picture, text):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("e2i", text)
    file = io.BytesIO()
    picture.save(file, format="png", pnginfo=chunks)
    return file.getvalue()


@settings(deadline=None, max_examples=60)
@given(
    item_id=st.text(alphabet=st.characters(), max_size=200),  # lone surrogates too
    side=st.sampled_from(["audio", "text"]),
    dim=st.integers(1, 1000),
    size=st.sampled_from(["native", 20, 128]),
    mode=st.sampled_from(["nearest", "area"]),
    channel_mode=st.sampled_from(["split", "replicate"]),
    clip=st.booleans(),
    scale=st.sampled_from([1e-45, 1e-38, 0.1, 3e38]),
    row=st.integers(0, 2),
)
def test_reading_is_the_inverse_of_writing(
    item_id, side, dim, size, mode, channel_mode, clip, scale, row
):
    values = np.random.default_rng(dim).uniform(-1, 1, (3, dim)) * scale
    config = ImagesConfig(
        image_size=size, image_mode=mode, image_channel_mode=channel_mode, clip_values=clip
    )
    images = encode_images(values.astype(np.float32), config)
    label = ImageLabel(side, item_id, "0123456789abcdef", "fedcba9876543210")

    stored = decode_png(encode_png(images, row, label), "x.png")

    assert stored.label == label
    assert stored.images.pixels.tolist() == images.pixels[row : row + 1].tolist()
    assert stored.images.minima.tolist() == images.minima[row : row + 1].tolist()
    assert stored.images.maxima.tolist() == images.maxima[row : row + 1].tolist()
    assert stored.images.dim == dim
    assert stored.images.image_mode == mode
    assert stored.images.image_channel_mode == channel_mode
    assert stored.images.clip_values == clip


def test_an_embedding_comes_back_from_its_file():
    embeddings = np.random.default_rng(0).standard_normal((1, 768)).astype(np.float32)
    images = encode_images(embeddings, ImagesConfig())

    decoded = decode_images(decode_png(encode_png(images, 0, LABEL), "x.png").images)

    # 256 cells a channel of a standard normal span less than 8: half a step is at most 8 / 510.
    assert np.abs(decoded - embeddings).max() <= 8 / 510


def test_the_file_is_plain_rgb_and_says_what_it_shows():
    with Image.open(io.BytesIO(png(dim=10, image_size="native"))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (2, 2))
        facts = json.loads(picture.info["e2i"])

    assert facts["id"] == "Dog [2] it&#39;s.wav"
    assert (facts["dimension"], facts["native_side"], facts["clip_values"]) == (10, 2, False)
    assert (facts["channel_mode"], facts["image_mode"]) == ("split", "nearest")
    assert len(facts["minima"]) == len(facts["maxima"]) == 3


def test_red_green_and_blue_are_the_channels_in_order():
    images = encode_images(
        np.array([[1, 1, 1, 1, 0, 1, 0, 0, 0, 2, 1, 0]], dtype=np.float32),
        ImagesConfig(image_size="native"),
    )

    with Image.open(io.BytesIO(encode_png(images, 0, LABEL))) as picture:
        # Left to right, top to bottom; by hand.
        assert [picture.getpixel(at) for at in ((0, 0), (1, 0), (0, 1), (1, 1))] == [
            (128, 0, 0),
            (128, 255, 255),
            (128, 0, 128),
            (128, 0, 0),
        ]


def test_the_same_image_gives_the_same_bytes():
    assert png() == png()


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"not a PNG",
        png()[:40],
        png()[:-40],
        png()[:200] + b"\x00" + png()[201:],
        b"\xff\xd8\xff\xe0JFIF",
    ],
)
def test_what_is_no_whole_png_is_refused(broken):
    with pytest.raises(ImageError, match=r"^audio_x\.png (is|does|was|the text chunk)"):
        decode_png(broken, "audio_x.png")


def test_a_flipped_bit_among_the_pixels_is_found():
    whole = bytearray(png())
    whole[whole.index(b"IDAT") + 20] ^= 1

    with pytest.raises(ImageError) as caught:
        decode_png(bytes(whole), "audio_x.png")
    assert str(caught.value) == (
        f"audio_x.png is not a whole PNG: got {len(whole)} bytes that cannot be read, expected a "
        "pseudo-image. Render it again."
    )


def test_a_picture_as_large_as_a_bomb_is_refused():
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + (13).to_bytes(4, "big")
        + header
        + zlib.crc32(header).to_bytes(4, "big")
        + png()[33:]
    )

    with pytest.raises(ImageError, match=r"^audio_x\.png is not a whole PNG"):
        decode_png(bomb, "audio_x.png")


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("L", (4, 4)), "audio_x.png is no pseudo-image: got L of 4 x 4 px"),
        (Image.new("RGB", (4, 5)), "audio_x.png is no pseudo-image: got RGB of 4 x 5 px"),
        (
            Image.new("RGB", (4, 4)),
            "audio_x.png does not say what it shows: got no text chunk 'e2i', expected one. Render "
            "it again.",
        ),
    ],
)
def test_other_pictures_are_refused(picture, message):
    file = io.BytesIO()
    picture.save(file, format="png")

    with pytest.raises(ImageError) as caught:
        decode_png(file.getvalue(), "audio_x.png")
    assert str(caught.value).startswith(message)


LABEL_FACTS = ["side", "id", "fingerprint", "embedding"]
MODE_FACTS = ["dimension", "channel_mode", "image_mode", "clip_values"]


@pytest.mark.parametrize("fact", ["format", *LABEL_FACTS, *MODE_FACTS, "minima", "maxima"])
def test_a_missing_fact_is_named(fact):
    with pytest.raises(ImageError) as caught:
        decode_png(with_facts(**{fact: None}), "audio_x.png")
    assert str(caught.value) == (
        f"audio_x.png does not say how it was made: got no {fact!r} in its text chunk 'e2i', "
        "expected one. Render it again."
    )


@pytest.mark.parametrize(
    ("fact", "value", "rule"),
    [
        ("side", "video", "one of audio, text"),
        ("id", 3, "text"),
        ("dimension", 0, "a whole number of at least 1"),
        ("dimension", True, "a whole number of at least 1"),
        ("dimension", "50", "a whole number of at least 1"),
        ("channel_mode", "thirds", "one of split, replicate"),
        ("image_mode", "lanczos", "one of nearest, nearest-exact, bilinear, bicubic, area"),
        ("clip_values", 0, "true or false"),
        ("minima", [1.0, 2.0], "3 numbers"),
        ("maxima", [1.0, 2.0, True], "3 numbers"),
        ("maxima", 4.0, "3 numbers"),
        ("minima", [1.0, 2.0, 1e300], "finite numbers"),
    ],
)
def test_a_wrong_fact_is_named(fact, value, rule):
    with pytest.raises(ImageError) as caught:
        decode_png(with_facts(**{fact: value}), "audio_x.png")
    assert str(caught.value) == (
        f"the text chunk of audio_x.png is wrong at {fact!r}: got {value!r}, expected {rule}. "
        "Render it again."
    )


def test_another_version_is_refused():
    with pytest.raises(ImageError) as caught:
        decode_png(with_facts(format=2), "audio_x.png")
    assert str(caught.value) == (
        "audio_x.png was written by another version of e2i: got format 2, expected 1. Render it "
        "again."
    )


@pytest.mark.parametrize(("text", "part"), [("{oops", "wrong at 'e2i'"), ("[1]", "no 'format'")])
def test_a_text_chunk_of_another_kind_is_refused(text, part):
    with pytest.raises(ImageError, match=part):
        decode_png(with_text(Image.new("RGB", (4, 4)), text), "audio_x.png")
