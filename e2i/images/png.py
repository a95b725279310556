"""Pseudo-images as PNG files that know what they show.

Conventions: 8-bit RGB. One text chunk, `e2i`, stands before the pixels: a JSON object with what the
image shows and all that decoding needs (so any id fits into ASCII, and each float32 comes back
exactly); of statistics that it was standardized by, it holds the digest that names their file. The
same image and label give the same bytes under the same version of isal.

Decides: files are written here, many at once, and not by pillow, because we know what it has to
find out: that an image enlarged by copying cells repeats its rows. Those are the filter `Up` over
nothing but zeros; the others are filtered by `Sub`, which leaves zeros wherever a pixel repeats its
neighbor. So the enlarged image itself is never made.

Source: Portable Network Graphics (PNG) Specification, third edition: 5 (chunks), 9.2 (filters),
11.3.3 (textual information).
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from e2i.errors import ImageError
from e2i.images.config import ImageChannelMode, ImageMode
from e2i.images.fold import NUM_CHANNELS, EncodedImages, native_side, source_cells
from e2i.images.names import Side

# Changes when the same embedding and settings give other pixels, or the chunks other meanings.
FORMAT = 1

_COMPRESS_LEVEL = 0  # of 0 to 3: above it, files get no smaller
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB_8_BIT = bytes([8, 2, 0, 0, 0])  # depth, color type, and the only methods that there are
_SUB, _UP = 1, 2

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
    one = slice(row, row + 1)
    alone = replace(
        images,
        pixels=images.pixels[one],
        minima=images.minima[one],
        maxima=images.maxima[one],
    )
    return encode_pngs(alone, [label])[0]


def encode_pngs(
    images: EncodedImages, labels: Sequence[ImageLabel], size: int | None = None
) -> list[bytes]:
    """A batch of images as PNG files.

    Args:
        images: pseudo-images (B, 3, S, S).
        labels: what each of them shows.
        size: side in pixels that the files are to show, by copying cells as `images.image_mode`
            does (`nearest`, `nearest-exact`); S without it.
    """
    side = images.pixels.shape[-1] if size is None else size
    native = native_side(images.dim, images.image_channel_mode)
    shared: dict[str, object] = {
        "format": FORMAT,
        "dimension": images.dim,
        "channel_mode": images.image_channel_mode,
        "image_mode": images.image_mode,
        "clip_values": images.clip_values,
        "native_side": native,
    }
    if images.standardized_by:  # names the statistics, which lie beside the images
        shared["standardization"] = images.standardized_by
    extrema = zip(images.minima.tolist(), images.maxima.tolist(), strict=True)
    edge = side.to_bytes(4, "big")
    head = _SIGNATURE + _chunk(b"IHDR", edge + edge + _RGB_8_BIT)
    tail = _chunk(b"IEND", b"")
    files = []
    for label, rows, (minima, maxima) in zip(
        labels, _filtered_rows(images, native, side), extrema, strict=True
    ):
        facts = {
            **shared,
            "side": label.side,
            "id": label.item_id,
            "fingerprint": label.fingerprint,
            "embedding": label.embedding_digest,
            "minima": minima,
            "maxima": maxima,
        }
        text = _chunk(b"tEXt", _KEYWORD.encode() + b"\0" + _to_json(facts).encode())
        pixels = _chunk(b"IDAT", isal_zlib.compress(rows, _COMPRESS_LEVEL))
        files.append(b"".join([head, text, pixels, tail]))
    return files


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join([len(content).to_bytes(4, "big"), kind, content, checksum.to_bytes(4, "big")])


def _filtered_rows(images: EncodedImages, native: int, size: int) -> NDArray[np.uint8]:
    """(B, size, 1 + 3 size): each row of pixels behind the number of its filter."""
    count, channels, stored, _ = images.pixels.shape
    cells = images.pixels.transpose(0, 2, 3, 1)
    fresh = np.arange(size)
    if images.image_mode in ("nearest", "nearest-exact") and size != native:
        source = source_cells(native, size, images.image_mode)
        fresh = np.flatnonzero(np.diff(source, prepend=-1))  # the others repeat the row above
        cells = cells[:, source[fresh]] if stored == native else cells[:, fresh]
        if stored == native:
            cells = np.ascontiguousarray(cells).take(source, axis=2)
    values = cells.reshape(count, len(fresh), channels * size)
    filtered = np.zeros((count, size, 1 + channels * size), dtype=np.uint8)
    filtered[:, :, 0] = _UP
    filtered[:, fresh, 0] = _SUB
    filtered[:, fresh, 1 : 1 + channels] = values[..., :channels]
    filtered[:, fresh, 1 + channels :] = values[..., channels:] - values[..., :-channels]
    return filtered


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
        standardized_by=facts.text("standardization", ""),
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

    def text(self, key: str, otherwise: str | None = None) -> str:
        if otherwise is not None and key not in self._facts:
            return otherwise
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
