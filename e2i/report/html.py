"""A report as one HTML file that needs nothing else.

Decides: pictures, sounds and styles lie in the file as data; a content security policy forbids the
browser to fetch anything and to run any script, so whatever stands in a caption stays text. Colors
follow the reader's light or dark setting. The plots also lie beside the file as PNGs, to be used in
slides.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from e2i.report.content import ReportContent
from e2i.report.plots import DARK, LIGHT, Plot, draw_plots
from e2i.report.recordings import Recording
from e2i.report.sheet import contact_sheet
from e2i.report.wording import group_labels, is_share, metric_words
from e2i.retrieval.evaluation import Score
from e2i.storage import Folder

_SHEET = "pseudo-images"
_DIRECTIONS = {
    "text_to_audio": (
        "Text to audio",
        "Each caption is searched with; the clips are ranked. One clip is right.",
    ),
    "text_to_audio_multi": (
        "Text to audio, all right clips",
        "Of the captions of which it is known which clips answer them, each of these counts.",
    ),
    "audio_to_text": (
        "Audio to text",
        "Each clip is searched with; the captions are ranked. All of its captions are right.",
    ),
}
_NO_BREAK = "\u00a0"
_SHOWN_LETTERS = 400


def write_report(folder: Folder, name: str, content: ReportContent) -> str:
    """Write a report: `<name>.html`, and its plots as `<name>/*.png`.

    Each file is replaced in one step, the page last. PNGs of an earlier report of that name that
    this one does not have are deleted.

    Args:
        folder: where.
        name: of the report, such as `evaluation`.
        content: what it shows.

    Returns:
        The location of the page.

    Raises:
        StorageError: the store refused.
        ConfigError: the name is no relative one, or the folder cannot be written.
    """
    plots = draw_plots(content)
    pictures = {f"{name}/{plot.name}.png": plot.light for plot in plots}
    pictures |= {f"{name}/{plot.name}-dark.png": plot.dark for plot in plots}
    if content.images:
        title = f"{content.dataset} {content.split}: clip beside caption"
        pictures[f"{name}/{_SHEET}.png"] = contact_sheet(content.images, title=title)
    page = render_html(content, plots).encode()
    for picture, data in pictures.items():
        folder.write(picture, data)
    folder.write(f"{name}.html", page)
    for file in folder.files(name):
        if file.name.endswith(".png") and file.name not in pictures:
            folder.delete(file.name)
    return f"{folder.url.rstrip('/')}/{name}.html"


def render_html(content: ReportContent, plots: Sequence[Plot]) -> str:
    """The page of a report.

    Args:
        content: what it shows.
        plots: as `draw_plots` made them of this content.
    """
    return (
        page_environment()
        .get_template("report.html.jinja")
        .render(
            content=content,
            plots={plot.name: plot for plot in plots},
            light=LIGHT,
            dark=DARK,
            main=content.models[0].scores[content.headline],
            cutoff=content.headline.rpartition("@")[2],
            directions=_directions(content),
        )
    )


def _directions(content: ReportContent) -> list[dict[str, object]]:
    """The table of scores: by direction, its title, explanation and keys with their names."""
    found: list[dict[str, object]] = []
    for direction, (title, explanation) in _DIRECTIONS.items():
        prefix = f"{direction}_"
        keys = [key for key in content.models[0].scores if _direction_of(key) == direction]
        if keys:
            rows = [(key, key.removeprefix(prefix).replace("_", " ")) for key in keys]
            found.append({"title": title, "explanation": explanation, "rows": rows})
    return found


def _direction_of(key: str) -> str:
    """The direction that a score's key begins with; the longest that there is."""
    return max((d for d in _DIRECTIONS if key.startswith(f"{d}_")), key=len, default="")


@cache
def page_environment() -> Environment:
    """Where the templates are, and how they show numbers, pictures and colors."""
    environment = Environment(
        loader=PackageLoader("e2i.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent,
        number=_number,
        score=_score,
        interval=_interval,
        png_url=_png_url,
        recording_url=_recording_url,
        pixels_url=_pixels_url,
        group_labels=group_labels,
        color=_color,
        cosine=_cosine,
        metric_words=metric_words,
        shortened=_shortened,
    )
    return environment


def _percent(value: float) -> str:
    """`92.0 %`, the space not broken."""
    return f"{100 * value:.1f}{_NO_BREAK}%"


def _number(value: float) -> str:
    """A whole number with thousands apart, another with one digit behind the point."""
    return f"{value:,.0f}" if value == math.floor(value) else f"{value:,.1f}"


def _score(value: float, key: str) -> str:
    """A value as the metric is read: recalls and precisions in percent, ranks as numbers."""
    return _percent(value) if is_share(key) else _number(value)


def _interval(score: Score, key: str) -> str:
    """Both ends of an interval; a dash where there is none."""
    if score.low is None or score.high is None:
        return "–"
    if not is_share(key):
        return f"{_number(score.low)} – {_number(score.high)}"
    return f"{100 * score.low:.1f} – {_percent(score.high)}"


def _data_url(media_type: str, data: bytes) -> Markup:
    # Base64 holds nothing that HTML would read otherwise.
    return Markup(f"data:{media_type};base64,{base64.b64encode(data).decode()}")  # noqa: S704


def _png_url(data: bytes) -> Markup:
    return _data_url("image/png", data)


def _recording_url(recording: Recording) -> Markup:
    return _data_url(recording.media_type, recording.data)


def _pixels_url(pixels: NDArray[np.uint8]) -> Markup:
    """Pixels (3, S, S) as a picture of their own size; the page enlarges it."""
    file = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    picture.save(file, format="png", optimize=True)
    return _data_url("image/png", file.getvalue())


def _color(colors: Sequence[str], index: int) -> str:
    """The color of a model, as in the plots."""
    return colors[index % len(colors)]


def _cosine(value: float) -> str:
    """Three digits, with a minus that is as wide as they are."""
    return f"{value:.3f}".replace("-", "\u2212")


def _shortened(text: str) -> str:
    """A caption as far as a reader would read it."""
    return text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS].rstrip() + "…"
