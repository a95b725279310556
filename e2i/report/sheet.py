"""A sheet of pseudo-images: each clip's beside its caption's.

Conventions: pixels uint8 `(3, S, S)`; sizes in pixels. Images are enlarged by `nearest`, so that
cells stay squares, to tiles of one size whatever S is; larger ones are thinned out the same way.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from e2i.errors import ImageError

_TILE = 160
_GAP = 10  # between the two tiles of a cell
_PADDING = 14  # inside a cell, on all sides
_SPACING = 18  # between cells
_MARGIN = 32  # around the sheet
_CAPTION_LINES = 2

_PAPER = (255, 255, 255)
_EDGE = (222, 226, 232)
_INK = (28, 33, 40)
_FAINT = (98, 107, 120)

_PUNCTUATION = str.maketrans({"–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"'})

_CELL_WIDTH = 2 * _PADDING + 2 * _TILE + _GAP
_TEXT_WIDTH = 2 * _TILE + _GAP


@dataclass(frozen=True, slots=True)
class SheetRow:
    """A clip and one of its captions.

    Attributes:
        name: the clip's, as the reader knows it.
        caption: its words.
        audio: uint8 (3, S, S), the clip's pseudo-image.
        text: uint8 (3, S, S), the caption's; S may be another.
    """

    name: str
    caption: str
    audio: NDArray[np.uint8]
    text: NDArray[np.uint8]


def contact_sheet(rows: Sequence[SheetRow], *, title: str = "", columns: int = 3) -> bytes:
    """A PNG that shows clips beside their captions.

    Args:
        rows: at least one; a dozen at native size make some 100 kB.
        title: stands above, where given.
        columns: cells in a line of the sheet.

    Raises:
        ImageError: there is nothing to show, or an image is not (3, S, S).
    """
    if not rows:
        raise ImageError(
            "a sheet without pseudo-images shows nothing: got 0 rows, expected at least 1. Render "
            "some first."
        )
    fonts = _Fonts()
    columns = max(1, min(columns, len(rows)))
    lines = -(-len(rows) // columns)
    top = _MARGIN + (52 if title else 0)
    width = 2 * _MARGIN + columns * _CELL_WIDTH + (columns - 1) * _SPACING
    height = top + lines * fonts.cell_height + (lines - 1) * _SPACING + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        text = _shorten(_plain(title), fonts.title, width - 2 * _MARGIN)
        draw.text((_MARGIN, _MARGIN - 6), text, _INK, fonts.title)
    for number, row in enumerate(rows):
        line, column = divmod(number, columns)
        left = _MARGIN + column * (_CELL_WIDTH + _SPACING)
        _draw_cell(sheet, draw, (left, top + line * (fonts.cell_height + _SPACING)), row, fonts)
    file = io.BytesIO()
    sheet.save(file, format="png", optimize=True)
    return file.getvalue()


class _Fonts:
    """Pillow's own font in the sizes used, and what follows from them."""

    def __init__(self) -> None:
        self.title = _font(26)
        self.name = _font(17)
        self.caption = _font(15)
        self.label = _font(12)
        self.cell_height = 2 * _PADDING + 18 + _TILE + 10 + 24 + _CAPTION_LINES * 20


def _font(size: int) -> FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, FreeTypeFont):
        raise ImageError(
            "the sheet needs scalable letters: got a pillow without FreeType, expected one with "
            "it. Install pillow from its wheel."
        )
    return font


def _draw_cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    row: SheetRow,
    fonts: _Fonts,
) -> None:
    left, top = corner
    box = (left, top, left + _CELL_WIDTH - 1, top + fonts.cell_height - 1)
    draw.rounded_rectangle(box, radius=10, outline=_EDGE, width=1)
    left, top = left + _PADDING, top + _PADDING
    for label, pixels, offset in (
        ("clip", row.audio, 0),
        ("caption", row.text, _TILE + _GAP),
    ):
        draw.text((left + offset, top - 3), label, _FAINT, fonts.label)
        sheet.paste(_tile(pixels, row.name), (left + offset, top + 18))
    below = top + 18 + _TILE + 10
    name = _shorten(_plain(row.name), fonts.name, _TEXT_WIDTH)
    draw.text((left, below), name, _INK, fonts.name)
    lines = _wrap(_plain(row.caption), fonts.caption, _TEXT_WIDTH, _CAPTION_LINES)
    for number, line in enumerate(lines):
        draw.text((left, below + 24 + number * 20), line, _FAINT, fonts.caption)


def _tile(pixels: NDArray[np.uint8], name: str) -> Image.Image:
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.shape[1] != pixels.shape[2]:
        raise ImageError(
            f"the sheet shows square images of three channels: got shape {pixels.shape} for "
            f"{name!r}, expected (3, S, S). Encode the embedding first."
        )
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return image.resize((_TILE, _TILE), Image.Resampling.NEAREST)


def _plain(text: str) -> str:
    """The text in the letters that pillow's font has: accents dropped, others shown as `?`."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_PUNCTUATION))
    kept = (letter for letter in decomposed if not unicodedata.combining(letter))
    return " ".join("".join(kept).encode("ascii", "replace").decode().split())


def _shorten(text: str, font: FreeTypeFont, width: float) -> str:
    """As much of a text as fits into `width` pixels, with … where it was cut."""
    if font.getlength(text) <= width:
        return text
    fitting, cut = 0, len(text)
    while fitting + 1 < cut:
        middle = (fitting + cut) // 2
        if font.getlength(text[:middle].rstrip() + "…") <= width:
            fitting = middle
        else:
            cut = middle
    return text[:fitting].rstrip() + "…"


def _wrap(text: str, font: FreeTypeFont, width: float, lines: int) -> list[str]:
    """A text in at most `lines` lines of `width` pixels, the last one shortened."""
    words = text.split()
    wrapped: list[str] = []
    while words and len(wrapped) < lines - 1:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        wrapped.append(_shorten(" ".join(words[:count]), font, width))
        words = words[count:]
    if words:
        wrapped.append(_shorten(" ".join(words), font, width))
    return wrapped
