"""The report of a sweep: one HTML file that needs nothing else, and the same numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from e2i.report.html import page_environment
from e2i.report.plots import Plot
from e2i.report.sweep_content import BEST_KEYS, SweepContent
from e2i.report.sweep_plots import draw_sweep_plots
from e2i.report.wording import metric_words
from e2i.storage import Folder
from e2i.sweep.arms import ARM_EXPLANATIONS, ARM_WORDS
from e2i.sweep.wording import points

NAME = "report"


def write_sweep_report(folder: Folder, content: SweepContent) -> dict[str, str]:
    """Write `report.html`, `report.json` and the plots as `report/*.png`; the locations.

    Each file is replaced in one step, the page last. PNGs of an earlier report that this one does
    not have are deleted.

    Raises:
        StorageError: the store refused.
    """
    plots = draw_sweep_plots(content)
    pictures = {f"{NAME}/{plot.name}.png": plot.light for plot in plots}
    pictures |= {f"{NAME}/{plot.name}-dark.png": plot.dark for plot in plots}
    for picture, data in pictures.items():
        folder.write(picture, data)
    text = json.dumps(content.as_json(), indent=2, allow_nan=False) + "\n"
    folder.write(f"{NAME}.json", text.encode())
    folder.write(f"{NAME}.html", render_sweep(content, plots).encode())
    for file in folder.files(NAME):
        if file.name.endswith(".png") and file.name not in pictures:
            folder.delete(file.name)
    base = f"{folder.url.rstrip('/')}/{NAME}"
    return {"report": f"{base}.html", "report_json": f"{base}.json"}


def render_sweep(content: SweepContent, plots: Sequence[Plot]) -> str:
    """The page.

    Args:
        content: what it shows.
        plots: as `draw_sweep_plots` made them of this content.
    """
    single = content.best.variants["single model"]
    return (
        page_environment()
        .get_template("sweep.html.jinja")
        .render(
            content=content,
            plots={plot.name: plot for plot in plots},
            words=ARM_WORDS,
            explanations=ARM_EXPLANATIONS,
            points=points,
            best_keys=[(key, _key_words(key)) for key in BEST_KEYS if key in single],
            number=_plain_number,
        )
    )


def _key_words(key: str) -> str:
    return (
        metric_words(key).replace("text→audio ", "")
        if "text_to_audio" in key
        else metric_words(key)
    )


def _plain_number(value: float) -> str:
    """A setting: three digits that count."""
    return f"{value:.3g}"
