"""Creates the document of a monitor of the service from messages of the API."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from vfmalign.client.messages.monitors import Monitor, MonitorAlarm, MonitorEpoch, WindowedShift
from vfmalign.reports.drift.document import (
    MAX_POINTS,
    AlarmRecord,
    ChannelShift,
    ComponentEvidence,
    DriftDocument,
    EvidencePoint,
    ExtremeRow,
    Peak,
    StratumMix,
    StratumRows,
    Window,
)
from vfmalign.reports.drift.live import Acknowledgement, EarlierEpoch, LiveMonitor


def describe_monitor(
    monitor: Monitor,
    history: Sequence[EvidencePoint] = (),
    extreme_rows: Sequence[ExtremeRow] = (),
    windows: Sequence[Window] = (),
    *,
    now: datetime,
    reference_rows: int = 0,
) -> DriftDocument:
    """Describes a monitor in its current epoch.

    Args:
        monitor: the complete message of the monitor. An entry of a list of monitors is not sufficient.
        history: evidence of the current epoch, in order: after each row, or after some of the rows. A long history is
            thinned.
        extreme_rows: extreme rows of the current epoch, starting with the row farthest from the reference.
        windows: earlier windows of the current epoch, starting with the oldest. The windows in `monitor` are more
            recent.
        now: time when the document is written.
        reference_rows: number of patients of the reference; 0 if unknown.
    """
    spec, epoch = monitor.spec, monitor.epoch
    alarm = None if epoch.alarm is None else _to_alarm(epoch.alarm)
    compared = _join_windows(windows, monitor.windowed_shifts)
    return DriftDocument(
        title=spec.title or monitor.monitor_id,
        reference=epoch.reference.feature_set_id,
        layer=spec.layer,
        reference_rows=reference_rows,
        channels=monitor.channels,
        alpha=None if spec.run_length else spec.alpha,
        run_length=spec.run_length or None,
        patient_window_days=spec.patient_window_days or None,
        first_patients=spec.first_patients or None,
        seed=spec.seed,
        epoch=epoch.number,
        has_guarantee=epoch.has_guarantee,
        outcomes=monitor.outcomes,
        rows=epoch.rows,
        blocks_are_active=monitor.blocks_are_active,
        alarm=alarm,
        components=tuple(
            ComponentEvidence(
                component=one.component, log_evidence=one.log_evidence, log_threshold=one.log_threshold
            )
            for one in monitor.components
        ),
        history=_thin(history, {one.row for one in (alarm, monitor.peak) if one is not None}),
        peak=None if monitor.peak is None else Peak.model_validate(monitor.peak.model_dump()),
        mix=_to_mix(monitor),
        window_rows=spec.window_rows,
        windows=compared,
        extreme_rows=tuple(extreme_rows),
        moved_rows=_count_moved(monitor, compared),
        channel_shifts=tuple(
            ChannelShift(channel=one.channel, shift_sd=one.shift_sd, share=one.share)
            for one in monitor.channel_shifts
        ),
        monitor=_describe_live(monitor, history, now),
    )  # fmt: skip


def _describe_live(monitor: Monitor, history: Sequence[EvidencePoint], now: datetime) -> LiveMonitor:
    return LiveMonitor(
        monitor_id=monitor.monitor_id,
        model_id=monitor.model_id,
        state=monitor.state,
        write_time=now,
        create_time=monitor.create_time,
        reference_sha256=monitor.epoch.reference.manifest_sha256,
        epoch_start=monitor.epoch.start,
        epoch_start_time=monitor.epoch.start_time,
        first_row_time=history[0].time if history and history[0].row == 1 else None,
        last_observation_time=monitor.last_observation_time,
        last_acquire_time=monitor.last_acquire_time,
        late_observations=monitor.late_observations,
        future_observations=monitor.future_observations,
        max_silence_hours=monitor.spec.max_silence_hours or None,
        window_time=max((one.compute_time for one in monitor.windowed_shifts if one.compute_time), default=None),
        earlier_epochs=tuple(_to_earlier_epoch(epoch) for epoch in monitor.earlier_epochs),
    )


def _to_earlier_epoch(epoch: MonitorEpoch) -> EarlierEpoch:
    alarm = epoch.alarm
    return EarlierEpoch(
        number=epoch.number,
        start=epoch.start,
        has_guarantee=epoch.has_guarantee,
        reference=epoch.reference.feature_set_id,
        start_time=epoch.start_time,
        rows=epoch.rows,
        alarm_row=None if alarm is None else alarm.row,
        alarm_time=None if alarm is None else alarm.raise_time,
        acknowledged=None if alarm is None else _to_acknowledgement(alarm),
    )


def _to_alarm(alarm: MonitorAlarm) -> AlarmRecord:
    return AlarmRecord(
        row=alarm.row,
        observation=alarm.observation_id,
        components=alarm.components,
        time=alarm.raise_time,
        acknowledged=_to_acknowledgement(alarm),
    )


def _to_acknowledgement(alarm: MonitorAlarm) -> Acknowledgement | None:
    return None if alarm.acknowledge_time is None else Acknowledgement(time=alarm.acknowledge_time, note=alarm.note)


def _to_mix(monitor: Monitor) -> StratumMix | None:
    mix = monitor.mix
    if mix is None:
        return None
    names = sorted({*mix.rows, *mix.reference_rows}, key=lambda name: (not name, name))  # the unknown stratum is last
    return StratumMix(
        kind=monitor.spec.stratum,
        strata=tuple(
            StratumRows(name=name, reference=mix.reference_rows.get(name, 0), stream=mix.rows.get(name, 0))
            for name in names
        ),
    )


def _join_windows(windows: Sequence[Window], last: Sequence[WindowedShift]) -> tuple[Window, ...]:
    """Returns the earlier windows, then the last window of all rows and the windows of strata, without duplicates."""
    shown = {_get_place(window): window for window in windows}
    shown |= {_get_place(shift): _to_window(shift) for shift in sorted(last, key=lambda shift: bool(shift.stratum))}
    return tuple(shown.values())


def _get_place(one: Window | WindowedShift) -> tuple[str, str, int, int]:
    return one.layer, one.stratum, one.first_row, one.last_row


def _to_window(shift: WindowedShift) -> Window:
    return Window(
        layer=shift.layer,
        stratum=shift.stratum,
        first_row=shift.first_row,
        last_row=shift.last_row,
        rows=shift.rows,
        reference_rows=shift.reference_rows,
        mmd2=shift.mmd2,
        p_value=shift.p_value,
    )


def _count_moved(monitor: Monitor, windows: Sequence[Window]) -> int:
    """Returns the number of rows in the comparison of channels: the rows of the last window, if there is one."""
    if not monitor.channel_shifts:
        return 0
    rows = [one.rows for one in windows if one.layer == monitor.spec.layer and not one.stratum]
    return rows[-1] if rows else min(monitor.spec.window_rows, monitor.epoch.rows)


def _thin(history: Sequence[EvidencePoint], kept: set[int]) -> tuple[EvidencePoint, ...]:
    """Returns at most `MAX_POINTS` evenly spaced moments, and the moments of the rows in `kept`."""
    stride = max(1, math.ceil(len(history) / MAX_POINTS))
    last = len(history) - 1
    return tuple(
        point for place, point in enumerate(history) if place % stride == 0 or place == last or point.row in kept
    )
