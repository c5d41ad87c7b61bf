"""An experiment's drawings, each a self-contained SVG: small panels that the page lays out by its width.

Knows matplotlib and the experiment's records. Knows nothing of HTML or storage.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vfmalign.finetuning.analysis.estimates import Estimate
from vfmalign.finetuning.experiments.analysis.cells import Cell
from vfmalign.finetuning.experiments.analysis.conclusions import Average
from vfmalign.finetuning.experiments.analysis.early_prediction import EarlyStep
from vfmalign.finetuning.experiments.analysis.points import signs
from vfmalign.finetuning.experiments.analysis.predictors import Prediction
from vfmalign.finetuning.reports.formatting import fixed, number, words
from vfmalign.finetuning.reports.plots import COLOURS, MARKERS
from vfmalign.finetuning.reports.svg import ACCENT, FAINT, INK, PALETTE, empty, style, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE_WIDTH = 28
"""Characters that a panel's title has room for in one line."""
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")


@dataclass(frozen=True)
class Look:
    """How one model, or one task, is drawn everywhere."""

    colour: str
    shape: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A colour and a shape for each name; shapes differ where colours run out, and in grey."""
    return {
        name: Look(PALETTE[place % len(PALETTE)], _SHAPES[place % len(_SHAPES)]) for place, name in enumerate(names)
    }


def draw_look(look: Look) -> bytes:
    """One entry of a legend."""
    with style():
        figure = empty(0.2, 0.2, layout=None)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.plot(0, 0, marker=look.shape, color=look.colour, markersize=8, linestyle="none")
        axes.axis("off")
        return svg(figure)


def draw_scatter(
    averages: Sequence[Average], looked: Mapping[str, Look], *, by: str, outcome: str, title: str
) -> bytes:
    """Shift against gain or convergence in one task (or of one model), with intervals; marked points are hollow.

    Args:
        averages: of this panel.
        looked: by model, or by task.
        by: `model` or `task`, what the marks tell apart.
        outcome: `gain` or `convergence`.
        title: of the panel.
    """
    with style():
        figure = empty(2.75, 2.35)
        axes = figure.subplots()
        if outcome == "gain":
            axes.axhline(0, color=FAINT, linewidth=0.8)
        for one in averages:
            look = looked[getattr(one, by)]
            y = one.gain if outcome == "gain" else _percent(one.convergence)
            if one.shift.value is None or y.value is None:
                continue
            at: tuple[Any, Any] = (one.shift.value, y.value)
            hollow = one.marks.not_beaten or one.marks.saturated
            _bar(axes, one.shift, y, look, across=True)
            _bar(axes, one.shift, y, look, across=False)
            axes.plot(
                *at, marker=look.shape, color=look.colour, markersize=7, linestyle="none",
                markerfacecolor="white" if hollow else look.colour, markeredgewidth=1.4, zorder=3,
            )  # fmt: skip
        label = "gain over specialised, %" if outcome == "gain" else "steps to 95 %, % of all"
        axes.set(title=textwrap.fill(title, TITLE_WIDTH), xlabel="shift, MMD²", ylabel=label)
        axes.margins(0.12)
        axes.locator_params(nbins=4)
        return svg(figure)


def draw_curves(cells: Sequence[Cell], limits: tuple[float, float]) -> bytes:
    """Validation of every network and seed of one model and task; the selected checkpoint is ringed.

    Args:
        cells: one for each seed.
        limits: of the score, shared by the models of the task.
    """
    with style():
        figure = empty(2.4, 1.75)
        axes = figure.subplots()
        for cell in cells:
            for curve in cell.curves:
                colour = COLOURS[curve.network]
                step_T = [point.step for point in curve.points]
                axes.plot(
                    step_T, [point.val_score for point in curve.points], color=colour, linewidth=1.2,
                    marker=MARKERS[curve.network], markersize=2.5, alpha=1.0 if len(cells) == 1 else 0.75,
                )  # fmt: skip
                for point in curve.points:
                    if point.step == curve.selected_step:
                        axes.plot(
                            point.step, point.val_score, marker="o", markersize=7, markerfacecolor="none",
                            markeredgecolor=colour, linestyle="none",
                        )  # fmt: skip
        axes.set(xlabel="optimiser step", ylim=limits)
        axes.locator_params(nbins=4)
        axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
        return svg(figure)


def draw_heat_map(averages: Sequence[Average], quantity: str) -> bytes:
    """Models × tasks: shift (darker is more) or gain (orange is below zero, violet above), with signs of marks."""
    models = sorted({one.model for one in averages})
    tasks = sorted({one.task for one in averages})
    value_MT = np.full((len(models), len(tasks)), np.nan)
    marks = {}
    for one in averages:
        found = one.shift if quantity == "shift" else one.gain
        place = models.index(one.model), tasks.index(one.task)
        value_MT[place] = np.nan if found.value is None else found.value
        marks[place] = signs(one.marks)
    with style():
        figure = empty(1.7 + 1.02 * len(tasks), 0.75 + 0.42 * len(models))
        axes = figure.subplots()
        known = value_MT[np.isfinite(value_MT)]
        largest = max(float(np.abs(known).max()) if known.size else 0.0, 1e-12)
        low, name = (min(0.0, float(known.min())) if known.size else 0.0, "Blues") if quantity == "shift" else (
            -largest, "PuOr")  # fmt: skip
        axes.set_facecolor("#eeeeee")
        image = axes.imshow(value_MT, cmap=name, vmin=low, vmax=1.15 * largest, aspect="auto")
        for (row, column), value in np.ndenumerate(value_MT):
            dark = np.isfinite(value) and float(np.dot(image.to_rgba(value)[:3], (0.3, 0.59, 0.11))) < 0.5
            text = number(float(value)) if np.isfinite(value) else "–"
            axes.text(
                column, row, f"{text} {marks.get((row, column), '')}".strip(), ha="center", va="center",
                color="white" if dark else INK,
            )  # fmt: skip
        axes.set_xticks(range(len(tasks)), [textwrap.fill(words(task), 14) for task in tasks])
        axes.set_yticks(range(len(models)), models)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return svg(figure)


def draw_predictors(prediction: Prediction) -> bytes:
    """Mean ρ with the gain of every predictor, its tasks as small ticks, and the reach of chance as dashed lines."""
    shown = [one for one in prediction.predictors if one.rho is not None][::-1]
    with style():
        figure = empty(5.4, 0.9 + 0.36 * len(shown))
        axes = figure.subplots()
        axes.axvline(0, color=FAINT, linewidth=0.8)
        if prediction.threshold is not None:
            for side in (-1, 1):
                axes.axvline(side * prediction.threshold, color="#888888", linewidth=0.9, linestyle="--")
        for place, one in enumerate(shown):
            rho: Any = one.rho
            found: list[Any] = [part.rho for part in one.strata if part.used]
            axes.plot(found, [place] * len(found), marker="|", color="#999999", markersize=9, linestyle="none")
            axes.plot(
                rho, place, marker="o", markersize=8, color=ACCENT, linestyle="none",
                markerfacecolor=ACCENT if one.competes else "white",
            )  # fmt: skip
            axes.annotate(
                fixed(rho), (1.04, place), xycoords=("axes fraction", "data"), va="center", annotation_clip=False
            )
        # An arrow before the name: where ρ should lie.
        labels = [f"{one.label} {'←' if one.expected < 0 else '→'}" for one in shown]
        axes.set_yticks(range(len(shown)), labels)
        axes.set(
            xlim=(-1.05, 1.05),
            ylim=(-0.6, len(shown) - 0.4),
            xlabel="mean rank correlation with the gain, within tasks",
        )
        axes.tick_params(axis="y", length=0)
        return svg(figure)


def draw_early(steps: Sequence[EarlyStep]) -> bytes:
    """How well the final gain was ranked from what was known at each step."""
    sides = (
        ("rho_shift", "MMD² alone", PALETTE[0], "o", "-"),
        ("rho_score", "validation score alone", PALETTE[1], "s", "--"),
        ("rho_both", "both", PALETTE[2], "^", ":"),
    )
    with style():
        figure = empty(5.4, 2.5)
        axes = figure.subplots()
        axes.axhline(0, color=FAINT, linewidth=0.8)
        for name, label, colour, shape, line in sides:
            known: list[Any] = [(one.step, getattr(one, name)) for one in steps if getattr(one, name) is not None]
            if known:
                axes.plot(*zip(*known, strict=True), color=colour, marker=shape, linestyle=line, label=label)
        axes.set(xlabel="optimiser step of the probe", ylabel="mean ρ, task left out", ylim=(-1.08, 1.08))
        axes.set_xticks([one.step for one in steps])
        figure.legend(loc="outside right upper", frameon=False)
        return svg(figure)


def score_limits(cells: Sequence[Cell]) -> tuple[float, float]:
    """Limits that hold every validation score of a task."""
    scores = [point.val_score for cell in cells for curve in cell.curves for point in curve.points]
    low, high = min(scores), max(scores)
    space = 0.06 * (high - low) or 1.0
    return low - space, high + space


def _percent(share: float | None) -> Estimate:
    return Estimate(value=None if share is None else 100 * share)


def _bar(axes: Axes, x: Estimate, y: Estimate, look: Look, *, across: bool) -> None:
    """An interval along x or y; dashed where its coverage is not to be relied on."""
    interval = (x if across else y).interval
    if interval is None:
        return
    ends = [interval.lower, interval.upper]
    other: list[Any] = [y.value if across else x.value] * 2
    axes.plot(
        ends if across else other, other if across else ends, color=look.colour, linewidth=1.0, alpha=0.8,
        linestyle="--" if interval.degenerate else "-", zorder=2,
    )  # fmt: skip
