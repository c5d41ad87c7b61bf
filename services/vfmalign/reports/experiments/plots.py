"""Figures of an experiment. Each figure is a small self-contained SVG. The page arranges the figures to fit its width.

Axes: M models, T tasks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vfmalign.analysis.experiments.averages import SeedAverage
from vfmalign.analysis.experiments.cells import GAIN_NETWORKS, Cell
from vfmalign.analysis.experiments.label_efficiency import LabelPoint
from vfmalign.analysis.experiments.points import flag_symbols
from vfmalign.analysis.experiments.predictors import PredictorComparison
from vfmalign.client.formatting import ABSENT, format_correlation, format_number, to_text
from vfmalign.client.messages.common import Estimate
from vfmalign.reports.checks.plots import NETWORK_COLOURS, NETWORK_MARKERS
from vfmalign.reports.drawing.svg import ACCENT, FAINT, INK, PALETTE, figure_style, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE_WIDTH = 28
"""Characters that fit in one line of a panel's title."""
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")


@dataclass(frozen=True)
class MarkerStyle:
    """Marker of one model or of one task in all panels."""

    colour: str
    shape: str


def assign_marker_styles(names: Sequence[str]) -> dict[str, MarkerStyle]:
    """Assigns a colour and a shape to each name. Shapes distinguish more names, even in grey prints."""
    return {
        name: MarkerStyle(PALETTE[place % len(PALETTE)], _SHAPES[place % len(_SHAPES)])
        for place, name in enumerate(names)
    }


def draw_marker(marker: MarkerStyle) -> bytes:
    """Draws one marker for a legend."""
    with figure_style():
        figure = new_figure(0.2, 0.2, layout=None)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.plot(0, 0, marker=marker.shape, color=marker.colour, markersize=8, linestyle="none")
        axes.axis("off")
        return to_svg(figure)


def draw_scatter(
    averages: Sequence[SeedAverage], styles: Mapping[str, MarkerStyle], *, by: str, outcome: str, title: str
) -> bytes:
    """Draws shift against gain or convergence, in one task or of one model, with intervals.

    A point is hollow if the model does not beat the naive baseline or if the MMD² is saturated.

    Args:
        averages: points of this panel.
        styles: marker of each model or of each task.
        by: `model` or `task`: what the markers distinguish.
        outcome: `gain` or `convergence`.
        title: title of the panel.
    """
    with figure_style():
        figure = new_figure(2.75, 2.35)
        axes = figure.subplots()
        if outcome == "gain":
            axes.axhline(0, color=FAINT, linewidth=0.8)
        for average in averages:
            marker = styles[average.model_id if by == "model" else average.task]
            y = average.gain if outcome == "gain" else _to_percent(average.convergence)
            if average.shift.value is None or y.value is None:
                continue
            position: tuple[Any, Any] = (average.shift.value, y.value)
            hollow = average.flags.not_beaten or average.flags.saturated
            _draw_interval(axes, average.shift, y, marker, horizontal=True)
            _draw_interval(axes, average.shift, y, marker, horizontal=False)
            axes.plot(
                *position, marker=marker.shape, color=marker.colour, markersize=7, linestyle="none",
                markerfacecolor="white" if hollow else marker.colour, markeredgewidth=1.4, zorder=3,
            )  # fmt: skip
        label = "gain over specialised, %" if outcome == "gain" else "steps to 95 %, % of all"
        axes.set(title=textwrap.fill(title, TITLE_WIDTH), xlabel="shift, MMD²", ylabel=label)
        axes.margins(0.12)
        axes.locator_params(nbins=4)
        return to_svg(figure)


def draw_curves(cells: Sequence[Cell], limits: tuple[float, float]) -> bytes:
    """Draws the learning curves of one model and task, with a ring around the selected checkpoints.

    Args:
        cells: one cell per seed.
        limits: limits of the score axis. All models of a task have the same limits.
    """
    with figure_style():
        figure = new_figure(2.4, 1.75)
        axes = figure.subplots()
        for cell in cells:
            for curve in cell.curves:
                colour = NETWORK_COLOURS[curve.network]
                step_T = [point.step for point in curve.points]
                axes.plot(
                    step_T, [point.validation_score for point in curve.points], color=colour, linewidth=1.2,
                    marker=NETWORK_MARKERS[curve.network], markersize=2.5, alpha=1.0 if len(cells) == 1 else 0.75,
                )  # fmt: skip
                for point in curve.points:
                    if point.step == curve.selected_step:
                        axes.plot(
                            point.step, point.validation_score, marker="o", markersize=7, markerfacecolor="none",
                            markeredgecolor=colour, linestyle="none",
                        )  # fmt: skip
        axes.set(xlabel="optimiser step", ylim=limits)
        axes.locator_params(nbins=4)
        axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
        return to_svg(figure)


