"""Shows the state of a drift monitor as tables. Evidence and thresholds are shown as powers of ten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import RenderableType
from rich.text import Text

from vfmalign.analysis.checks.gates import Outcome
from vfmalign.cli.views.tables import DEGENERATE, list_absent_reasons, list_fields, new_table, separate_tables, to_text
from vfmalign.client.formatting import format_number, format_p_value
from vfmalign.reports.drift.document import COMPONENT_LABELS, Component, DriftDocument, StratumMix, Window
from vfmalign.reports.drift.wording import (
    WINDOWS_NOTE,
    describe_limit,
    describe_moved_rows,
    format_power,
    list_reached,
    name_stratum,
    write_verdict,
)

_STYLES = {Outcome.PASSED: "green", Outcome.FAILED: "bold red", Outcome.UNDECIDABLE: "bold yellow"}


def describe_alarm(row: int, observation: str, reached: Mapping[Component, tuple[float, float]]) -> str:
    """Returns the line about an alarm of a monitor.

    Args:
        row: index of the row that raises the alarm.
        observation: its id.
        reached: maps each component to the natural logarithms of its evidence and of the threshold that it reached.
    """
    components = ", ".join(
        f"{COMPONENT_LABELS[component]} {format_power(evidence)} (threshold {format_power(threshold)})"
        for component, (evidence, threshold) in reached.items()
    )
    return f"ALARM at row {row:,}, observation {observation}: evidence of {components}"


def show_drift(document: DriftDocument, gate: Mapping[str, Outcome]) -> list[RenderableType]:
    """Returns a drift document for a terminal: its verdict, its tables and notes, and the outcome of its gate."""
    opening = [
        show_verdict(document),
        Text(f"Layer {document.layer}, {document.channels:,} channels; {describe_limit(document)}.", style="dim"),
    ]
    return separate_tables([*opening, *show_details(document), *show_alarm_gate(gate)])


def show_verdict(document: DriftDocument) -> Text:
    """Returns the line that states whether and when an alarm was raised."""
    return Text(write_verdict(document), style="bold red" if document.alarm is not None else "bold")


def show_details(document: DriftDocument) -> list[RenderableType]:
    """Returns the tables and the notes of a monitor."""
    lines: list[RenderableType] = [_show_evidence(document)]
    if document.outcomes:
        title = "Observations" if document.epoch == 1 else "Observations of all epochs"
        counts = [(name.replace("_", " "), f"{count:,}") for name, count in document.outcomes.items()]
        lines.append(list_fields(title, counts))
    if document.mix is not None:
        lines += _show_mix(document.mix)
    if document.windows:
        lines += [_show_windows(document), Text(WINDOWS_NOTE, style="dim")]
        lines += list_absent_reasons(one for window in document.windows for one in (window.mmd2, window.p_value))
        if any(window.mmd2.degenerate for window in document.windows):
            lines.append(Text(DEGENERATE, style="dim"))
    if document.extreme_rows:
        lines.append(_show_extreme_rows(document))
    if document.channel_shifts:
        lines.append(_show_channels(document))
    return [*lines, *(Text(f"! {note}", style="yellow") for note in document.notes)]


def show_alarm_gate(gate: Mapping[str, Outcome]) -> list[RenderableType]:
    """Returns a line for each condition of a gate."""
    return [Text(f"gate {name}: {outcome.value}", style=_STYLES[outcome]) for name, outcome in gate.items()]


def _show_evidence(document: DriftDocument) -> RenderableType:
    reached = list_reached(document)
    table = new_table(
        "Evidence",
        "component", "evidence", "threshold", "",
        numbers=["evidence", "threshold"],
    )  # fmt: skip
    for one in document.components:
        mark = "alarm" if one.component in reached else "above the threshold" if one.is_reached else ""
        table.add_row(
            COMPONENT_LABELS[one.component], format_power(one.log_evidence), format_power(one.log_threshold), mark
        )
    return table


def _show_mix(mix: StratumMix) -> list[RenderableType]:
    table = new_table(f"Mix of {mix.kind}", mix.kind, "reference", "stream", numbers=["reference", "stream"])
    for stratum in mix.strata:
        table.add_row(name_stratum(stratum.name), f"{stratum.reference:,}", f"{stratum.stream:,}")
    return [table, Text("The mix raises no alarm.", style="dim")]


def _show_windows(document: DriftDocument) -> RenderableType:
    table = new_table(
        "Windowed MMD²", "layer", "stratum", "rows", "number", "reference", "MMD² [interval]", "p",
        numbers=["number", "reference", "p"],
    )  # fmt: skip
    for window in _list_windows(document):
        table.add_row(
            window.layer,
            window.stratum or "all",
            f"{window.first_row:,} to {window.last_row:,}",
            f"{window.rows:,}",
            f"{window.reference_rows:,}",
            to_text(window.mmd2),
            format_p_value(window.p_value.value),
        )
    return table


def _list_windows(document: DriftDocument) -> Iterable[Window]:
    """Returns all windows of the layer that raises the alarm, and the last one of every other layer."""
    last = {window.layer: window for window in document.windows if not window.stratum}
    for window in document.windows:
        if window.layer == document.layer or window is last.get(window.layer):
            yield window


def _show_extreme_rows(document: DriftDocument) -> RenderableType:
    table = new_table("Most extreme rows", "row", "observation", "p", numbers=["row", "p"])
    for one in document.extreme_rows:
        table.add_row(f"{one.row:,}", one.observation, format_p_value(one.p_value))
    return table


def _show_channels(document: DriftDocument) -> RenderableType:
    table = new_table(
        f"Channels of {describe_moved_rows(document)}", "channel", "shift (SD)", "share",
        numbers=["channel", "shift (SD)", "share"],
    )  # fmt: skip
    for one in document.channel_shifts:
        shift = format_number(one.shift_sd, signed=True)
        table.add_row(str(one.channel), shift, f"{format_number(100 * one.share)} %")
    return table
