"""Prometheus metrics of the finetuning service alone.

The leader exports how many jobs, checks and experiments there are; every process counts those that it ends itself.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram

from vfmalign.client.messages.common import TERMINAL_STATES
from vfmalign.core.runtime.metrics import REGISTRY, artifacts_recomputed, quota_used_ratio

_State = TypeVar("_State", bound=str)
WAIT_SECONDS = (0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)

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
jobs_waiting = Gauge(
    "vfmalign_jobs_waiting",
    "Queued and pending jobs that say what they wait for, by its kind, such as `NO_FREE_SLOT`, `UNSCHEDULABLE` or "
    "`STORE_UNAVAILABLE`.",
    ("reason",),
    registry=REGISTRY,
)
job_attempts_ended = Counter(
    "vfmalign_job_attempts_ended",
    "Attempts of jobs that ended, by outcome: `succeeded`, `permanent` and `retryable` failures, `interrupted` from "
    "outside, `unavailable` object storage, or `cancelled`.",
    ("outcome",),
    registry=REGISTRY,
)
experiment_cells = Gauge(
    "vfmalign_experiment_cells", "Cells of unfinished experiments by state.", ("state",), registry=REGISTRY
)
ended = Counter(
    "vfmalign_operations_ended",
    "Jobs, checks and experiments (`kind`) that ended, by their last state; one that is retried may end again. `fault` "
    "tells of a failure whether the system has to be mended or the request, and is `none` otherwise.",
    ("kind", "state", "fault"),
    registry=REGISTRY,
)
job_queue_wait_seconds = Histogram(
    "vfmalign_job_queue_wait_seconds",
    "Time from a job's creation to the first start of all its processes or pods, in seconds.",
    buckets=WAIT_SECONDS,
    registry=REGISTRY,
)
jobs_longest_wait = Gauge(
    "vfmalign_jobs_longest_wait_timestamp_seconds",
    "When the job was created or retried that has waited longest and has not started yet, in seconds since 1970; 0 "
    "where none waits. A job that waits for another one, which trains the same baseline, does not count.",
    registry=REGISTRY,
)
# Counters that begin with their first event would hide it from `increase()`.
for _kind in ("job", "check", "experiment"):
    for _state in sorted(TERMINAL_STATES):
        for _fault in ("system", "request") if _state == "failed" else ("none",):
            ended.labels(_kind, _state, _fault)
for _lost in ("job_result", "model", "stage", "report"):
    artifacts_recomputed.labels(_lost)
for _outcome in ("succeeded", "permanent", "retryable", "interrupted", "unavailable", "cancelled"):
    job_attempts_ended.labels(_outcome)
_waited_for: set[str] = set()


def count_states(gauge: Gauge, tenants: Sequence[Mapping[_State, int]]) -> None:
    """Sets a gauge of numbers by state or reason to those of all tenants together."""
    for state in tenants[0]:
        gauge.labels(state).set(sum(numbers[state] for numbers in tenants))


def count_waiting_jobs(tenants: Sequence[Mapping[str, int]]) -> None:
    """Sets the numbers of waiting jobs by reason; a reason for which no job waits any longer stays, with 0."""
    present = sum((collections.Counter(numbers) for numbers in tenants), collections.Counter[str]())
    _waited_for.update(present)
    for reason in _waited_for:
        jobs_waiting.labels(reason).set(present[reason])


def export_longest_wait(tenants: Sequence[datetime | None]) -> None:
    """Exports when the job was queued that has waited longest in each tenant; None where none waits."""
    jobs_longest_wait.set(min((since.timestamp() for since in tenants if since is not None), default=0.0))


def export_quotas(tenant: str, used: Mapping[str, float]) -> None:
    """Exports the shares of the quotas of a tenant that are used, by quota."""
    for quota, share in used.items():
        quota_used_ratio.labels(tenant, quota).set(share)


def clear_states() -> None:
    """Ends the export of the numbers by state: those of the next leader count."""
    for gauge in (jobs, checks, experiments, checks_waiting, jobs_waiting, experiment_cells, quota_used_ratio):
        gauge.clear()
    jobs_longest_wait.set(0)
    _waited_for.clear()
