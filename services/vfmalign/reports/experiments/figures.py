"""Figures of an experiment's page: plots as embedded images with alternative text, grouped as the page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from vfmalign.analysis.experiments.averages import SeedAverage
from vfmalign.analysis.experiments.cells import Cell
from vfmalign.analysis.experiments.claims import Claim, ClaimName
from vfmalign.analysis.experiments.points import SHIFT
from vfmalign.analysis.experiments.report import ExperimentReport
from vfmalign.analysis.experiments.strata import DESIGN_LABELS, StratumResult, get_stratum_and_unit
from vfmalign.client.formatting import format_correlation, to_text
from vfmalign.reports.checks.plots import NETWORK_COLOURS, NETWORK_LABELS, NETWORK_MARKERS
from vfmalign.reports.experiments import plots
from vfmalign.reports.templating import to_data_url


@dataclass(frozen=True)
class EmbeddedImage:
    """An image as a `data:` URL, with alternative text."""

    data: str
    alt: str
    title: str = ""


@dataclass(frozen=True)
class ImageGroup:
    """Images under one heading, with their legend."""

    heading: str
    images: tuple[EmbeddedImage, ...]
    legend: tuple[EmbeddedImage, ...] = ()


def embed_scatter_plots(report: ExperimentReport, outcome: ClaimName) -> list[ImageGroup]:
    """Draws shift against an outcome.

    The first group has one panel per task. The second group has one panel per model.
    """
    groups = []
    for design in DESIGN_LABELS:
        claim = next(
            claim
            for claim in report.claims
            if (claim.claim, claim.design, claim.shift_measure) == (outcome, design, SHIFT.name)
        )
        styles = plots.assign_marker_styles(
            sorted({get_stratum_and_unit(average, design)[1] for average in report.averages})
        )
        images = tuple(
            _embed_scatter_plot(
                [average for average in report.averages if get_stratum_and_unit(average, design)[0] == stratum.name],
                claim,
                stratum,
                styles,
            )
            for stratum in claim.strata
            if stratum.pairs
        )
        legend = tuple(_embed_svg(plots.draw_marker(style), "", to_text(name)) for name, style in styles.items())
        if images:
            groups.append(ImageGroup(DESIGN_LABELS[design], images, legend))
    return groups


def embed_heat_maps(report: ExperimentReport) -> list[EmbeddedImage]:
    """Draws the shift and the gain of every model in every task."""
    if not report.averages:
        return []
    return [
        _embed_svg(
            plots.draw_heat_map(report.averages, quantity),
            f"{title} of every model in every task; the table below contains the same numbers",
            title,
        )
        for quantity, title in (("shift", "Shift, MMD²"), ("gain", "Gain over the specialised network, %"))
    ]


def embed_curves(report: ExperimentReport) -> list[ImageGroup]:
    """Draws learning curves, with one group per task and one panel per model."""
    groups = []
    for task, task_cells in groupby(report.main_cells, key=lambda cell: cell.task):
        cells = list(task_cells)
        limits = plots.score_limits(cells)
        images = []
        for model, model_cells in groupby(cells, key=lambda cell: cell.model_id):
            alt = f"{to_text(task)}, {model}: validation score of the three networks against optimiser steps"
            images.append(_embed_svg(plots.draw_curves(list(model_cells), limits), alt, model))
        groups.append(ImageGroup(f"{to_text(task)}: {describe_metric(cells[0])}", tuple(images)))
    return groups


def embed_label_curves(report: ExperimentReport) -> list[ImageGroup]:
    """Draws test scores against the number of training cases, with one group per task and one panel per model."""
    curve = report.label_efficiency
    if curve is None:
        return []
    metrics = {cell.task: describe_metric(cell) for cell in report.cells}
    groups = []
    for task, task_points in groupby(curve.points, key=lambda point: point.task):
        points = list(task_points)
        intervals = [point.score.interval for point in points if point.score.interval is not None]
        ends = [end for interval in intervals for end in (interval.lower, interval.upper)]
        scores = [*ends, *(point.score.value for point in points if point.score.value is not None)]
        limits = plots.get_limits(scores or [0.0])
        images = []
        for model, model_points in groupby(points, key=lambda point: point.model_id):
            alt = f"{to_text(task)}, {model}: test score of the three networks against the number of training cases"
            drawing = plots.draw_label_curve(list(model_points), curve.train_size, limits)
            images.append(_embed_svg(drawing, alt, model))
        groups.append(ImageGroup(f"{to_text(task)}: {metrics[task]}", tuple(images)))
    return groups


def embed_network_legend() -> list[EmbeddedImage]:
    """Legend of the learning curves."""
    return [
        _embed_svg(plots.draw_marker(plots.MarkerStyle(colour, NETWORK_MARKERS[network])), "", NETWORK_LABELS[network])
        for network, colour in NETWORK_COLOURS.items()
    ]


def embed_predictors(report: ExperimentReport) -> EmbeddedImage | None:
    """Draws the rank correlation of each predictor with the gain. Returns None if there are no predictors."""
    shown = [predictor for predictor in report.prediction.predictors if predictor.rho is not None]
    if not shown:
        return None
    values = ", ".join(f"{predictor.label} {format_correlation(predictor.rho)}" for predictor in shown)
    return _embed_svg(plots.draw_predictors(report.prediction), f"Mean rank correlation with the gain: {values}")


def describe_metric(cell: Cell) -> str:
    """Name, unit and direction of the main metric of a cell's task."""
    metric = cell.metric
    unit = f" in {metric.unit}" if metric.unit else ""
    return f"{metric.title}{unit}, {'higher' if metric.higher_is_better else 'lower'} is better"


def _embed_scatter_plot(
    averages: Sequence[SeedAverage], claim: Claim, stratum: StratumResult, styles: dict[str, plots.MarkerStyle]
) -> EmbeddedImage:
    within_task = claim.design == "within_task"
    name = to_text(stratum.name) if within_task else stratum.name
    unit = "model" if within_task else "task"
    rho = format_correlation(stratum.rho)
    image = plots.draw_scatter(averages, styles, by=unit, outcome=claim.claim, title=f"{name}, ρ\u00a0{rho}")
    outcome = "gain" if claim.claim == "gain" else "steps to 95 %"
    return _embed_svg(image, f"{name}: {outcome} against shift, {stratum.pairs} {unit}s, rank correlation {rho}")


def _embed_svg(image: bytes, alt: str, title: str = "") -> EmbeddedImage:
    return EmbeddedImage(to_data_url("image/svg+xml", image), alt, title)
