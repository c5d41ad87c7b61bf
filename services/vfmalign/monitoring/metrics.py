"""Prometheus metrics of the monitoring service.

The leader exports the state of the monitors. Each process counts its own work. The id of a monitor is a label, because
alerts name the monitor. The tenants' quotas limit the number of monitors. No id of a monitor identifies a patient.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from prometheus_client import Counter, Gauge

from vfmalign.client.messages.monitors import ObservationOutcome
from vfmalign.core.runtime.metrics import REGISTRY

OUTCOMES = (*get_args(ObservationOutcome), "duplicate")
"""Labels of the outcomes of observations."""
_MONITOR = ("tenant", "monitor")

log_evidence = Gauge(
    "vfmalign_monitor_log_evidence",
    "Natural logarithm of the evidence of drift, by component; absent if the evidence is 0.",
    (*_MONITOR, "component"),
    registry=REGISTRY,
)
log_threshold = Gauge(
    "vfmalign_monitor_log_threshold",
    "Natural logarithm of the threshold at which the evidence of a component raises the alarm.",
    (*_MONITOR, "component"),
    registry=REGISTRY,
)
mmd2 = Gauge(
    "vfmalign_monitor_mmd2",
    "MMD² between the last window and the reference, for the layer that raises the alarm; absent without a window.",
    _MONITOR,
    registry=REGISTRY,
)
alarm = Gauge(
    "vfmalign_monitor_alarm",
    "1 while an alarm of the current epoch has not been acknowledged, 0 at all other times.",
    _MONITOR,
    registry=REGISTRY,
)
paused = Gauge("vfmalign_monitor_paused", "1 if the monitor is paused, 0 if it is not.", _MONITOR, registry=REGISTRY)
lag_seconds = Gauge(
    "vfmalign_monitor_lag_seconds",
    "Time from the acquisition of the last observation to its arrival, in seconds; absent if unknown.",
    _MONITOR,
    registry=REGISTRY,
)
last_observation = Gauge(
    "vfmalign_monitor_last_observation_timestamp_seconds",
    "Time of the monitor's last observation, creation or resumption (the latest of them), in seconds since 1970.",
    _MONITOR,
    registry=REGISTRY,
)
max_silence_seconds = Gauge(
    "vfmalign_monitor_max_silence_seconds",
    "Time in seconds after which operators are alerted if no observation arrives; absent if not set.",
    _MONITOR,
    registry=REGISTRY,
)
observations = Counter(
    "vfmalign_monitor_observations",
    "Observations received by this process, by outcome; `duplicate`: the same observation was sent again; `conflict`: "
    "the id was recorded before with other content.",
    (*_MONITOR, "outcome"),
    registry=REGISTRY,
)
replays_that_differ = Counter(
    "vfmalign_monitor_replays_that_differ",
    "Replays after a restart in which the last bits of the evidence differ from the recorded evidence.",
    registry=REGISTRY,
)
snapshot_failures = Counter(
    "vfmalign_monitor_snapshot_failures",
    "Monitor states that could not be stored. A restart replays more observations until a state is stored again.",
    registry=REGISTRY,
)
window_failures = Counter(
    "vfmalign_monitor_window_failures",
    "Windows for which MMD² could not be computed, by reason of the error.",
    ("reason",),
    registry=REGISTRY,
)

# Start at 0, because a rate does not see the first failure of a series that begins with it.
for _reason in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
    window_failures.labels(_reason)

Labels = tuple[str, ...]
_GAUGES = (
    log_evidence,
    log_threshold,
    mmd2,
    alarm,
    paused,
    lag_seconds,
    last_observation,
    max_silence_seconds,
)
_exported: dict[Gauge, set[Labels]] = {}


@dataclass(frozen=True)
class MonitorSample:
    """Metrics of one monitor that the leader exports. A metric is None if the monitor does not have this metric.

    Attributes:
        log_evidence, log_threshold: values by component.
        alarm: whether the monitor has an alarm that nobody has acknowledged.
    """

    tenant: str
    monitor: str
    log_evidence: dict[str, float | None]
    log_threshold: dict[str, float]
    mmd2: float | None
    alarm: bool
    paused: bool
    lag_s: float | None
    last_observation_s: float
    max_silence_s: float | None


def export_samples(samples: Sequence[MonitorSample]) -> None:
    """Exports the metrics of exactly these monitors. The time series of a monitor that stays exported has no gap."""
    values: dict[Gauge, dict[Labels, float | None]] = {gauge: {} for gauge in _GAUGES}
    for one in samples:
        labels: Labels = one.tenant, one.monitor
        values[log_evidence] |= {(*labels, name): value for name, value in one.log_evidence.items()}
        values[log_threshold] |= {(*labels, name): value for name, value in one.log_threshold.items()}
        values[mmd2][labels] = one.mmd2
        values[alarm][labels] = float(one.alarm)
        values[paused][labels] = float(one.paused)
        values[lag_seconds][labels] = one.lag_s
        values[last_observation][labels] = one.last_observation_s
        values[max_silence_seconds][labels] = one.max_silence_s
    for gauge, named in values.items():
        present = {labels: value for labels, value in named.items() if value is not None}
        for key, value in present.items():
            gauge.labels(*key).set(value)
        for key in _exported.get(gauge, set()) - present.keys():
            gauge.remove(*key)
        _exported[gauge] = set(present)


_MAX_COUNTED = 10_000
_counted: OrderedDict[Labels, None] = OrderedDict()
_counting = threading.Lock()


def count_observation(tenant: str, monitor: str, outcome: str) -> None:
    """Counts an observation.

    Only the monitors that were counted most recently are exported. Without this limit, deleted monitors would
    accumulate, because a process does not learn of deletions by other processes.
    """
    labels = tenant, monitor
    with _counting:
        _counted[labels] = None
        _counted.move_to_end(labels)
        unused = _counted.popitem(last=False)[0] if len(_counted) > _MAX_COUNTED else None
    if unused is not None:
        _remove(*unused)
    observations.labels(tenant, monitor, outcome).inc()


def forget_observations(tenant: str, monitor: str) -> None:
    """Stops exporting the number of observations for a deleted monitor."""
    with _counting:
        _counted.pop((tenant, monitor), None)
    _remove(tenant, monitor)


def _remove(tenant: str, monitor: str) -> None:
    for outcome in OUTCOMES:
        with contextlib.suppress(KeyError):
            observations.remove(tenant, monitor, outcome)
