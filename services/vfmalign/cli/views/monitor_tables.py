"""Shows the monitors of the service as tables and lines. The monitor's page is made from the same document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vfmalign.analysis.checks.gates import Outcome
from vfmalign.cli.views.drift_tables import show_alarm_gate, show_details, show_verdict
from vfmalign.cli.views.tables import format_time, list_fields, new_table, separate_tables
from vfmalign.client.formatting import ABSENT, to_sentence
from vfmalign.client.messages.monitors import EpochStart, Monitor, MonitorAlarm
from vfmalign.core.formats.documents import pluralise
from vfmalign.reports.drift.document import COMPONENT_LABELS, DriftDocument
from vfmalign.reports.drift.live import EarlierEpoch, LiveMonitor
from vfmalign.reports.drift.monitors import describe_monitor
from vfmalign.reports.drift.wording import (
    EPOCH_STARTS,
    describe_acknowledgement,
    describe_arrivals,
    describe_limit,
    describe_strength,
    describe_windows_age,
    format_power,
    list_cautions,
    list_changes,
)

_WHOLE_ID = 30
"""Longest id that is never folded."""
_GUARANTEES: dict[EpochStart, str] = {
    "fixed": "The bound on false alarms holds if time and reference were fixed without regard to the observations.",
    "unseen_reference": "The bound on false alarms holds: no patient of the reference was seen before.",
    "reset": "The bound on false alarms does not hold for this epoch.",
}


def list_monitors(monitors: Sequence[Monitor]) -> Table:
    """Returns a table of monitors. Ids that fit into 80 columns are not wrapped, so that users can copy them."""
    longest = max((len(monitor.monitor_id) for monitor in monitors), default=0)
    table = new_table(
        "Monitors", "monitor", "alarm", "state", "epoch", "rows", "last observation",
        numbers=["epoch", "rows"], whole=["monitor"] if longest <= _WHOLE_ID else (),
    )  # fmt: skip
    for monitor in monitors:
        alarm, last = monitor.epoch.alarm, monitor.last_observation_time
        table.add_row(
            monitor.monitor_id,
            ABSENT if alarm is None else Text(_summarise(alarm), style=_get_style(alarm)),
            Text(monitor.state, style="yellow" if monitor.state == "paused" else "green"),
            str(monitor.epoch.number),
            f"{monitor.epoch.rows:,}",
            ABSENT if last is None else format_time(last),
        )
    return table


def show_monitor(document: DriftDocument, gate: Mapping[str, Outcome]) -> list[RenderableType]:
    """Returns a monitor for a terminal: its alarm and acknowledgement, the evidence, the changes, and tables."""
    monitor = document.monitor
    lines: list[RenderableType] = [show_verdict(document)]
    if document.alarm is not None:
        seen = document.alarm.acknowledged
        lines.append(Text(to_sentence(describe_acknowledgement(seen)), style="bold red" if seen is None else ""))
    if strength := describe_strength(document):
        lines.append(Text(to_sentence(strength)))
    lines += [Text(f"  • {to_sentence(change)}") for change in list_changes(document)]
    lines += [Text(f"! {title} {text}", style="yellow") for title, text in list_cautions(document)]
    lines.append(Text(to_sentence(describe_arrivals(document)), style="dim"))
    if monitor is not None:
        lines.append(_show_facts(document, monitor))
    lines += show_details(document)
    if age := describe_windows_age(document):
        lines.append(Text(to_sentence(age), style="dim"))
    if monitor is not None and monitor.earlier_epochs:
        lines.append(_list_epochs(monitor.earlier_epochs))
    return separate_tables([*lines, *show_alarm_gate(gate)])


def describe_change(monitor: Monitor, now: datetime) -> Text:
    """Returns a line about the current state of a monitor, for `monitors watch`."""
    document = describe_monitor(monitor, now=now)
    strongest, alarm = document.strongest, monitor.epoch.alarm
    line = Text(f"{format_time(now)}  {monitor.state:<6}  epoch {monitor.epoch.number}")
    line.append(f"  {pluralise(monitor.epoch.rows, 'row'):>12}  {COMPONENT_LABELS[strongest.component]} ")
    line.append(f"{format_power(strongest.log_evidence)} of {format_power(strongest.log_threshold)}  ")
    if alarm is not None:
        line.append(f"ALARM {_summarise(alarm)}", style=_get_style(alarm))
    else:
        line.append("no alarm")
    return line


def describe_epoch(monitor: Monitor) -> str:
    """States which epoch of a monitor has begun and whether its bound holds.

    For a new monitor, states what the monitor watches.
    """
    epoch = monitor.epoch
    reference = f"with the reference {epoch.reference.feature_set_id}"
    if epoch.number == 1:
        watched = f"layer {monitor.spec.layer} of model {monitor.model_id}"
        return f"monitor {monitor.monitor_id}: watches {watched} {reference}"
    place = f"epoch {epoch.number} {reference}"
    guarantee = _GUARANTEES[epoch.start if epoch.has_guarantee else "reset"]
    return f"monitor {monitor.monitor_id}: {place}. {guarantee}"


def _summarise(alarm: MonitorAlarm) -> str:
    return f"since row {alarm.row:,}, {'seen' if alarm.acknowledge_time else 'not acknowledged'}"


def _get_style(alarm: MonitorAlarm) -> str:
    return "yellow" if alarm.acknowledge_time else "bold red"


def _show_facts(document: DriftDocument, monitor: LiveMonitor) -> Table:
    hours = monitor.max_silence_hours
    acquired = monitor.last_acquire_time
    return list_fields(
        f"Monitor {monitor.monitor_id}",
        {
            "state": monitor.state,
            "model": monitor.model_id,
            "layer": f"{document.layer}, {document.channels:,} channels",
            "reference": f"{document.reference}@{monitor.reference_sha256}",
            "epoch": f"{document.epoch}, which began {EPOCH_STARTS[monitor.epoch_start]}, "
            f"{format_time(monitor.epoch_start_time)}",
            "guarantee": describe_limit(document),
            "latest acquisition": ABSENT if acquired is None else format_time(acquired),
            "late": f"{monitor.late_observations:,}",
            "in the future": f"{monitor.future_observations:,}",
            "silence": "no alert" if hours is None else f"an alert after {pluralise(hours, 'hour')}",
            "created": format_time(monitor.create_time),
        },
    )


def _list_epochs(epochs: Sequence[EarlierEpoch]) -> Table:
    table = new_table(
        "Earlier epochs", "epoch", "began", "why", "reference", "rows", "alarm", numbers=["epoch", "rows"]
    )  # fmt: skip
    for epoch in epochs:
        alarm = ABSENT
        if epoch.alarm_row is not None:
            seen = describe_acknowledgement(epoch.acknowledged, has_ended=True)
            alarm = f"row {epoch.alarm_row:,}. {to_sentence(seen)}"
        began = format_time(epoch.start_time.astimezone(UTC))
        table.add_row(str(epoch.number), began, epoch.start, epoch.reference, f"{epoch.rows:,}", alarm)
    return table
