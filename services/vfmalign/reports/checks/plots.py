"""Figures of a check's report. Each figure is a self-contained SVG image. Equal records give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vfmalign.analysis.checks.records import NetworkResult
from vfmalign.client.formatting import to_natural_order
from vfmalign.client.messages.common import Estimate
from vfmalign.client.messages.mmd import ComputeResponse, Projection
from vfmalign.core.domain.jobs import MetricSpec, Network
from vfmalign.reports.drawing.svg import ACCENT, FAINT, INK, figure_style, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours are from `svg.PALETTE`. Markers differ as well, for prints in grey.
NETWORK_COLOURS: Mapping[Network, str] = {"pretrained": "#0072B2", "scratch": "#D55E00", "specialised": "#009E73"}
NETWORK_MARKERS: Mapping[Network, str] = {"pretrained": "o", "scratch": "s", "specialised": "^"}
NETWORK_LABELS: Mapping[Network, str] = {
    "pretrained": "foundation model, fine-tuned",
    "scratch": "same architecture, random weights",
    "specialised": "specialised network",
}
FROZEN_LABELS: Mapping[Network, str] = {**NETWORK_LABELS, "pretrained": "foundation model, frozen"}
"""Labels in a check that freezes the encoder."""


def draw_shift(shift: ComputeResponse) -> bytes:
    """Draws MMD² per layer with its interval. Standardised and raw features have separate panels and scales."""
    with figure_style():
        figure = new_figure(7.2, 0.9 + 0.34 * len(shift.layers))
        axes = figure.subplots(1, 2, sharey=True)
        layers = sorted(shift.layers, key=lambda layer: to_natural_order(layer.layer), reverse=True)
        panels: tuple[tuple[str, list[Estimate | None]], ...] = (
            ("standardised features", [layer.standardised.mmd2 if layer.standardised else None for layer in layers]),
            ("raw features", [layer.raw.mmd2 for layer in layers]),
        )
        for panel, (title, estimates) in zip(axes, panels, strict=True):
            panel.axvline(0, color=FAINT, linewidth=0.8)
            for row, (layer, estimate) in enumerate(zip(layers, estimates, strict=True)):
                _draw_estimate(panel, estimate, row, primary=layer.layer == shift.primary_layer)
            panel.set(title=title, xlabel="MMD²", ylim=(-0.6, len(layers) - 0.4))
            panel.tick_params(axis="y", length=0)
            panel.locator_params(axis="x", nbins=5)
        axes[0].set_yticks(range(len(layers)), [layer.layer for layer in layers])
        for label, layer in zip(axes[0].get_yticklabels(), layers, strict=True):
            label.set_fontweight("bold" if layer.layer == shift.primary_layer else "normal")
        return to_svg(figure)


def draw_curves(
    networks: Sequence[NetworkResult],
    metric: MetricSpec,
    further: Sequence[NetworkResult] = (),
    labels: Mapping[Network, str] = NETWORK_LABELS,
) -> bytes:
    """Draws the validation score of each network by optimiser step, with a ring around its selected checkpoint.

    Thin lines show the networks of further training seeds.
    """
    with figure_style():
        figure = new_figure(7.2, 3.2)
        axes = figure.subplots()
        for result in further:
            points = [(point.step, point.validation_score) for point in result.curve]
            axes.plot(*zip(*points, strict=True), color=NETWORK_COLOURS[result.network], linewidth=0.6, alpha=0.6)
        for result in networks:
            colour = NETWORK_COLOURS[result.network]
            steps = [point.step for point in result.curve]
            scores = [point.validation_score for point in result.curve]
            axes.plot(
                steps, scores, color=colour, marker=NETWORK_MARKERS[result.network], markersize=3.5, linewidth=1.3,
                label=labels[result.network],
            )  # fmt: skip
            selected = next(p.validation_score for p in result.curve if p.epoch == result.selected_epoch)
            axes.plot(
                result.selected_step, selected, marker="o", markersize=9, markerfacecolor="none",
                markeredgecolor=colour, markeredgewidth=1.2, linestyle="none",
            )  # fmt: skip
        unit = f" ({metric.unit})" if metric.unit else ""
        better = "higher" if metric.higher_is_better else "lower"
        axes.set(xlabel="optimiser step", ylabel=f"validation {metric.title}{unit}\n({better} is better)")
        axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
        axes.legend(frameon=False, loc="best")
        return to_svg(figure)


def draw_projection(projection: Projection) -> bytes:
    """Draws each case before (hollow) and after (filled) fine-tuning, on the first two principal axes."""
    with figure_style():
        figure = new_figure(4.6, 4.0)
        axes = figure.subplots()
        for before, after in zip(projection.x, projection.y, strict=True):
            axes.plot([before.u, after.u], [before.v, after.v], color="#dddddd", linewidth=0.8, zorder=1)
        (u_before, v_before), (u_after, v_after) = (
            ([point.u for point in points], [point.v for point in points]) for points in (projection.x, projection.y)
        )
        axes.scatter(u_before, v_before, s=22, c="white", edgecolors=INK, linewidths=1.0, label="before", zorder=2)
        axes.scatter(u_after, v_after, s=22, c=ACCENT, label="after", zorder=3)
        names = ("first", "second")
        labels = [
            f"{name} principal direction ({100 * share:.0f} %)"
            for name, share in zip(names, projection.explained_variance, strict=False)
        ]
        axes.set(xlabel=labels[0] if labels else "", ylabel=labels[1] if len(labels) > 1 else "")
        axes.legend(frameon=False, loc="best")
        axes.set_aspect("equal", adjustable="datalim")
        return to_svg(figure)


def _draw_estimate(axes: Axes, estimate: Estimate | None, row: int, *, primary: bool) -> None:
    if estimate is None or estimate.value is None:
        axes.text(0, row, "absent", va="center", fontsize=8, color="#777777")
        return
    colour = ACCENT if primary else "#666666"
    if estimate.interval is not None:
        ends: list[Any] = [estimate.interval.lower, estimate.interval.upper]
        axes.plot(ends, [row, row], color=colour, linewidth=1.4, linestyle=_line_style(estimate))
    axes.plot(estimate.value, row, marker="o", color=colour, markersize=6 if primary else 4.5)


def _line_style(estimate: Estimate) -> str:
    """Line style of an interval: dashed if its coverage is unreliable."""
    return "--" if estimate.interval is not None and estimate.interval.degenerate else "-"
