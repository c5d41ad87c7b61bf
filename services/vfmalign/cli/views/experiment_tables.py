"""An experiment as tables: where its cells stand, what each found, and where the report lies.

Knows the API's messages and rich. Computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vfmalign.cli.views.enum_labels import CHECK_STATES, EXPERIMENT_STATES, VERDICTS, word
from vfmalign.cli.views.follow_experiment import primary_shift
from vfmalign.cli.views.tables import ABSENT, estimate, number, state, table
from vfmalign.v1 import alignment_pb2, experiment_pb2

_NUMBERS = ("seed", "score", "specialised", "naive_baseline", "MMD²", "ratio", "to 95 %")


def summary(
    experiment: experiment_pb2.Experiment,
    found: Mapping[str, alignment_pb2.CheckResult],
    headline: Sequence[str] = (),
    report: Path | None = None,
) -> list[RenderableType]:
    """Everything about an experiment.

    Args:
        experiment: the experiment.
        found: what the checks that succeeded concluded, by check id.
        headline: what its report says of each claim.
        report: where its page was written on this machine, if it was.
    """
    parts: list[RenderableType] = [_head(experiment), ""]
    if found:
        parts += [results(experiment, found), *_remarks(found), ""]
    if any(cell.check_id not in found for cell in experiment.cells):
        parts += [rest(experiment, found), ""]
    parts += [*(Text(sentence, style="bold") for sentence in headline), *([""] if headline else [])]
    if experiment.HasField("report_html"):
        parts.append(_places(experiment, report))
    return parts


def results(experiment: experiment_pb2.Experiment, found: Mapping[str, alignment_pb2.CheckResult]) -> Table:
    """The main table: what each cell found."""
    main = table(
        f"{len(found)} of {len(experiment.cells)} cells",
        "task",
        "model",
        "seed",
        "score",
        "specialised",
        "naive_baseline",
        "gain",
        "MMD²",
        "ratio",
        "to 95 %",
        "verdict",
        numbers=_NUMBERS,
    )
    for cell in sorted(experiment.cells, key=lambda one: (one.task, one.model_id, one.seed)):
        if cell.check_id not in found:
            continue
        result = found[cell.check_id]
        shift = result.shifts[0]
        naive_baseline = (
            number(result.gain_naive_baseline.baseline, 4) if result.HasField("gain_naive_baseline") else ABSENT
        )
        main.add_row(
            cell.task,
            cell.model_id,
            str(cell.seed),
            number(result.rpg_specialised.score, 4),
            number(result.rpg_specialised.baseline, 4),
            naive_baseline + ("¶" if result.naive_baseline_not_beaten else ""),
            estimate(result.rpg_specialised.relative_percent, signed=True, unit=" %"),
            _shift(result),
            estimate(shift.shift_ratio),
            estimate(result.convergence.steps_to_95),
            word(VERDICTS, result.verdict),
        )
    return main


def rest(experiment: experiment_pb2.Experiment, found: Mapping[str, alignment_pb2.CheckResult]) -> Table:
    """Cells without a result, and why."""
    result = table("Cells without a result", "check", "task", "model", "seed", "state", "status", numbers=["seed"])
    for cell in experiment.cells:
        if cell.check_id not in found:
            shown = state(word(CHECK_STATES, cell.state))
            result.add_row(cell.check_id, cell.task, cell.model_id, str(cell.seed), shown, cell.status)
    return result


def _shift(result: alignment_pb2.CheckResult) -> str:
    """The shift without its interval, which the report has: a line must fit."""
    found = primary_shift(result)
    marks = ("†" if found.interval.degenerate else "") + ("§" if result.shifts[0].saturated else "")
    return (number(found.value) if found.HasField("value") else ABSENT) + marks


def _head(experiment: experiment_pb2.Experiment) -> Text:
    head = Text.assemble(f"Experiment {experiment.experiment_id}: ", state(word(EXPERIMENT_STATES, experiment.state)))
    if experiment.HasField("failure"):
        return head.append(f"\n{experiment.failure.reason}: {experiment.failure.message}")
    return head.append(f"\n{experiment.status}")


def _remarks(found: Mapping[str, alignment_pb2.CheckResult]) -> list[RenderableType]:
    metrics = {result.metric.name: result.metric.unit for result in found.values()}
    names = ", ".join(f"{name} in {unit}" if unit else name for name, unit in metrics.items())
    lines: list[RenderableType] = [
        Text(
            f"Scores of test: {names}. gain: over the specialised network. MMD²: primary layer, standardised features. "
            "ratio: to the shift to random weights. to 95 %: optimiser steps.",
            style="dim",
        )
    ]
    if any(result.naive_baseline_not_beaten for result in found.values()):
        lines.append(Text("¶ the fine-tuned model does not beat the naive baseline.", style="yellow"))
    if any(result.shifts[0].saturated for result in found.values()):
        lines.append(Text("§ out of the kernel's reach: MMD² says that features moved far, not how far.", style="dim"))
    if any(primary_shift(result).interval.degenerate for result in found.values()):
        lines.append(Text("† degenerate: the test does not reject, coverage is not to be relied on.", style="dim"))
    return lines


def _places(experiment: experiment_pb2.Experiment, report: Path | None) -> Text:
    text = Text.assemble("Report: ", (experiment.report_html.uri, "bold"))
    if report is not None:
        text.append(f"\n        {report}", style="bold")
    return text
