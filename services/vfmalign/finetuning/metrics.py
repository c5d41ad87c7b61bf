"""Prometheus metrics that only the finetuning service exports.

The leader exports the numbers of jobs, checks and experiments. Each process counts only the operations that it ends
itself.
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
    "vfmalign_jobs", "Jobs by state. A `pending` job is launched, but has not started.", ("state",), registry=REGISTRY
)
checks = Gauge("vfmalign_checks", "Checks by state.", ("state",), registry=REGISTRY)
experiments = Gauge("vfmalign_experiments", "Experiments by state.", ("state",), registry=REGISTRY)
checks_waiting = Gauge(
    "vfmalign_checks_waiting",
    "Checks that wait before they repeat a failed or rejected call, by reason of the error, such as `UNAVAILABLE`, "
    "`STORE_UNAVAILABLE` or `UNAUTHENTICATED`. A check with several reasons counts once for each.",
    ("reason",),
    registry=REGISTRY,
)
jobs_waiting = Gauge(
    "vfmalign_jobs_waiting",
    "Queued and pending jobs with a known cause of waiting, by cause, such as `NO_FREE_SLOT`, `UNSCHEDULABLE` or "
    "`STORE_UNAVAILABLE`.",
    ("reason",),
    registry=REGISTRY,
)
job_attempts_ended = Counter(
    "vfmalign_job_attempts_ended",
    "Ended attempts of jobs, by outcome: `succeeded`, `permanent` or `retryable` failure, `interrupted` from outside, "
    "`unavailable` object storage, or `cancelled`.",
    ("outcome",),
    registry=REGISTRY,
)
experiment_cells = Gauge(
    "vfmalign_experiment_cells", "Cells of unfinished experiments, by state.", ("state",), registry=REGISTRY
)
ended = Counter(
    "vfmalign_operations_ended",
    "Jobs, checks and experiments (`kind`) that ended, by their last state. After a retry, they may end again. `fault` "
    "is `system` or `request`, depending on which of them caused a failure, and otherwise `none`.",
    ("kind", "state", "fault"),
    registry=REGISTRY,
)
probes = Counter(
    "vfmalign_probes",
    "Probes by the leader, once a minute: calls of `features`, `mmd` and `monitoring`, and a write of 1 KiB to the "
    "object `store`. The `outcome` is `succeeded` or `failed`.",
    ("service", "outcome"),
    registry=REGISTRY,
)
job_queue_wait_seconds = Histogram(
    "vfmalign_job_queue_wait_seconds",
    "Time from the creation of a job until all its processes or pods run for the first time, in seconds.",
    buckets=WAIT_SECONDS,
    registry=REGISTRY,
)
jobs_longest_wait = Gauge(
    "vfmalign_jobs_longest_wait_timestamp_seconds",
    "When the longest-waiting job that has not started yet was created or retried, in seconds since 1970; 0 if no job "
    "waits. Jobs that wait for another job with the same baseline do not count.",
    registry=REGISTRY,
)
# Start all counters at 0: `increase()` does not see the first event of a counter that begins with it.
for _kind in ("job", "check", "experiment"):
    for _state in sorted(TERMINAL_STATES):
        for _fault in ("system", "request") if _state == "failed" else ("none",):
            ended.labels(_kind, _state, _fault)
for _lost in ("job_result", "model", "stage", "report"):
    artifacts_recomputed.labels(_lost)
for _outcome in ("succeeded", "permanent", "retryable", "interrupted", "unavailable", "cancelled"):
    job_attempts_ended.labels(_outcome)
for _service in ("features", "mmd", "monitoring", "store"):
    for _outcome in ("succeeded", "failed"):
        probes.labels(_service, _outcome)
_waited_for: set[str] = set()


def count_states(gauge: Gauge, tenants: Sequence[Mapping[_State, int]]) -> None:
    """Sets a gauge per state or reason to the sum over all tenants."""
    for state in tenants[0]:
        gauge.labels(state).set(sum(numbers[state] for numbers in tenants))


def count_waiting_jobs(tenants: Sequence[Mapping[str, int]]) -> None:
    """Sets the number of waiting jobs for each reason. For reasons without waiting jobs, the number is 0."""
    present = sum((collections.Counter(numbers) for numbers in tenants), collections.Counter[str]())
    _waited_for.update(present)
    for reason in _waited_for:
        jobs_waiting.labels(reason).set(present[reason])


def export_longest_wait(tenants: Sequence[datetime | None]) -> None:
    """Exports when the job that has waited longest was queued. The time of a tenant without waiting jobs is None."""
    jobs_longest_wait.set(min((since.timestamp() for since in tenants if since is not None), default=0.0))


def export_quotas(tenant: str, used: Mapping[str, float]) -> None:
    """Exports the used share of each quota of a tenant."""
    for quota, share in used.items():
        quota_used_ratio.labels(tenant, quota).set(share)


def clear_states() -> None:
    """Stops exporting the numbers by state. From now on, the next leader exports these numbers."""
    for gauge in (jobs, checks, experiments, checks_waiting, jobs_waiting, experiment_cells, quota_used_ratio):
        gauge.clear()
    jobs_longest_wait.set(0)
    _waited_for.clear()
