"""HTML report of an experiment: a single self-contained page."""

from __future__ import annotations

from collections.abc import Callable

from vfmalign.analysis.experiments.answers import VERDICT_TEXTS
from vfmalign.analysis.experiments.averages import SeedAverage
from vfmalign.analysis.experiments.claims import CLAIM_STATEMENTS, OUTCOMES
from vfmalign.analysis.experiments.label_efficiency import LabelEfficiency
from vfmalign.analysis.experiments.points import FLAG_SYMBOLS, PREDICTORS, flag_symbols
from vfmalign.analysis.experiments.report import ExperimentReport
from vfmalign.analysis.experiments.strata import DESIGN_LABELS, MIN_UNITS, SIGNIFICANCE_LEVEL
from vfmalign.client.formatting import ABSENT, to_text
from vfmalign.reports.checks.plots import NETWORK_LABELS
from vfmalign.reports.experiments import figures
from vfmalign.reports.experiments.first_screen import make_first_screen
from vfmalign.reports.templating import load_template


def render(report: ExperimentReport) -> bytes:
    """Renders the report as UTF-8 HTML."""
    filters: dict[str, Callable[..., str]] = {
        "share": _format_step_share,
        "symbols": flag_symbols,
    }
    template = load_template("experiment.html.j2", filters)
    html = template.render(
        r=report,
        first=make_first_screen(report),
        models=sorted({average.model_id for average in report.averages}),
        licences={cell.model_id: cell.licence or "licence unknown" for cell in report.cells},
        tasks=sorted({average.task for average in report.averages}),
        patients=_describe_patients(report),
        seeds=sorted({cell.seed for cell in report.cells}),
        verdicts=[claim for claim in report.claims if claim.verdict is not None],
        scatter_plots={outcome: figures.embed_scatter_plots(report, outcome) for outcome in OUTCOMES},
        heat_maps=figures.embed_heat_maps(report),
        curves=figures.embed_curves(report),
        label_curves=figures.embed_label_curves(report),
        network_labels=NETWORK_LABELS,
        main_cells=describe_main_cells(report.label_efficiency),
        network_legend=figures.embed_network_legend(),
        metrics={cell.task: figures.describe_metric(cell) for cell in report.cells},
        naive_baselines={cell.task: cell.naive_baseline for cell in report.cells},
        predictors=figures.embed_predictors(report),
        statements=CLAIM_STATEMENTS,
        designs=DESIGN_LABELS,
        controls=[average for average in report.averages if average.controls],
        frozen=[average for average in report.averages if average.frozen_score is not None],
        labels={quantity.name: quantity.label for quantity in PREDICTORS},
        shown_flags=_list_flags(report),
        min_units=MIN_UNITS,
        significance_level=SIGNIFICANCE_LEVEL,
        absent_numbers=list_absent_numbers(report),
        verdict_texts=VERDICT_TEXTS,
        interval_scope="seeds and patients"
        if any(one.seeds > 1 for one in report.averages)
        else "patients, not training",
        level=f"{100 * report.level:.0f} %",
    )
    return html.encode()


def describe_main_cells(curve: LabelEfficiency | None) -> str:
    """States which cells the answers use, if cells differ in their number of training cases; else empty."""
    if curve is None:
        return ""
    cases = f"{curve.main:,} training cases" if curve.main else f"all {curve.train_size:,} training cases"
    return f"Answers, verdicts and correlations use only the cells with {cases}"


def list_absent_numbers(report: ExperimentReport) -> list[str]:
    """Lists the numbers that are absent for a model in a task, with the reasons."""
    lines = []
    for average in report.averages:
        place = f"{average.model_id}, {to_text(average.task)}"
        reasons = (
            ("gain", average.gain.absent_reason if average.gain.value is None else ""),
            ("shift", average.shift.absent_reason if average.shift.value is None else ""),
            ("shift ratio", average.shift_ratio.absent_reason if average.shift_ratio.value is None else ""),
            ("steps to 95 %", average.convergence_reason if average.convergence is None else ""),
        )
        lines += [f"{place}: no {name}: {reason}" for name, reason in reasons if reason]
        lines += [
            f"{place}: {count} of {average.seeds} seeds have no {to_text(name)} and are left out of its mean"
            for name, count in average.seeds_without_value.items()
            if count < average.seeds
        ]
    return lines


def _list_flags(report: ExperimentReport) -> list[tuple[str, str]]:
    """Symbols and meanings of the flags that are set for any cell."""
    return [
        (symbol, meaning)
        for name, (symbol, meaning) in FLAG_SYMBOLS.items()
        if any(getattr(cell.flags, name) for cell in report.cells)
    ]


def _describe_patients(report: ExperimentReport) -> str:
    """Number of test patients, or its range over the tasks."""
    numbers = {average.patients for average in report.averages}
    return " to ".join(f"{number}" for number in sorted({min(numbers), max(numbers)})) if numbers else ""


def _format_step_share(average: SeedAverage) -> str:
    if average.censored:
        return "> 100 %"
    return ABSENT if average.convergence is None else f"{100 * average.convergence:.0f} %"
