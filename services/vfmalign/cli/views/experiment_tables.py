"""A study as tables: where its cells stand, what each found, and where the report lies.

Knows the API's messages and rich. Computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vfmalign.cli.views.enum_labels import CHECK_STATES, STUDY_STATES, VERDICTS, word
from vfmalign.cli.views.follow_experiment import primary_shift
from vfmalign.cli.views.tables import ABSENT, estimate, number, state, table
from vfmalign.v1 import alignment_pb2, study_pb2

_NUMBERS = ("seed", "score", "specialised", "trivial", "MMD²", "ratio", "to 95 %")


def summary(
    study: study_pb2.AlignmentStudy,
    found: Mapping[str, alignment_pb2.CheckResult],
    headline: Sequence[str] = (),
    report: Path | None = None,
) -> list[RenderableType]:
    """Everything about a study.

    Args:
        study: the study.
        found: what the checks that succeeded concluded, by check id.
        headline: what its report says of each claim.
        report: where its page was written on this machine, if it was.
    """
    parts: list[RenderableType] = [_head(study), ""]
    if found:
        parts += [results(study, found), *_remarks(found), ""]
    if any(cell.check_id not in found for cell in study.cells):
        parts += [rest(study, found), ""]
    parts += [*(Text(sentence, style="bold") for sentence in headline), *([""] if headline else [])]
    if study.HasField("report_html"):
        parts.append(_places(study, report))
    return parts


def results(study: study_pb2.AlignmentStudy, found: Mapping[str, alignment_pb2.CheckResult]) -> Table:
    """The main table: what each cell found."""
    main = table(
        f"{len(found)} of {len(study.cells)} cells",
        "task",
        "model",
        "seed",
        "score",
        "specialised",
        "trivial",
        "gain",
        "MMD²",
        "ratio",
        "to 95 %",
        "verdict",
        numbers=_NUMBERS,
    )
    for cell in sorted(study.cells, key=lambda one: (one.task, one.model_id, one.seed)):
        if cell.check_id not in found:
            continue
        result = found[cell.check_id]
        shift = result.shifts[0]
        trivial = number(result.gain_trivial.baseline, 4) if result.HasField("gain_trivial") else ABSENT
        main.add_row(
            cell.task,
            cell.model_id,
            str(cell.seed),
            number(result.rpg_specialised.score, 4),
            number(result.rpg_specialised.baseline, 4),
            trivial + ("¶" if result.trivial_not_beaten else ""),
            estimate(result.rpg_specialised.relative_percent, signed=True, unit=" %"),
            _shift(result),
            estimate(shift.shift_ratio),
            estimate(result.convergence.steps_to_95),
            word(VERDICTS, result.verdict),
        )
    return main


def rest(study: study_pb2.AlignmentStudy, found: Mapping[str, alignment_pb2.CheckResult]) -> Table:
    """Cells without a result, and why."""
    result = table("Cells without a result", "check", "task", "model", "seed", "state", "status", numbers=["seed"])
    for cell in study.cells:
        if cell.check_id not in found:
            shown = state(word(CHECK_STATES, cell.state))
            result.add_row(cell.check_id, cell.task, cell.model_id, str(cell.seed), shown, cell.status)
    return result


def _shift(result: alignment_pb2.CheckResult) -> str:
    """The shift without its interval, which the report has: a line must fit."""
    found = primary_shift(result)
    marks = ("†" if found.interval.degenerate else "") + ("§" if result.shifts[0].out_of_reach else "")
    return (number(found.value) if found.HasField("value") else ABSENT) + marks


def _head(study: study_pb2.AlignmentStudy) -> Text:
    head = Text.assemble(f"Study {study.study_id}: ", state(word(STUDY_STATES, study.state)))
    if study.HasField("failure"):
        return head.append(f"\n{study.failure.reason}: {study.failure.message}")
    return head.append(f"\n{study.status}")


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
    if any(result.trivial_not_beaten for result in found.values()):
        lines.append(Text("¶ the fine-tuned model does not beat the trivial prediction.", style="yellow"))
    if any(result.shifts[0].out_of_reach for result in found.values()):
        lines.append(Text("§ out of the kernel's reach: MMD² says that features moved far, not how far.", style="dim"))
    if any(primary_shift(result).interval.degenerate for result in found.values()):
        lines.append(Text("† degenerate: the test does not reject, coverage is not to be relied on.", style="dim"))
    return lines


def _places(study: study_pb2.AlignmentStudy, report: Path | None) -> Text:
    text = Text.assemble("Report: ", (study.report_html.uri, "bold"))
    if report is not None:
        text.append(f"\n        {report}", style="bold")
    return text
