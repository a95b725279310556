from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from e2i.errors import ImageError
from e2i.images.config import ImagesConfig
from e2i.images.fold import encode_images
from e2i.report.sheet import SheetRow, contact_sheet

RED, BLUE = (255, 0, 0), (0, 0, 255)


def plain(color, side=16):
    return np.broadcast_to(np.array(color, dtype=np.uint8)[:, None, None], (3, side, side))


def row(name="dog.wav", caption="A dog barks far away.", audio=RED, text=BLUE, side=16):
    return SheetRow(name, caption, plain(audio, side), plain(text, side))


def opened(data):
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        return np.asarray(picture)


def box(sheet, color):
    """Top, left, height and width of what has this color."""
    rows, columns = np.nonzero((sheet == color).all(axis=-1))
    return rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1


@pytest.mark.parametrize("side", [1, 14, 16, 128, 300])
def test_a_clip_stands_beside_its_caption_at_one_size(side):
    sheet = opened(contact_sheet([row(side=side)]))

    top, left, height, width = box(sheet, RED)
    text_top, text_left, text_height, text_width = box(sheet, BLUE)
    assert (height, width) == (text_height, text_width) == (160, 160)
    assert top == text_top
    assert text_left > left + width
    assert (sheet[[0, -1]] == 255).all()


def test_cells_are_enlarged_without_blending():
    checkered = np.zeros((3, 2, 2), dtype=np.uint8)
    checkered[:, 0, 0] = checkered[:, 1, 1] = 255
    checkered[0] = 200
    sheet = opened(contact_sheet([SheetRow("a", "b", checkered, plain(BLUE))]))

    colors = {tuple(color) for color in sheet[80:200, 50:200].reshape(-1, 3).tolist()}
    assert {(200, 255, 255), (200, 0, 0)} <= colors
    assert not {color for color in colors if color[0] == 200} - {(200, 255, 255), (200, 0, 0)}


def test_rows_fill_lines_in_order():
    colors = [(n * 40, 255 - n * 40, 7) for n in range(5)]
    sheet = opened(contact_sheet([row(audio=color) for color in colors], columns=2))

    corners = [box(sheet, color)[:2] for color in colors]
    assert corners == sorted(corners)
    assert len({top for top, _ in corners}) == 3
    assert len({left for _, left in corners}) == 2


def test_name_caption_and_title_are_shown():
    without = opened(contact_sheet([row(name="", caption="")]))
    with_name = opened(contact_sheet([row(caption="")]))
    with_both = opened(contact_sheet([row()]))
    titled = opened(contact_sheet([row()], title="Pseudo-images"))

    def ink(sheet):
        return int((sheet < 128).all(axis=-1).sum())

    assert ink(without) < ink(with_name) < ink(with_both)
    assert titled.shape[0] > with_both.shape[0]
    assert ink(titled) > ink(with_both)


@pytest.mark.parametrize("caption", ["very " * 200, "unbroken" * 100, "", "two\nlines\tof\x00it"])
@pytest.mark.parametrize("name", ["x" * 500, "狗 naïve — “ü”.wav", "\udc80.wav"])
def test_long_and_odd_texts_stay_in_their_cell(name, caption):
    sheet = opened(contact_sheet([row(name=name, caption=caption)], title=caption))

    assert sheet.shape == opened(contact_sheet([row()], title=caption and "x")).shape
    assert (sheet[:, -30:] == 255).all()
    assert (sheet[:, :30] == 255).all()


def test_a_dozen_at_native_size_fit_into_an_artifact():
    embeddings = np.random.default_rng(0).standard_normal((24, 768)).astype(np.float32)
    pixels = encode_images(embeddings, ImagesConfig(image_size="native")).pixels
    rows = [SheetRow(f"{n}.wav", "A dog barks.", pixels[n], pixels[n + 12]) for n in range(12)]

    # As a data URL a third more.
    assert len(contact_sheet(rows, title="Pseudo-images")) * 4 / 3 < 300_000


def test_the_same_rows_give_the_same_bytes():
    assert contact_sheet([row()]) == contact_sheet([row()])


def test_nothing_to_show_is_an_error():
    with pytest.raises(ImageError) as caught:
        contact_sheet([])
    assert str(caught.value) == (
        "a sheet without pseudo-images shows nothing: got 0 rows, expected at least 1. Render some "
        "first."
    )


@pytest.mark.parametrize("shape", [(16, 16), (1, 16, 16), (3, 16, 17)])
def test_images_of_another_shape_are_refused(shape):
    pixels = np.zeros(shape, dtype=np.uint8)

    with pytest.raises(ImageError) as caught:
        contact_sheet([SheetRow("dog.wav", "A dog.", pixels, plain(BLUE))])
    assert str(caught.value) == (
        f"the sheet shows square images of three channels: got shape {shape} for 'dog.wav', "
        "expected (3, S, S). Encode the embedding first."
    )
