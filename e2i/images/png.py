"""Pseudo-images as PNG files that know what they show.

Conventions: 8-bit RGB. One text chunk, `e2i`, stands before the pixels: a JSON object with what the
image shows and all that decoding needs (so any id fits into ASCII, and each float32 comes back
exactly). The same image and label give the same bytes under the same versions of pillow and zlib.

Source: Portable Network Graphics (PNG) Specification, third edition, 11.3.3 textual information.
"""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from e2i.errors import ImageError
from e2i.images.config import ImageChannelMode, ImageMode
from e2i.images.fold import NUM_CHANNELS, EncodedImages, native_side
from e2i.images.names import Side

# Changes when the same embedding and settings give other pixels, or the chunks other meanings.
FORMAT = 1

# Run lengths are the quickest and the smallest: measured at 128 px from a native side of 16, 4,900
# files a second and core of 1.9 kB each (zlib's own search 4,650 of 2.3 kB; interpolated images
# 1,220 of 21 kB against 1,000 of 24 kB). Levels above 1 cost and save nothing.
_COMPRESS_TYPE = zlib.Z_RLE
_COMPRESS_LEVEL = 1

_KEYWORD = "e2i"

# What pillow raises at a file that is none, or is cut, damaged or absurdly large.
_BROKEN = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    zlib.error,
)
_Choice = TypeVar("_Choice", bound=str)
_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class ImageLabel:
    """What a stored pseudo-image shows.

    Attributes:
        side: whose embedding it is.
        item_id: clip id or caption id.
        fingerprint: of the encoder that made the embedding.
        embedding_digest: of the embedding itself.
    """

    side: Side
    item_id: str
    fingerprint: str
    embedding_digest: str


@dataclass(frozen=True, slots=True)
class StoredImage:
    """What a PNG holds.

    Attributes:
        label: what it shows.
        images: the one image, as a batch of one.
    """

    label: ImageLabel
    images: EncodedImages


def encode_png(images: EncodedImages, row: int, label: ImageLabel) -> bytes:
    """One image of a batch as a PNG file.

    Args:
        images: pseudo-images (B, 3, S, S).
        row: which of them, in [0, B).
        label: what it shows.
    """
    facts = {
        "format": FORMAT,
        "side": label.side,
        "id": label.item_id,
        "fingerprint": label.fingerprint,
        "embedding": label.embedding_digest,
        "dimension": images.dim,
        "channel_mode": images.image_channel_mode,
        "image_mode": images.image_mode,
        "clip_values": images.clip_values,
        "native_side": native_side(images.dim, images.image_channel_mode),
        "minima": images.minima[row].tolist(),
        "maxima": images.maxima[row].tolist(),
    }
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(_KEYWORD, _to_json(facts))
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in images.pixels[row]]
    file = io.BytesIO()
    Image.merge("RGB", planes).save(
        file,
        format="png",
        pnginfo=chunks,
        compress_level=_COMPRESS_LEVEL,
        compress_type=_COMPRESS_TYPE,
    )
    return file.getvalue()


def decode_png(data: bytes, name: str) -> StoredImage:
    """A PNG file that `encode_png` wrote.

    Args:
        data: the bytes of the file.
        name: of the file, for messages.

    Raises:
        ImageError: it is no PNG, it is damaged, it is not 8-bit RGB, or a text chunk is missing or
            does not hold what it should.
    """
    pixels, text = _read(data, name)
    facts = _Facts(name, text)
    label = ImageLabel(
        side=facts.choice("side", get_args(Side)),
        item_id=facts.text("id"),
        fingerprint=facts.text("fingerprint"),
        embedding_digest=facts.text("embedding"),
    )
    images = EncodedImages(
        pixels=pixels[None],
        minima=facts.extrema("minima")[None],
        maxima=facts.extrema("maxima")[None],
        dim=facts.dimension(),
        image_mode=facts.choice("image_mode", get_args(ImageMode)),
        image_channel_mode=facts.choice("channel_mode", get_args(ImageChannelMode)),
        clip_values=facts.flag("clip_values"),
    )
    return StoredImage(label, images)


def _read(data: bytes, name: str) -> tuple[NDArray[np.uint8], str | None]:
    """Pixels uint8 (3, S, S), and what the text chunk says."""
    try:
        with Image.open(io.BytesIO(data), formats=("png",)) as picture:
            picture.load()
            mode, text = picture.mode, picture.info.get(_KEYWORD)
            pixels = np.asarray(picture)
    except _BROKEN as error:
        raise ImageError(
            f"{name} is not a whole PNG: got {len(data)} bytes that cannot be read, expected a "
            "pseudo-image. Render it again."
        ) from error
    if mode != "RGB" or pixels.shape[0] != pixels.shape[1]:
        raise ImageError(
            f"{name} is no pseudo-image: got {mode} of {pixels.shape[1]} x {pixels.shape[0]} px, "
            "expected a square RGB image. Render it again."
        )
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), text


class _Facts:
    """What the text chunk of one file says, each fact checked as it is read."""

    def __init__(self, name: str, text: str | None) -> None:
        self._name = name
        if text is None:
            raise ImageError(
                f"{name} does not say what it shows: got no text chunk {_KEYWORD!r}, expected "
                "one. Render it again."
            )
        try:
            facts = json.loads(text)
        except ValueError as error:
            raise self._error("e2i", text[:80], "JSON") from error
        self._facts: dict[str, Any] = facts if isinstance(facts, dict) else {}
        if (version := self._value("format")) != FORMAT:
            raise ImageError(
                f"{name} was written by another version of e2i: got format {version!r}, expected "
                f"{FORMAT}. Render it again."
            )

    def text(self, key: str) -> str:
        value = self._value(key)
        if not isinstance(value, str):
            raise self._error(key, value, "text")
        return value

    def choice(self, key: str, choices: tuple[_Choice, ...]) -> _Choice:
        value = self._value(key)
        for choice in choices:
            if value == choice:
                return choice
        raise self._error(key, value, "one of " + ", ".join(map(str, choices)))

    def flag(self, key: str) -> bool:
        value = self._value(key)
        if not isinstance(value, bool):
            raise self._error(key, value, "true or false")
        return value

    def dimension(self) -> int:
        value = self._value("dimension")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._error("dimension", value, "a whole number of at least 1")
        return value

    def extrema(self, key: str) -> NDArray[np.float32]:
        value = self._value(key)
        if (
            not isinstance(value, list)
            or len(value) != NUM_CHANNELS
            or any(type(item) not in (int, float) for item in value)
        ):
            raise self._error(key, value, f"{NUM_CHANNELS} numbers")
        with np.errstate(over="ignore"):
            extrema = np.array(value, dtype=np.float64).astype(np.float32)
        if not np.isfinite(extrema).all():
            raise self._error(key, value, "finite numbers")
        return extrema

    def _value(self, key: str) -> object:
        if key not in self._facts:
            raise ImageError(
                f"{self._name} does not say how it was made: got no {key!r} in its text chunk "
                f"{_KEYWORD!r}, expected one. Render it again."
            )
        return self._facts[key]

    def _error(self, key: str, value: object, rule: str) -> ImageError:
        return ImageError(
            f"the text chunk of {self._name} is wrong at {key!r}: got {value!r}, expected {rule}. "
            "Render it again."
        )
