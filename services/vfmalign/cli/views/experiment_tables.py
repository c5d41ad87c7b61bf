"""Shows an experiment as tables: results of finished cells, states of other cells, and the location of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vfmalign.analysis.checks.gate_intervals import count_seeds
from vfmalign.cli.views.tables import (
    DEGENERATE,
    SATURATED,
    format_control,
    format_smallest_difference,
    new_table,
    primary_shift,
    show_creation,
    show_report,
    styled_state,
    to_text,
)
from vfmalign.client.formatting import format_number, format_steps
from vfmalign.client.messages.checks import CheckResult
from vfmalign.client.messages.experiments import Experiment
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.patients import MIN_SEEDS, describe_unseen_subgroup
from vfmalign.core.formats.documents import pluralise

Results = Mapping[str, CheckResult]
"""Results of the checks that succeeded, by check id."""
_NUMBERS = ("seed", "score", "specialised", "naive baseline", "gain", "MMD²", "ratio", "to 95 %")


def show_experiment(
    experiment: Experiment,
    results: Results,
    headline: Sequence[str] = (),
    report: Path | None = None,
) -> list[RenderableType]:
    """Returns everything about an experiment.

    Args:
        experiment: the experiment.
        results: maps the id of each successful check to its result.
        headline: sentences of the report about each claim.
        report: the downloaded report page, if there is one.
    """
    created = show_creation(experiment.create_time, experiment.created_by)
    parts: list[RenderableType] = [_show_head(experiment), created, ""]
    if results:
        parts += [show_results(experiment, results), *_show_remarks(results), ""]
    elsewhere = sum(cell.state == "succeeded" and cell.check_id not in results for cell in experiment.cells)
    if elsewhere:
        count = pluralise(elsewhere, "cell")
        parts += [Text(f"Computed before: {count}, with results in the report and its cells.csv."), ""]
    if any(cell.state != "succeeded" for cell in experiment.cells):
        parts += [show_other_cells(experiment), ""]
    parts += [*(Text(sentence, style="bold") for sentence in headline), *([""] if headline else [])]
    if experiment.report_html is not None:
        parts.append(show_report(experiment.report_html, report))
    return parts


def show_results(experiment: Experiment, results: Results) -> Table:
    """Returns the main table: the result of each cell that succeeded."""
    table = new_table(
        f"{len(results)} of {len(experiment.cells)} cells",
        "task",
        "model",
        "seed",
        "score",
        "specialised",
        "naive baseline",
        "difference",
        "gain",
        "MMD²",
        "ratio",
        "to 95 %",
        "verdict",
        numbers=_NUMBERS,
    )
    for cell in sorted(experiment.cells, key=lambda cell: (cell.task, cell.model_id, cell.seed)):
        if cell.check_id not in results:
            continue
        result = results[cell.check_id]
        table.add_row(
            cell.task + format_control(cell),
            cell.model_id,
            str(cell.seed),
            format_number(result.rpg_specialised.score, 4),
            format_number(result.rpg_specialised.baseline, 4),
            format_number(result.gain_naive_baseline.baseline, 4) + ("¶" if result.naive_baseline_not_beaten else ""),
            to_text(result.rpg_specialised.absolute, signed=True),
            _format_gain(result),
            _format_shift(result),
            to_text(result.shifts[0].shift_ratio),
            format_steps(result.convergence.steps_to_95),
            result.verdict,
        )
    return table


def show_other_cells(experiment: Experiment) -> Table:
    """Returns a table of the cells without a result and their states."""
    table = new_table("Cells without a result", "check", "task", "model", "seed", "state", "status", numbers=["seed"])
    for cell in experiment.cells:
        if cell.state != "succeeded":
            state, seed = styled_state(cell.state), str(cell.seed)
            table.add_row(
                cell.check_id, cell.task + format_control(cell), cell.model_id, seed, state, cell.progress.detail
            )
    return table


def _format_gain(result: CheckResult) -> str:
    """Formats the relative gain without its interval, for which the table has no space; the report has it."""
    relative = result.rpg_specialised.relative_percent
    return to_text(relative.model_copy(update={"interval": None}), signed=True, unit=" %")


def _format_shift(result: CheckResult) -> str:
    """Formats the shift without its interval, for which the table has no space; the report has it."""
    shift = primary_shift(result)
    marks = ("†" if shift.degenerate else "") + ("§" if result.shifts[0].saturated else "")
    return format_number(shift.value) + marks


def _show_head(experiment: Experiment) -> Text:
    head = Text.assemble(f"Experiment {experiment.experiment_id}: ", styled_state(experiment.state))
    if experiment.failure is not None:
        return head.append(f"\n{experiment.failure.reason}: {experiment.failure.message}")
    return head.append(f"\n{experiment.progress.detail}")


def _show_remarks(results: Results) -> list[RenderableType]:
    metrics = {result.metric.name: result.metric for result in results.values()}
    names = ", ".join(_describe_metric(metric) for metric in metrics.values())
    lines: list[RenderableType] = [
        Text(
            f"Scores on test: {names}. difference and gain: over the specialised network, above "
            "zero is better. MMD²: primary layer, standardised features. "
            "ratio: to the shift to random weights. to 95 %: optimiser steps.",
            style="dim",
        )
    ]
    if any(count_seeds(result) < MIN_SEEDS for result in results.values()):
        text = "verdict: from one training per network, which decides nothing; the report has verdicts over all seeds."
        lines.append(Text(text, style="dim"))
    claims = [result for result in results.values() if result.verdict in {"gain", "harm", "equivalent"}]
    for patients in sorted({result.rpg_specialised.groups for result in claims}):
        text = f"gain, harm and equivalent: with {patients} test patients, {describe_unseen_subgroup(patients)}."
        lines.append(Text(text, style="yellow"))
    if any(result.naive_baseline_not_beaten for result in results.values()):
        lines.append(Text("¶ the fine-tuned model does not beat the naive baseline.", style="yellow"))
    if any(result.shifts[0].saturated for result in results.values()):
        lines.append(Text(SATURATED, style="dim"))
    if any(primary_shift(result).degenerate for result in results.values()):
        lines.append(Text(DEGENERATE, style="dim"))
    return lines


def _describe_metric(metric: MetricSpec) -> str:
    name = f"{metric.title} in {metric.unit}" if metric.unit else metric.title
    return f"{name} ({format_smallest_difference(metric)})" if metric.smallest_difference else name
