"""Writes the report of a monitor from data in the database."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from vfmalign.core.domain.errors import BadOption
from vfmalign.database.database import Database
from vfmalign.database.tables import now
from vfmalign.monitoring.service.converters import to_message
from vfmalign.monitoring.service.log import LOG_COLUMNS
from vfmalign.monitoring.service.repository import MonitorRepository
from vfmalign.monitoring.tables import ObservationRow, WindowRow
from vfmalign.reports.drift import page
from vfmalign.reports.drift.document import MAX_POINTS, EvidencePoint, ExtremeRow, Window
from vfmalign.reports.drift.monitors import describe_monitor

Points = list[tuple[int, datetime, list[float | None]]]
"""Rows of an epoch: number, time of arrival and evidence of each component."""
Shifts = list[list[dict[str, Any]]]
"""Recorded windows."""
_MAX_WINDOWS = 12


def render(monitors: MonitorRepository, monitor_id: str, report_format: str) -> bytes:
    """Returns the report as a file.

    Args:
        monitors: monitors of the tenant.
        monitor_id: the monitor.
        report_format: `html` or `json`.

    Raises:
        BadOption: the format does not exist.
        NotFound: the id is unknown.
    """
    if report_format not in {"html", "json"}:
        raise BadOption("monitors have no report of this format", field="format", remedy="choose html or json")
    monitor = monitors.get(monitor_id)
    epoch, rows = monitor.epoch.number, monitor.status["rows"]
    peak = monitor.status["peak"]
    points = list_points(monitors.database, monitor_id, epoch, get_stride(rows), 0 if peak is None else peak["row"])
    document = describe_monitor(
        to_message(monitor),
        [EvidencePoint(row=row, time=time, log_evidence=tuple(values)) for row, time, values in points],
        [ExtremeRow(row=row, observation=name, p_value=p) for row, name, p in monitor.status["extreme_rows"]],
        _to_windows(list_windows(monitors.database, monitor_id, epoch)),
        now=now(),
        reference_rows=monitor.status["reference_rows"],
    )
    return page.render(document) if report_format == "html" else document.model_dump_json(indent=1).encode()


def get_stride(rows: int) -> int:
    """Returns the number of rows between two points.

    The number is a power of two and leads to at most `MAX_POINTS` points.
    """
    stride = 1
    while rows > stride * MAX_POINTS:
        stride *= 2
    return stride


def list_points(database: Database, monitor_id: str, epoch: int, stride: int, peak: int) -> Points:
    """Returns the evidence of an epoch at every `stride`-th row, at its alarm, at its peak and at its last row."""
    table = ObservationRow
    rows = sa.select(sa.func.max(table.row)).where(table.monitor_id == monitor_id, table.epoch == epoch)
    query = sa.select(table.row, table.received_at, *(getattr(table, name) for name in LOG_COLUMNS)).where(
        table.monitor_id == monitor_id,
        table.epoch == epoch,
        table.row > 0,
        ((table.row - 1) % stride == 0)
        | (table.row == rows.scalar_subquery())
        | (table.row == peak)
        | table.raised_alarm,
    )
    with database.snapshot() as session:
        return [(row, time, list(values)) for row, time, *values in session.execute(query.order_by(table.row))]


def list_windows(database: Database, monitor_id: str, epoch: int) -> Shifts:
    """Returns the shifts of non-overlapping windows of an epoch, starting with the oldest window."""
    query = sa.select(WindowRow).where(WindowRow.monitor_id == monitor_id, WindowRow.epoch == epoch)
    chosen: Shifts = []
    first_row: int | None = None
    with database.snapshot() as session:
        for row in session.scalars(query.order_by(WindowRow.last_row.desc())):
            if first_row is None or row.last_row < first_row:
                chosen.append(row.shifts)
                first_row = min((shift["first_row"] for shift in row.shifts if not shift["stratum"]), default=1)
            if len(chosen) == _MAX_WINDOWS:
                break
    return chosen[::-1]


def _to_windows(windows: Shifts) -> list[Window]:
    """Returns the windows over time, without windows of strata: the page takes these from the monitor itself."""
    shown = {*Window.model_fields}
    return [
        Window.model_validate({name: value for name, value in shift.items() if name in shown})
        for shifts in windows
        for shift in shifts
        if not shift["stratum"]
    ]
