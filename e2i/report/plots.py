"""The plots of a report, each drawn twice: on light paper and on dark.

Conventions: 4 × 2.75 inches at 250 dpi, so 1000 px wide, with letters that are still read when a
phone shows it 320 px wide. One color a model, the same in all plots; chance is a dashed line
everywhere. Drawn through matplotlib's objects: no window system, no state shared between threads.
The same content gives the same bytes under the same version of matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from e2i.report.breakdown import Breakdown
from e2i.report.content import ModelContent, ReportContent, TrainingCurve
from e2i.report.wording import Row, group_labels, is_share, metric_words, percent_words

_SIZE_INCHES = (4.0, 2.75)
_DPI = 250
_CHANCE = "chance"


@dataclass(frozen=True, slots=True)
class Theme:
    """Colors of paper and ink, and of the models in their order."""

    paper: str
    ink: str
    faint: str
    grid: str
    models: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1c2128",
    faint="#626b78",
    grid="#e4e7ec",
    models=("#2b67b1", "#c4621b", "#2f8558", "#8250a8"),
)
DARK = Theme(
    paper="#171b21",
    ink="#e6e9ee",
    faint="#9aa4b2",
    grid="#2d333c",
    models=("#6ca6ec", "#e8985a", "#66bd8c", "#bb90dd"),
)


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot.

    Attributes:
        name: file name without ending.
        title: stands above it.
        alt: what it shows, in words and numbers.
        light: PNG on light paper.
        dark: PNG on dark paper.
    """

    name: str
    title: str
    alt: str
    light: bytes
    dark: bytes


def draw_plots(content: ReportContent) -> tuple[Plot, ...]:
    """All plots that a report's content suffices for, in the order of the report."""
    plots = [
        _recall_plot(content, "text_to_audio", "Text to audio"),
        _recall_plot(content, "audio_to_text", "Audio to text"),
    ]
    curves = [(model.name, model.curve) for model in content.models if model.curve is not None]
    if curves:
        plots.append(_loss_plot(content, curves))
        if any(curve.values for _, curve in curves):
            plots.append(_metric_plot(content, curves))
    plots.append(_rank_plot(content))
    plots += [_breakdown_plot(content, breakdown) for breakdown in content.breakdowns]
    return tuple(plots)


def drawn(
    name: str,
    title: str,
    alt: str,
    draw: Callable[[Axes, Theme], None],
    size_inches: tuple[float, float] = _SIZE_INCHES,
) -> Plot:
    """Draw on both papers."""
    light, dark = (_png(draw, theme, size_inches) for theme in (LIGHT, DARK))
    return Plot(name, title, alt, light, dark)


def _png(
    draw: Callable[[Axes, Theme], None], theme: Theme, size_inches: tuple[float, float]
) -> bytes:
    figure = Figure(figsize=size_inches, facecolor=theme.paper, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=theme.paper)
    axes.tick_params(colors=theme.faint, labelsize=9.5, length=0, pad=5)
    axes.grid(visible=True, axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.faint)
        spine.set_linewidth(0.8)
    draw(axes, theme)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.faint)
        label.set_fontsize(9.5)
    file = io.BytesIO()
    # Without the name and address of the program that drew it.
    figure.savefig(file, format="png", dpi=_DPI, facecolor=theme.paper, metadata={"Software": None})
    return file.getvalue()


def _recall_plot(content: ReportContent, direction: str, title: str) -> Plot:
    prefix = f"{direction}_R@"
    keys = [key for key in content.models[0].scores if key.startswith(prefix)]
    cutoffs = [key.removeprefix(prefix) for key in keys]
    chance = [content.models[0].scores[key].chance for key in keys]
    series = [
        [(s.value, s.low, s.high) for s in (model.scores[key] for key in keys)]
        for model in content.models
    ]

    def draw(axes: Axes, theme: Theme) -> None:
        _grouped_bars(axes, theme, content.models, series)
        _chance_marks(axes, theme, chance)
        _percent_axis(axes)
        axes.set_xticks(range(len(keys)), [f"R@{k}" for k in cutoffs])
        legend(axes, theme)

    heading = f"{title}: recall"
    parts = [
        f"{model.name}: "
        + ", ".join(
            f"R@{k} {percent_words(values)}" for k, values in zip(cutoffs, rows, strict=True)
        )
        for model, rows in zip(content.models, series, strict=True)
    ]
    by_chance = ", ".join(f"{value:.1%}" for value in chance)
    alt = f"Bar chart of recall with 95 % intervals. {'. '.join(parts)}. Chance: {by_chance}."
    return drawn(f"recall-{direction.replace('_', '-')}", heading, alt, draw)


