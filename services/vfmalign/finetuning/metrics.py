"""Prometheus metrics of the finetuning service alone.

The leader exports how many jobs, checks and experiments there are; every process counts those that it ends itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import Counter, Gauge, Histogram

from vfmalign.client.messages.common import TERMINAL_STATES
from vfmalign.core.runtime.metrics import REGISTRY

_WAIT_SECONDS = (0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)

jobs = Gauge(
    "vfmalign_jobs", "Jobs by state; a pending one is launched and has not started.", ("state",), registry=REGISTRY
)
checks = Gauge("vfmalign_checks", "Checks by state.", ("state",), registry=REGISTRY)
experiments = Gauge("vfmalign_experiments", "Experiments by state.", ("state",), registry=REGISTRY)
checks_waiting = Gauge(
    "vfmalign_checks_waiting",
    "Checks that pause before they repeat a call that failed or was refused, by the kind of the error, such as "
    "`UNAVAILABLE`, `STORE_UNAVAILABLE` or `UNAUTHENTICATED`. A check with several kinds counts for each.",
    ("reason",),
    registry=REGISTRY,
)
ended = Counter(
    "vfmalign_operations_ended",
    "Jobs, checks and experiments (`kind`) that ended, by their last state; one that is retried may end again.",
    ("kind", "state"),
    registry=REGISTRY,
)
job_queue_wait_seconds = Histogram(
    "vfmalign_job_queue_wait_seconds",
    "Time from a job's creation to the first start of all its processes or pods, in seconds.",
    buckets=_WAIT_SECONDS,
    registry=REGISTRY,
)
# Counters that begin with their first event would hide it from `increase()`.
for _kind in ("job", "check", "experiment"):
    for _state in sorted(TERMINAL_STATES):
        ended.labels(_kind, _state)


def count_states(gauge: Gauge, tenants: Sequence[Mapping[str, int]]) -> None:
    """Sets a gauge of numbers by state or reason to those of all tenants together."""
    for state in tenants[0]:
        gauge.labels(state).set(sum(numbers[state] for numbers in tenants))


def clear_states() -> None:
    """Ends the export of the numbers by state: those of the next leader count."""
    for gauge in (jobs, checks, experiments, checks_waiting):
        gauge.clear()
