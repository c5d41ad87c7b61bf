"""Conversion of monitors and results to messages of the API."""

from __future__ import annotations

from typing import Any

from vfmalign.client.messages.monitors import (
    ChannelShift,
    ComponentEvidence,
    EvidencePeak,
    Monitor,
    StratumMix,
    WindowedShift,
)
from vfmalign.monitoring.service.repository import StoredMonitor
from vfmalign.v1 import monitoring_pb2


def to_message(monitor: StoredMonitor, *, whole: bool = True) -> Monitor:
    """Converts a monitor.

    Args:
        monitor: the monitor.
        whole: whether to include windows, channels and earlier epochs. Lists of monitors do not include these parts.
    """
    status = monitor.status
    counts = {name: count for name, count in monitor.counts.items() if name not in {"late", "future"}}
    return Monitor(
        monitor_id=monitor.id,
        spec=monitor.spec,
        state=monitor.state,
        origin=monitor.origin,
        model_id=monitor.model_id,
        channels=next(iter(monitor.layers.values())),
        epoch=monitor.epoch,
        components=tuple(
            ComponentEvidence(component=name, log_evidence=log_evidence, log_threshold=log_threshold)
            for name, (log_evidence, log_threshold) in status["components"].items()
        ),
        blocks_are_active=status["blocks_are_active"],
        outcomes=counts,
        late_observations=monitor.counts.get("late", 0),
        future_observations=monitor.counts.get("future", 0),
        last_observation_time=monitor.last_observed_at,
        last_acquire_time=monitor.last_acquired_at,
        mix=StratumMix.model_validate(status["mix"]) if monitor.spec.stratum else None,
        windowed_shifts=tuple(map(WindowedShift.model_validate, monitor.shifts if whole else ())),
        channel_shifts=tuple(map(ChannelShift.model_validate, monitor.channels if whole else ())),
        earlier_epochs=monitor.epochs[1:] if whole else (),
        create_time=monitor.created_at,
        created_by=monitor.created_by,
        peak=None if status["peak"] is None else EvidencePeak.model_validate(status["peak"]),
    )


def to_result(result: dict[str, Any]) -> monitoring_pb2.ObservationResult:
    """Converts the result of one observation; see `EvidenceKeeper.record`."""
    return monitoring_pb2.ObservationResult(
        observation_id=result["observation_id"],
        outcome=f"OBSERVATION_OUTCOME_{result['outcome'].upper()}",
        duplicate=result["duplicate"],
        row=result["row"],
        epoch=result["epoch"],
        p_value=result["p_value"],
        late=result["late"],
        raised_alarm=result["raised_alarm"],
    )
