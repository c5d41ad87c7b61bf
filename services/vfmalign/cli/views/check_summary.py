"""A finished check in a few lines: the verdict, five numbers, the cautions and the report."""

from __future__ import annotations

from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from vfmalign.cli.views.check_tables import show_head
from vfmalign.cli.views.tables import list_absent_reasons, new_table, primary_shift, to_text
from vfmalign.client.formatting import format_steps
from vfmalign.client.messages.checks import Check, CheckResult


def summarise_check(check: Check, result: CheckResult, report: Path) -> list[RenderableType]:
    """Returns the lines.

    Args:
        check: the check.
        result: its result.
        report: the downloaded report page.
    """
    unit = f" {result.metric.unit}" if result.metric.unit else ""
    name = f"{result.metric.title}, your model minus"
    convergence = result.convergence
    table = new_table("", "number", "value [interval]")
    table.show_header, table.title = False, None
    for label, value in (
        (f"{name} the specialised network", to_text(result.rpg_specialised.absolute, signed=True, unit=unit)),
        (f"{name} the same network without pretraining", to_text(result.rpg_scratch.absolute, signed=True, unit=unit)),
        (f"shift: MMD² of {result.primary_layer} before and after", to_text(primary_shift(result))),
        ("  as a share of that of random weights", to_text(result.shifts[0].shift_ratio)),
        ("steps to 95 % of the rise", f"{format_steps(convergence.steps_to_95)} of {convergence.steps}"),
    ):
        table.add_row(Text(label, style="dim"), value)
    reasons = list_absent_reasons([result.rpg_specialised.absolute, result.rpg_scratch.absolute])
    cautions = [Text(f"! {caution}", style="yellow") for caution in result.cautions]
    return ["", show_head(check), table, *reasons, *cautions, Text.assemble("Report: ", (str(report), "bold"))]