def _loss_plot(content: ReportContent, curves: Sequence[tuple[str, TrainingCurve]]) -> Plot:
    colors = _color_indices(content.models)

    def draw(axes: Axes, theme: Theme) -> None:
        several = len(curves) > 1
        for name, curve in curves:
            color = theme.models[colors[name] % len(theme.models)]
            prefix = f"{_literal(name)}, " if several else ""
            axes.plot(
                curve.epochs,
                curve.train_loss,
                color=color,
                linestyle="--",
                linewidth=1.4,
                marker=_marker(curve),
                markersize=3,
                label=f"{prefix}training",
            )
            if curve.validation_loss:
                axes.plot(
                    curve.epochs,
                    curve.validation_loss,
                    color=color,
                    linewidth=1.8,
                    marker=_marker(curve),
                    markersize=3.5,
                    label=f"{prefix}validation",
                )
                _mark_best(axes, curve, curve.validation_loss, color)
        _explain_ring(axes, theme)
        _epoch_axis(axes)
        legend(axes, theme)

    alt = " ".join(
        f"{name}: training loss from {c.train_loss[0]:.3f} to {c.train_loss[-1]:.3f} in "
        f"{len(c.epochs)} epochs"
        + (
            f", validation loss from {c.validation_loss[0]:.3f} to {c.validation_loss[-1]:.3f}."
            if c.validation_loss
            else "."
        )
        for name, c in curves
    )
    return drawn("training-loss", "Loss by epoch", f"Line chart. {alt}", draw)


def _metric_plot(content: ReportContent, curves: Sequence[tuple[str, TrainingCurve]]) -> Plot:
    colors = _color_indices(content.models)
    curves = [(name, curve) for name, curve in curves if curve.values]
    metrics = list(dict.fromkeys(metric_words(curve.metric) for _, curve in curves))
    share = all(is_share(curve.metric) for _, curve in curves)

    def draw(axes: Axes, theme: Theme) -> None:
        for name, curve in curves:
            color = theme.models[colors[name] % len(theme.models)]
            axes.plot(
                curve.epochs,
                curve.values,
                color=color,
                linewidth=1.8,
                marker=_marker(curve),
                markersize=3.5,
                label=_literal(name),
            )
            _mark_best(axes, curve, curve.values, color)
        _explain_ring(axes, theme)
        _epoch_axis(axes)
        if share:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        legend(axes, theme)

    alt = " ".join(
        f"{name}: from {c.values[0]:.3f} to {c.values[-1]:.3f} in {len(c.epochs)} epochs; kept: "
        f"epoch {c.best_epoch} with {c.values[c.epochs.index(c.best_epoch)]:.3f}."
        for name, c in curves
    )
    title = f"Validation {', '.join(metrics)} by epoch"
    return drawn("training-metric", title, f"Line chart. {alt}", draw)


def _rank_plot(content: ReportContent) -> Plot:
    labels = content.rank_labels
    series = [[(share, None, None) for share in model.rank_shares] for model in content.models]

    def draw(axes: Axes, theme: Theme) -> None:
        _grouped_bars(axes, theme, content.models, series)
        _chance_marks(axes, theme, content.rank_chance)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.set_ylim(bottom=0)
        crowded = len(labels) > 8
        axes.set_xticks(
            range(len(labels)),
            labels,
            rotation=40 if crowded else 0,
            ha="right" if crowded else "center",
            rotation_mode="anchor" if crowded else "default",
        )
        if max(map(len, labels)) > 4 and not crowded:
            axes.tick_params(axis="x", labelsize=8.5)
        axes.set_xlabel("rank of the right clip")
        legend(axes, theme)

    alt = " ".join(
        f"{model.name}: "
        + ", ".join(
            f"rank {label} {share:.1%}"
            for label, share in zip(labels, model.rank_shares, strict=True)
        )
        + "."
        for model in content.models
    )
    return drawn("ranks", "Rank of the right clip", f"Histogram. {alt}", draw)


