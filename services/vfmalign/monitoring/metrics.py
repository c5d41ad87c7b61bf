"""Prometheus metrics of the monitoring service.

The leader exports what the monitors show; every process counts what it does itself. Ids of monitors are labels, because
alerts name the monitor: their number is bounded by the quota of each tenant, and none identifies a patient.
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
"""What becomes of observations, as they are counted."""
_MONITOR = ("tenant", "monitor")

log_evidence = Gauge(
    "vfmalign_monitor_log_evidence",
    "Natural logarithm of the evidence of drift, by component; absent where the statistic is 0.",
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
    "MMD² of the last window to the reference, of the layer that raises the alarm; absent before a window.",
    _MONITOR,
    registry=REGISTRY,
)
alarm = Gauge(
    "vfmalign_monitor_alarm",
    "1 from the alarm of the current epoch until somebody acknowledges it, else 0.",
    _MONITOR,
    registry=REGISTRY,
)
paused = Gauge("vfmalign_monitor_paused", "1 while the monitor is paused, else 0.", _MONITOR, registry=REGISTRY)
lag_seconds = Gauge(
    "vfmalign_monitor_lag_seconds",
    "Time from the acquisition of the last observation to its arrival, in seconds; absent where unknown.",
    _MONITOR,
    registry=REGISTRY,
)
last_observation = Gauge(
    "vfmalign_monitor_last_observation_timestamp_seconds",
    "When the last observation arrived, or the monitor was created or resumed after it, in seconds since 1970.",
    _MONITOR,
    registry=REGISTRY,
)
max_silence_seconds = Gauge(
    "vfmalign_monitor_max_silence_seconds",
    "Time without an observation after which operators are told, in seconds; absent where none is set.",
    _MONITOR,
    registry=REGISTRY,
)
observations = Counter(
    "vfmalign_monitor_observations",
    "Observations that this process recorded, by what became of them; `duplicate` counts those that were sent again, "
    "and `conflict` those whose id was recorded with other content.",
    (*_MONITOR, "outcome"),
    registry=REGISTRY,
)
replays_that_differ = Counter(
    "vfmalign_monitor_replays_that_differ",
    "Repetitions of recorded observations, after a restart, whose evidence has other last bits than was recorded.",
    registry=REGISTRY,
)
snapshot_failures = Counter(
    "vfmalign_monitor_snapshot_failures",
    "States of monitors that could not be stored; a restart repeats more observations until one is.",
    registry=REGISTRY,
)
window_failures = Counter(
    "vfmalign_monitor_window_failures",
    "Windows whose MMD² could not be computed, by the reason of the error.",
    ("reason",),
    registry=REGISTRY,
)

# From 0 on, because a rate does not see the first failure of a series that begins with it.
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
    """What the leader exports of one monitor; None for what it does not have.

    Attributes:
        log_evidence, log_threshold: by component.
        alarm: whether there is one that nobody has acknowledged.
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
    """Exports these monitors and no others. Values that stay are never absent in between."""
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

    The monitors that were counted last are exported, so that deleted ones, of which other processes do not hear, do not
    add up for ever.
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
    """Ends the export of the numbers of observations of a monitor that was deleted."""
    with _counting:
        _counted.pop((tenant, monitor), None)
    _remove(tenant, monitor)


def _remove(tenant: str, monitor: str) -> None:
    for outcome in OUTCOMES:
        with contextlib.suppress(KeyError):
            observations.remove(tenant, monitor, outcome)
