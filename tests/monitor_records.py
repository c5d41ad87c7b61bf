"""Records of monitors of the service, for the tests of the page, the client and the command line."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.drift_documents import make_document, make_window

from vfmalign.client.messages import monitors as records
from vfmalign.client.messages.monitors import Monitor, MonitorAlarm, MonitorEpoch, MonitorReference, MonitorSpec
from vfmalign.reports.drift.document import DriftDocument, EvidencePoint

CREATED = datetime(2026, 1, 2, 8, 0, tzinfo=UTC)
RAISED = datetime(2026, 3, 1, 7, 30, tzinfo=UTC)
NOW = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
SHA256 = "5f" * 32
REFERENCE = MonitorReference(feature_set_id="5f5b865d1efe16135f5b865d1efe1613", manifest_sha256=SHA256)


def make_alarm(**fields: Any) -> MonitorAlarm:
    """An alarm at row 231, which nobody has acknowledged."""
    content: dict[str, Any] = {
        "row": 231,
        "observation_id": "c-5f5b865d1efe1613",
        "components": ("rows", "blocks_of_4"),
        "raise_time": RAISED,
    }
    return MonitorAlarm(**(content | fields))


def make_epoch(alarm: MonitorAlarm | None = None, **fields: Any) -> MonitorEpoch:
    """The first epoch, with 400 rows."""
    content: dict[str, Any] = {
        "number": 1,
        "start": "fixed",
        "has_guarantee": True,
        "reference": REFERENCE,
        "start_time": CREATED,
        "rows": 400,
        "alarm": alarm,
    }
    return MonitorEpoch(**(content | fields))


def make_shift(
    first: int, last: int, value: float, stratum: str = "", layer: str = "stages.3"
) -> records.WindowedShift:
    """A window of `make_window`, as the API has it."""
    window = make_window(first, last, value, stratum, layer)
    return records.WindowedShift(**dict(window), compute_time=NOW - timedelta(minutes=30))


def make_monitor(*, alarm: bool = True, **fields: Any) -> Monitor:
    """A monitor of two scanners with 400 rows, and an alarm unless `alarm` is false."""
    document = make_document(alarm_row=231 if alarm else None)
    content: dict[str, Any] = {
        "monitor_id": "prostate-3t",
        "spec": MonitorSpec(
            reference=REFERENCE,
            layer="stages.3",
            descriptive_layers=("stages.1",),
            stratum="scanner",
            title="Prostate, 3 T",
        ),
        "state": "active",
        "origin": records.FeatureOrigin(checkpoint_sha256="c" * 64, preprocessing_sha256="d" * 64),
        "model_id": "profound",
        "channels": 768,
        "epoch": make_epoch(make_alarm() if alarm else None),
        "components": tuple(records.ComponentEvidence(**dict(one)) for one in document.components),
        "peak": None if document.peak is None else records.EvidencePeak(**dict(document.peak)),
        "blocks_are_active": True,
        "outcomes": {"entered": 400, "repeated_patient": 31, "reference_patient": 4, "not_finite": 0, "paused": 12},
        "late_observations": 7,
        "future_observations": 1,
        "last_observation_time": NOW - timedelta(hours=3),
        "last_acquire_time": NOW - timedelta(hours=4),
        "mix": records.StratumMix(
            rows={"A": 200, "B": 200, "": 0},
            reference_rows={"A": 100, "B": 33},
        ),
        "windowed_shifts": (
            make_shift(291, 390, 0.05),
            make_shift(150, 389, 0.004, "A"),
            make_shift(201, 390, math.nan, "B"),
            make_shift(291, 390, 0.02, layer="stages.1"),
        ),
        "channel_shifts": tuple(
            records.ChannelShift(channel=7 * n, shift_sd=1.0 - 0.1 * n, share=0.09) for n in range(10)
        ),
        "create_time": CREATED,
    }
    return Monitor(**(content | fields))


def make_history(rows: int = 400, alarm_row: int | None = 231) -> tuple[EvidencePoint, ...]:
    """The evidence of `make_document`, with a row in every two hours."""
    return tuple(
        point.model_copy(update={"time": CREATED + timedelta(hours=2 * point.row)})
        for point in make_document(rows, alarm_row).history
    )


def make_live_document(monitor: Monitor | None = None, **fields: Any) -> DriftDocument:
    """The document of a monitor, with history, earlier windows and extreme rows."""
    from vfmalign.reports.drift.monitors import describe_monitor

    monitor = monitor or make_monitor()
    alarm = monitor.epoch.alarm
    arguments: dict[str, Any] = {
        "history": make_history(monitor.epoch.rows, None if alarm is None else alarm.row),
        "extreme_rows": make_document().extreme_rows,
        "windows": (make_window(1, 100, -0.001), make_window(101, 200, 0.002), make_window(201, 300, 0.03)),
        "now": NOW,
        "reference_rows": 200,
    }
    return describe_monitor(monitor, **(arguments | fields))
