"""The document that describes a monitor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vfmalign.monitoring.local.history import History, finite_or_none
from vfmalign.monitoring.sequential import SEQUENTIAL, ChannelShift, Component, Monitor
from vfmalign.monitoring.sequential.thresholds import find_strongest
from vfmalign.reports.drift import document as records
from vfmalign.reports.drift.document import DriftDocument

EXTREME_ROWS = 10


def describe(
    monitor: Monitor,
    history: History,
    *,
    title: str,
    reference: str,
    layer: str,
    stratum: str,
    channel_shifts: Sequence[ChannelShift] = (),
    moved_rows: int = 0,
    window_rows: int = 0,
    notes: Sequence[str] = (),
) -> DriftDocument:
    """Describes a monitor in its current epoch.

    The document does not contain windows, because another package computes them.

    Args:
        monitor: the monitor.
        history: evidence of the monitor over time.
        title: name of the stream.
        reference: name of the reference.
        layer: layer whose evidence raises the alarm.
        stratum: name of the stratum, such as `scanner`; empty if the monitor has no strata.
        channel_shifts: shifts of the last rows.
        moved_rows: number of these rows.
        window_rows: number of rows in a window.
        notes: assumptions and limits of the monitor, one sentence each.
    """
    status, options = monitor.status, monitor.options
    uses_alpha = options.run_length is None
    alarm = status.alarm
    return DriftDocument(
        title=title,
        reference=reference,
        layer=layer,
        reference_rows=len(monitor.reference.patients),
        channels=len(monitor.reference.scorer.mean_D),
        alpha=options.alpha if uses_alpha else None,
        run_length=options.run_length,
        patient_window_days=options.patient_window_days,
        first_patients=options.first_patients,
        seed=options.seed,
        epoch=status.epoch,
        has_guarantee=status.has_guarantee,
        outcomes={str(outcome): count for outcome, count in status.outcomes.items()},
        rows=status.rows,
        blocks_are_active=status.blocks_are_active,
        alarm=None
        if alarm is None
        else records.AlarmRecord(
            row=alarm.row, observation=alarm.observation, components=tuple(one.value for one in alarm.components)
        ),
        components=tuple(
            records.ComponentEvidence(
                component=component.value,
                log_evidence=finite_or_none(value),
                log_threshold=status.log_threshold[component],
            )
            for component, value in status.log_evidence.items()
        ),
        history=history.list_points(),
        peak=_find_peak(history, status.log_threshold),
        mix=_describe_mix(monitor, stratum) if stratum else None,
        window_rows=window_rows,
        extreme_rows=tuple(
            records.ExtremeRow(row=one.row, observation=one.observation, p_value=one.p_value)
            for one in status.extreme_rows[:EXTREME_ROWS]
        ),
        moved_rows=moved_rows,
        channel_shifts=tuple(
            records.ChannelShift(channel=one.channel, shift_sd=one.shift_sd, share=one.share) for one in channel_shifts
        ),
        notes=tuple(notes),
    )


def _find_peak(history: History, log_threshold: Mapping[Component, float]) -> records.Peak | None:
    if history.peak is None:
        return None
    row, values = history.peak
    log_evidence = dict(zip(SEQUENTIAL, values, strict=True))
    component, _ = find_strongest(log_evidence, log_threshold)
    return records.Peak(row=row, component=component.value, log_evidence=log_evidence[component])


def _describe_mix(monitor: Monitor, stratum: str) -> records.StratumMix:
    status = monitor.status
    names = sorted({*status.strata, *status.reference_strata}, key=lambda name: (not name, name))
    return records.StratumMix(
        kind=stratum,
        strata=tuple(
            records.StratumRows(
                name=name, reference=status.reference_strata.get(name, 0), stream=status.strata.get(name, 0)
            )
            for name in names
        ),
    )
