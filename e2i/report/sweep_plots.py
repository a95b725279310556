"""The plots of a sweep's report, drawn as all others: on light paper and on dark.

Conventions: one color and one mark an arm, the same in all plots. The band around zero is the
margin of equivalence.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from e2i.report.plots import LIGHT, Plot, Theme, drawn, legend
from e2i.report.sweep_content import SweepContent
from e2i.sweep.arms import ARM_WORDS
from e2i.sweep.config import ALL_ARMS, ArmName
from e2i.sweep.outcome import ArmOutcome
from e2i.sweep.wording import points

_LIGHT_ARMS = ("#7a828e", "#1c2128", "#2b67b1", "#c4621b", "#d4a017", "#b03a5b", "#2f8558")
_DARK_ARMS = ("#8d97a5", "#e6e9ee", "#6ca6ec", "#e8985a", "#e6c35c", "#e27d9b", "#66bd8c")
_MARKS = ("o", "s", "D", "^", "v", "X", "P")


def draw_sweep_plots(content: SweepContent) -> tuple[Plot, ...]:
    """All plots of a sweep, in the order of the report."""
    return (
        _difference_plot(content),
        _seed_plot(content),
        *(_curve_plot(content, budget) for budget in content.config.budgets),
    )


def _difference_plot(content: SweepContent) -> Plot:
    rows = [one for one in content.outcomes if one.difference is not None]
    several = len(content.config.budgets) > 1
    labels = [_label(one, with_budget=several) for one in rows]

    def draw(axes: Axes, theme: Theme) -> None:
        margin = 100 * content.config.margin
        axes.axvspan(-margin, margin, color=theme.grid, zorder=0, label="margin of equivalence")
        axes.axvline(0, color=theme.faint, linewidth=1.0)
        for place, one in enumerate(rows):
            if one.difference is None:
                continue
            color = _color(one.arm, theme)
            low, high = 100 * one.difference.low, 100 * one.difference.high
            axes.plot([low, high], [place, place], color=color, linewidth=2.0)
            value = 100 * one.difference.value
            axes.plot([value], [place], marker=_mark(one.arm), color=color, markersize=6)
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x", color=theme.grid, linewidth=0.8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: points(value / 100)[:-2]))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.tick_params(axis="y", labelsize=8.5)
        axes.set_xlabel("points, less the MLP")
        legend(axes, theme)

    alt = " ".join(
        f"{label}: {points(one.difference.value)} points "
        f"({points(one.difference.low)} to {points(one.difference.high)}), "
        f"{one.difference.reading}."
        for label, one in zip(labels, rows, strict=True)
        if one.difference is not None
    )
    title = "Difference to the MLP on the embedding"
    height = max(2.2, 0.9 + 0.26 * len(rows))
    return drawn("differences", title, f"Dot plot with 95 % intervals. {alt}", draw, (4.0, height))


def _seed_plot(content: SweepContent) -> Plot:
    arms = content.config.arms
    budgets = content.config.budgets
    metric = content.config.metric
    rows = [(one, f"{ARM_WORDS[one.arm]}") for one in content.at(budgets[0])]

    def draw(axes: Axes, theme: Theme) -> None:
        for column, budget in enumerate(budgets):
            for place, one in enumerate(content.at(budget)):
                scores = 100 * np.array(one.seed_scores(metric))
                height = place + (column - (len(budgets) - 1) / 2) * 0.32 / max(1, len(budgets) - 1)
                color = theme.models[column % len(theme.models)]
                label = f"{budget:,} parameters" if place == 0 else None
                axes.plot(
                    scores,
                    np.full(len(scores), height),
                    linestyle="none",
                    marker="o",
                    markersize=4.5,
                    alpha=0.75,
                    color=color,
                    label=label,
                )
        axes.set_yticks(range(len(arms)), [label for _, label in rows])
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.grid(visible=True, axis="x", color=theme.grid, linewidth=0.8)
        axes.tick_params(axis="y", labelsize=8.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.set_xlabel(f"{content.metric}, %")
        legend(axes, theme)

    alt = " ".join(
        f"{_label(one, with_budget=True)}: "
        + ", ".join(f"{score:.1%}" for score in one.seed_scores(metric))
        + "."
        for one in content.outcomes
    )
    height = max(2.4, 1.0 + 0.34 * len(arms))
    return drawn("seeds", "Each fresh seed", f"Dot plot. {alt}", draw, (4.0, height))


def _curve_plot(content: SweepContent, budget: int) -> Plot:
    outcomes = content.at(budget)

    def draw(axes: Axes, theme: Theme) -> None:
        for one in outcomes:
            axes.plot(
                range(1, len(one.curve) + 1),
                [100 * value for value in one.curve],
                color=_color(one.arm, theme),
                marker=_mark(one.arm),
                markersize=3.5,
                linewidth=1.5,
                label=ARM_WORDS[one.arm],
            )
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axes.margins(x=0.05, y=0.08)
        axes.set_xlabel("trials")
        axes.set_ylabel(f"validation {content.metric}, %")
        legend(axes, theme, columns=2)

    alt = " ".join(
        f"{ARM_WORDS[one.arm]}: from {one.curve[0]:.1%} to {one.curve[-1]:.1%}." for one in outcomes
    )
    return drawn(
        f"trials-{budget}",
        f"Best of so many trials, {budget:,} parameters",
        f"Line chart: expected best validation score by number of trials. {alt}",
        draw,
        (4.0, 3.6),
    )


def _label(one: ArmOutcome, *, with_budget: bool) -> str:
    """Arm and budget, short: `CNN, 128 px · 400k`."""
    return f"{ARM_WORDS[one.arm]} · {_short(one.budget)}" if with_budget else ARM_WORDS[one.arm]


def _short(count: int) -> str:
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return str(count)


def _color(arm: ArmName, theme: Theme) -> str:
    colors = _LIGHT_ARMS if theme is LIGHT else _DARK_ARMS
    return colors[ALL_ARMS.index(arm)]


def _mark(arm: ArmName) -> str:
    return _MARKS[ALL_ARMS.index(arm)]