def _breakdown_plot(content: ReportContent, breakdown: Breakdown) -> Plot:
    chance = content.models[0].scores[content.headline].chance
    series = [
        [(s.value, s.low, s.high) for s in (group.scores[column] for group in breakdown.groups)]
        for column in range(len(content.models))
    ]
    labels = group_labels(breakdown)
    metric = metric_words(content.headline)

    def draw(axes: Axes, theme: Theme) -> None:
        for column, rows in enumerate(series):
            color = theme.models[column % len(theme.models)]
            places = np.arange(len(rows)) + _offset(column, len(series), 0.36)
            values, errors = _with_errors(rows)
            axes.errorbar(
                places,
                values,
                yerr=errors,
                fmt="o",
                color=color,
                markersize=6,
                elinewidth=1.6,
                capsize=0,
                label=_literal(content.models[column].name),
            )
        axes.axhline(chance, color=theme.faint, linewidth=1.2, linestyle=(0, (4, 3)), label=_CHANCE)
        _percent_axis(axes)
        axes.set_xlim(-0.6, len(labels) - 0.4)
        axes.set_xticks(range(len(labels)), labels)
        if len(labels) > 4:
            axes.tick_params(axis="x", labelsize=8.5)
        axes.set_xlabel(f"{breakdown.name} ({breakdown.unit})")
        legend(axes, theme)

    alt = " ".join(
        f"{model.name}: "
        + ", ".join(
            f"{label} {breakdown.unit} {percent_words(row)}"
            for label, row in zip(labels, rows, strict=True)
        )
        + "."
        for model, rows in zip(content.models, series, strict=True)
    )
    name = f"by-{breakdown.name.replace(' ', '-')}"
    title = f"{metric} by {breakdown.name}"
    return drawn(name, title, f"{title}, with 95 % intervals. {alt} Chance: {chance:.1%}.", draw)


def _grouped_bars(
    axes: Axes, theme: Theme, models: Sequence[ModelContent], series: Sequence[Sequence[Row]]
) -> None:
    """Bars of each model beside each other, with intervals."""
    width = 0.62 / len(series)
    for column, (model, rows) in enumerate(zip(models, series, strict=True)):
        places = np.arange(len(rows)) + _offset(column, len(series), 0.62)
        values, errors = _with_errors(rows)
        axes.bar(
            places,
            values,
            width * 0.94,
            color=theme.models[column % len(theme.models)],
            label=_literal(model.name),
        )
        if np.any(errors):
            axes.errorbar(
                places,
                values,
                yerr=errors,
                fmt="none",
                ecolor=theme.ink,
                elinewidth=1.2,
                capsize=2.5,
                capthick=1.2,
            )


def _with_errors(rows: Sequence[Row]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Values (n,), and how far their intervals reach down and up (2, n); 0 without one."""
    values = np.array([value for value, _, _ in rows])
    down = [value - (value if low is None else low) for value, low, _ in rows]
    up = [(value if high is None else high) - value for value, _, high in rows]
    return values, np.maximum(np.array([down, up]), 0.0)


def _chance_marks(axes: Axes, theme: Theme, chance: Iterable[float]) -> None:
    """A dashed line across each group."""
    levels = list(chance)
    places = np.arange(len(levels))
    axes.hlines(
        levels,
        places - 0.42,
        places + 0.42,
        colors=theme.ink,
        linewidth=1.3,
        linestyles=(0, (3, 2)),
        label=_CHANCE,
    )


def _mark_best(axes: Axes, curve: TrainingCurve, values: Sequence[float], color: str) -> None:
    """A ring around the epoch that was kept."""
    at = curve.epochs.index(curve.best_epoch)
    axes.plot(
        [curve.best_epoch],
        [values[at]],
        marker="o",
        markersize=9,
        fillstyle="none",
        color=color,
        markeredgewidth=1.8,
        linestyle="none",
    )


def _explain_ring(axes: Axes, theme: Theme) -> None:
    """What the ring means, for the legend; nothing is drawn."""
    axes.plot(
        [],
        [],
        marker="o",
        markersize=7,
        fillstyle="none",
        color=theme.faint,
        markeredgewidth=1.6,
        linestyle="none",
        label="epoch kept",
    )


def _percent_axis(axes: Axes) -> None:
    axes.set_ylim(0.0, 1.0)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def _epoch_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.margins(x=0.06, y=0.1)
    axes.set_xlabel("epoch")


def legend(axes: Axes, theme: Theme, columns: int | None = None) -> None:
    """Above the plot, where it hides nothing; in as many columns as the names allow."""
    entries = zip(*axes.get_legend_handles_labels(), strict=True)
    handles, labels = zip(*sorted(entries, key=lambda entry: entry[1] == _CHANCE), strict=True)
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=columns or (2 if len(labels) in {4, 5} and len(str(labels)) > 60 else 3),
            frameon=False,
            fontsize=9,
            labelcolor=theme.ink,
            handlelength=1.8,
            columnspacing=1.4,
        )


def _offset(column: int, columns: int, width: float) -> float:
    """Where a model's mark stands beside the middle of its group."""
    return (column - (columns - 1) / 2) * width / columns


def _color_indices(models: Sequence[ModelContent]) -> dict[str, int]:
    return {model.name: index for index, model in enumerate(models)}


def _marker(curve: TrainingCurve) -> str:
    """Dots while there are few epochs."""
    return "o" if len(curve.epochs) <= 30 else ""


def _literal(text: str) -> str:
    """The text as it is: a `$` would start a formula, a leading `_` hide it from the legend."""
    return ("-" + text[1:] if text.startswith("_") else text).replace("$", r"\$")
