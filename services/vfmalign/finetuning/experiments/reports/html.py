"""An experiment's report: one HTML page that needs nothing else, and a table of its cells.

Knows the records of the experiment and the template. Knows nothing of S3, gRPC or how numbers are made.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import jinja2

from vfmalign.finetuning.experiments.analysis.cells import Cell
from vfmalign.finetuning.experiments.analysis.claims import (
    MIN_UNITS,
    OUTCOME,
    PLACE,
    SIGNIFICANT,
    STATEMENT,
    Claim,
    Design,
    StratumResult,
)
from vfmalign.finetuning.experiments.analysis.conclusions import Average, ExperimentReport, conclude
from vfmalign.finetuning.experiments.analysis.points import MARKS, PREDICTORS, share_of_steps, signs
from vfmalign.finetuning.experiments.reports import plots
from vfmalign.finetuning.reports import plots as check_plots
from vfmalign.finetuning.reports.formatting import (
    ABSENT,
    data_url,
    fixed,
    number,
    p_value,
    sentence,
    span,
    steps,
    value_of,
    words,
)
from vfmalign.finetuning.reports.svg import PALETTE

__all__ = ["ExperimentReport", "conclude", "render", "to_csv"]

_ACRONYMS = frozenset({"psnr", "ssim", "auroc", "hd95"})
_COLOURS = {
    "supports": PALETTE[2],
    "contradicts": PALETTE[1],
    "no_clear_relation": "#888888",
    "cannot support or contradict": "#b58900",
}


@dataclass(frozen=True)
class Picture:
    """A figure as an address that holds it, and what it shows in words."""

    data: str
    alt: str
    title: str = ""


@dataclass(frozen=True)
class Panels:
    """Small pictures that belong together, with their legend."""

    heading: str
    pictures: tuple[Picture, ...]
    legend: tuple[Picture, ...] = ()


def render(report: ExperimentReport) -> bytes:
    """The report as UTF-8 HTML."""
    html = _template().render(
        r=report,
        banner="Rehearsal on phantoms: not evidence" if report.phantom else "",
        models=sorted({one.model for one in report.averages}),
        tasks=sorted({one.task for one in report.averages}),
        seeds=sorted({cell.seed for cell in report.cells}),
        verdicts=[claim for claim in report.claims if claim.verdict is not None],
        scatter={outcome: _scatter(report, outcome) for outcome in OUTCOME},
        heat_maps=_heat_maps(report),
        curves=_curves(report),
        networks=_networks(),
        metrics={cell.task: _metric(cell) for cell in report.cells},
        naive_baseline={cell.task: cell.naive_baseline for cell in report.cells},
        predictors=_predictors(report),
        early=_early(report),
        statements=STATEMENT,
        places=PLACE,
        colours=_COLOURS,
        labels={one.name: one.label for one in PREDICTORS},
        shown_marks=_shown_marks(report),
        min_units=MIN_UNITS,
        significant=SIGNIFICANT,
        absent_numbers=absent_numbers(report),
        level=f"{100 * report.level:.0f} %",
    )
    return html.encode()


def to_csv(report: ExperimentReport) -> bytes:
    """One row per cell, those without numbers last with the reason."""
    measures = sorted({name for cell in report.cells for name in cell.measures})
    rows = [_row(cell, measures) for cell in report.cells]
    rows += [
        {"model": one.model, "task": one.task, "seed": one.seed, "check": one.check, "missing": one.reason}
        for one in report.missing
    ]
    columns = list(rows[0]) if report.cells else ["model", "task", "seed", "check"]
    out = io.StringIO()
    writer = csv.DictWriter(out, [*columns, *([] if "missing" in columns else ["missing"])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def absent_numbers(report: ExperimentReport) -> list[str]:
    """Why a model has no number in a task, each reason once."""
    found = []
    for one in report.averages:
        where = f"{one.model}, {words(one.task)}"
        named = (
            ("gain", one.gain.absent_reason if one.gain.value is None else ""),
            ("shift", one.shift.absent_reason if one.shift.value is None else ""),
            ("shift ratio", one.shift_ratio.absent_reason if one.shift_ratio.value is None else ""),
            ("steps to 95 %", one.convergence_reason if one.convergence is None else ""),
        )
        found += [f"{where}: no {name}: {reason}" for name, reason in named if reason]
        found += [
            f"{where}: {count} of {one.seeds} seeds have no {words(name)} and are left out of its mean"
            for name, count in one.without.items()
            if count < one.seeds
        ]
    return found


def _row(cell: Cell, measures: Sequence[str]) -> dict[str, object]:
    share = share_of_steps(cell)
    row: dict[str, object] = {
        "model": cell.model, "task": cell.task, "seed": cell.seed, "check": cell.check,
        "architecture": cell.architecture, "objective": cell.objective, "phantom": cell.phantom,
        "patients": cell.patients, "layer": cell.layer, "mmd2_std": cell.shift.value,
        "mmd2_std_lower": cell.shift.interval.lower if cell.shift.interval else None,
        "mmd2_std_upper": cell.shift.interval.upper if cell.shift.interval else None,
        "mmd2_std_se": cell.shift_se, "shift_ratio": cell.shift_ratio.value, "metric": cell.metric.name,
        "score": cell.score, "baseline": cell.baseline, "rpg_specialised": cell.gain.value,
        "rpg_specialised_lower": cell.gain.interval.lower if cell.gain.interval else None,
        "rpg_specialised_upper": cell.gain.interval.upper if cell.gain.interval else None,
        "difference_specialised": cell.gain_difference.value, "rpg_scratch": cell.gain_scratch.value,
        "steps_to_95": cell.steps_to_95.value, "censored": cell.steps_to_95.censored, "budget": cell.budget,
        "share_of_steps": None if share is None or cell.steps_to_95.censored else share,
        "weight_change": cell.weight_change,
    }  # fmt: skip
    row |= {name: cell.measures[name].value if name in cell.measures else None for name in measures}
    return row | {name: getattr(cell.marks, name) for name in MARKS}


def _scatter(report: ExperimentReport, outcome: str) -> list[Panels]:
    """Panels of either design, with their legends."""
    designs: tuple[tuple[Design, str, str], ...] = (("within_task", "task", "model"), ("within_model", "model", "task"))
    groups = []
    for design, by, mark in designs:
        claim = next(one for one in report.claims if (one.claim, one.design, one.x) == (outcome, design, "mmd2_std"))
        looked = plots.looks(sorted({getattr(one, mark) for one in report.averages}))
        pictures = [
            _panel([one for one in report.averages if getattr(one, by) == stratum.name], claim, stratum, looked)
            for stratum in claim.strata
            if stratum.pairs
        ]
        legend = tuple(
            Picture(data_url("image/svg+xml", plots.draw_look(look)), "", words(name)) for name, look in looked.items()
        )
        if pictures:
            groups.append(Panels(PLACE[design], tuple(pictures), legend))
    return groups


def _panel(mine: Sequence[Average], claim: Claim, stratum: StratumResult, looked: dict[str, plots.Look]) -> Picture:
    name = words(stratum.name) if claim.design == "within_task" else stratum.name
    unit = "model" if claim.design == "within_task" else "task"
    drawn = plots.draw_scatter(mine, looked, by=unit, outcome=claim.claim, title=f"{name}, ρ\u00a0{fixed(stratum.rho)}")
    what = "gain" if claim.claim == "gain" else "steps to 95 %"
    return Picture(
        data_url("image/svg+xml", drawn),
        f"{name}: {what} against shift, {stratum.pairs} {unit}s, rank correlation {fixed(stratum.rho)}",
    )


def _heat_maps(report: ExperimentReport) -> list[Picture]:
    if not report.averages:
        return []
    return [
        Picture(
            data_url("image/svg+xml", plots.draw_heat_map(report.averages, quantity)),
            f"{title} of every model in every task; the table below has the same numbers",
            title,
        )
        for quantity, title in (("shift", "Shift, MMD²"), ("gain", "Gain over the specialised network, %"))
    ]


def _curves(report: ExperimentReport) -> list[Panels]:
    """One row of panels for each task, one panel for each model."""
    rows = []
    for task, of_task in groupby(report.cells, key=lambda cell: cell.task):
        cells = list(of_task)
        limits = plots.score_limits(cells)
        pictures = []
        for model, of_model in groupby(cells, key=lambda cell: cell.model):
            drawn = plots.draw_curves(list(of_model), limits)
            alt = f"{words(task)}, {model}: validation score of the three networks against optimiser steps"
            pictures.append(Picture(data_url("image/svg+xml", drawn), alt, model))
        rows.append(Panels(f"{words(task)}: {_metric(cells[0])}", tuple(pictures)))
    return rows


def _metric(cell: Cell) -> str:
    """Name, unit and direction of a task's main number."""
    metric = cell.metric
    name = " ".join(word.upper() if word in _ACRONYMS else word for word in metric.name.split("_"))
    unit = f" in {metric.unit}" if metric.unit else ""
    return f"{name}{unit}, {'higher' if metric.higher_is_better else 'lower'} is better"