def draw_label_curve(points: Sequence[LabelPoint], train_size: int, limits: tuple[float, float]) -> bytes:
    """Draws the test scores of the three networks of one model and task against the number of training cases.

    Args:
        points: points of the panel, ascending by number of training cases.
        train_size: number of training cases for points with all cases.
        limits: limits of the score axis. All models of a task have the same limits.
    """
    counts = list(dict.fromkeys(point.train_cases or train_size for point in points))
    with figure_style():
        figure = new_figure(2.75, 2.1)
        axes = figure.subplots()
        for place, network in enumerate(GAIN_NETWORKS):
            # Moved sideways by a few per cent, so that the intervals of the networks do not cover each other.
            shift, colour = 1.0 + 0.03 * (place - 1), NETWORK_COLOURS[network]
            scored = [point for point in points if point.network == network and point.score.value is not None]
            x_K = [shift * (point.train_cases or train_size) for point in scored]
            y_K: list[Any] = [point.score.value for point in scored]
            axes.plot(x_K, y_K, color=colour, marker=NETWORK_MARKERS[network], markersize=4, linewidth=1.2)
            for x, point in zip(x_K, scored, strict=True):
                if (interval := point.score.interval) is not None:
                    axes.plot([x, x], [interval.lower, interval.upper], color=colour, linewidth=1.0, alpha=0.8)
        axes.set_xscale("log")
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()
        axes.set(xlabel="training cases", ylim=limits)
        axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
        return to_svg(figure)


def draw_heat_map(averages: Sequence[SeedAverage], quantity: str) -> bytes:
    """Draws a grid of models and tasks. Colours show shift (darker if larger) or gain (orange if negative)."""
    models = sorted({average.model_id for average in averages})
    tasks = sorted({average.task for average in averages})
    value_MT = np.full((len(models), len(tasks)), np.nan)
    symbols = {}
    for average in averages:
        estimate = average.shift if quantity == "shift" else average.gain
        index = models.index(average.model_id), tasks.index(average.task)
        value_MT[index] = np.nan if estimate.value is None else estimate.value
        symbols[index] = flag_symbols(average.flags)
    with figure_style():
        figure = new_figure(1.7 + 1.02 * len(tasks), 0.75 + 0.42 * len(models))
        axes = figure.subplots()
        known = value_MT[np.isfinite(value_MT)]
        largest = max(float(np.abs(known).max()) if known.size else 0.0, 1e-12)
        if quantity == "shift":
            low, name = min(0.0, float(known.min())) if known.size else 0.0, "Blues"
        else:
            low, name = -largest, "PuOr"
        axes.set_facecolor("#eeeeee")
        image = axes.imshow(value_MT, cmap=name, vmin=low, vmax=1.15 * largest, aspect="auto")
        for (row, column), value in np.ndenumerate(value_MT):
            dark = np.isfinite(value) and float(np.dot(image.to_rgba(value)[:3], (0.3, 0.59, 0.11))) < 0.5
            text = format_number(float(value)) if np.isfinite(value) else ABSENT
            axes.text(
                column, row, f"{text} {symbols.get((row, column), '')}".strip(), ha="center", va="center",
                color="white" if dark else INK,
            )  # fmt: skip
        axes.set_xticks(range(len(tasks)), [textwrap.fill(to_text(task), 15) for task in tasks])
        axes.set_yticks(range(len(models)), models)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return to_svg(figure)


def draw_predictors(comparison: PredictorComparison) -> bytes:
    """Draws each predictor's mean ρ with the gain. Ticks mark single tasks. Dashed lines: the range of chance."""
    shown = [predictor for predictor in comparison.predictors if predictor.rho is not None][::-1]
    with figure_style():
        figure = new_figure(5.4, 0.9 + 0.36 * len(shown))
        axes = figure.subplots()
        axes.axvline(0, color=FAINT, linewidth=0.8)
        if comparison.threshold is not None:
            for side in (-1, 1):
                axes.axvline(side * comparison.threshold, color="#888888", linewidth=0.9, linestyle="--")
        for row, predictor in enumerate(shown):
            rho: Any = predictor.rho
            rhos: list[Any] = [stratum.rho for stratum in predictor.strata if stratum.used]
            axes.plot(rhos, [row] * len(rhos), marker="|", color="#999999", markersize=9, linestyle="none")
            axes.plot(
                rho, row, marker="o", markersize=8, color=ACCENT, linestyle="none",
                markerfacecolor=ACCENT if predictor.competes else "white",
            )  # fmt: skip
            axes.annotate(
                format_correlation(rho),
                (1.04, row),
                xycoords=("axes fraction", "data"),
                va="center",
                annotation_clip=False,
            )
        # The arrow shows the expected sign of ρ.
        labels = [f"{predictor.label} {'←' if predictor.expected_sign < 0 else '→'}" for predictor in shown]
        axes.set_yticks(range(len(shown)), labels)
        axes.set(
            xlim=(-1.05, 1.05),
            ylim=(-0.6, len(shown) - 0.4),
            xlabel="mean rank correlation with the gain, within tasks",
        )
        axes.tick_params(axis="y", length=0)
        return to_svg(figure)


def score_limits(cells: Sequence[Cell]) -> tuple[float, float]:
    """Limits of an axis that shows all validation scores of a task."""
    return get_limits([point.validation_score for cell in cells for curve in cell.curves for point in curve.points])


def get_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that shows all scores, with a margin."""
    low, high = min(scores), max(scores)
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _to_percent(share: float | None) -> Estimate:
    return Estimate(value=None if share is None else 100 * share)


def _draw_interval(axes: Axes, x: Estimate, y: Estimate, marker: MarkerStyle, *, horizontal: bool) -> None:
    """Draws the interval of x or y; dashed if its coverage is unreliable."""
    interval = (x if horizontal else y).interval
    if interval is None:
        return
    ends = [interval.lower, interval.upper]
    other: list[Any] = [y.value if horizontal else x.value] * 2
    axes.plot(
        ends if horizontal else other, other if horizontal else ends, color=marker.colour, linewidth=1.0, alpha=0.8,
        linestyle="--" if interval.degenerate else "-", zorder=2,
    )  # fmt: skip
