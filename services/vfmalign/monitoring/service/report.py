"""The report of a monitor, from what the database holds."""

from __future__ import annotations

from vfmalign.core.domain.errors import BadOption
from vfmalign.database.tables import now
from vfmalign.monitoring.service.converters import to_message
from vfmalign.monitoring.service.repository import MonitorRepository, Windows
from vfmalign.reports.drift import page
from vfmalign.reports.drift.document import MAX_POINTS, EvidencePoint, ExtremeRow, Window
from vfmalign.reports.drift.monitors import describe_monitor


def render(monitors: MonitorRepository, monitor_id: str, report_format: str) -> bytes:
    """Returns the report as a file.

    Args:
        monitors: of the tenant.
        monitor_id: the monitor.
        report_format: `html` or `json`.

    Raises:
        BadOption: there is no such format.
        NotFound: the id is unknown.
    """
    if report_format not in {"html", "json"}:
        raise BadOption("monitors have no report of this format", field="format", remedy="choose html or json")
    monitor = monitors.get(monitor_id)
    epoch, rows = monitor.epoch.number, monitor.status["rows"]
    peak = monitor.status["peak"]
    points = monitors.list_points(monitor_id, epoch, get_stride(rows), 0 if peak is None else peak[0])
    document = describe_monitor(
        to_message(monitor),
        [EvidencePoint(row=row, time=time, log_evidence=tuple(values)) for row, time, values in points],
        [ExtremeRow(row=row, observation=name, p_value=p) for row, name, p in monitor.status["extreme_rows"]],
        _to_windows(monitors.list_windows(monitor_id, epoch)),
        now=now(),
        reference_rows=monitor.status["reference_rows"],
    )
    return page.render(document) if report_format == "html" else document.model_dump_json(indent=1).encode()


def get_stride(rows: int) -> int:
    """Returns the distance of the points of the evidence, a power of two, so that there are at most `MAX_POINTS`."""
    stride = 1
    while rows > stride * MAX_POINTS:
        stride *= 2
    return stride


def _to_windows(windows: Windows) -> list[Window]:
    """Returns the windows over time; the page takes those of strata from the monitor itself."""
    shown = {*Window.model_fields}
    return [
        Window.model_validate({name: value for name, value in shift.items() if name in shown})
        for _, shifts in windows
        for shift in shifts
        if not shift["stratum"]
    ]