def _networks() -> list[Picture]:
    return [
        Picture(
            data_url("image/svg+xml", plots.draw_look(plots.Look(colour, check_plots.MARKERS[network]))),
            "",
            check_plots.NAMES[network],
        )
        for network, colour in check_plots.COLOURS.items()
    ]


def _predictors(report: ExperimentReport) -> Picture | None:
    shown = [one for one in report.prediction.predictors if one.rho is not None]
    if not shown:
        return None
    values = ", ".join(f"{one.label} {fixed(one.rho)}" for one in shown)
    return Picture(
        data_url("image/svg+xml", plots.draw_predictors(report.prediction)),
        f"Mean rank correlation with the gain: {values}",
    )


def _early(report: ExperimentReport) -> Picture | None:
    known = [one for one in report.early.steps if one.rho_score is not None]
    if not known:
        return None
    values = "; ".join(
        f"step {one.step}: MMD² {fixed(one.rho_shift)}, validation {fixed(one.rho_score)}, both {fixed(one.rho_both)}"
        for one in known
    )
    return Picture(
        data_url("image/svg+xml", plots.draw_early(known)), f"Rank correlation of predicted and final gain. {values}"
    )


def _shown_marks(report: ExperimentReport) -> list[tuple[str, str]]:
    """Marks that some cell carries, with what they say."""
    return [
        (sign, text) for name, (sign, text) in MARKS.items() if any(getattr(cell.marks, name) for cell in report.cells)
    ]


def _share(one: Average) -> str:
    if one.censored:
        return "> 100 %"
    return ABSENT if one.convergence is None else f"{100 * one.convergence:.0f} %"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vfmalign.finetuning.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "grouped": lambda value: f"{value:,}".replace(",", "\u202f") if value < 1e12 else f"{value:.2g}",
        "number": number,
        "p": p_value,
        "rho": fixed,
        "sentence": sentence,
        "share": _share,
        "signs": signs,
        "span": span,
        "steps": steps,
        "value": value_of,
        "upper_first": lambda text: f"{text[:1].upper()}{text[1:]}",
        "words": words,
    }
    return environment.get_template("experiment.html.j2")
