"""Prometheus metrics that all services share, in a separate registry, and timers for stages of work.

A service defines its own metrics in its own `metrics.py`, so that no other service exports them. A metric here that
only some processes export needs a label: a metric without labels is exported with 0 from the start.

Label values are states or constants of the code, never ids of patients, cases or objects. Ids would identify people,
and the number of ids would grow without bound.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from vfmalign import __version__

REGISTRY = CollectorRegistry(auto_describe=True)

_CALL = ("grpc_type", "grpc_service", "grpc_method")
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)

grpc_started = Counter("grpc_server_started", "RPCs that began on this server.", _CALL, registry=REGISTRY)
grpc_handled = Counter(
    "grpc_server_handled", "RPCs that ended on this server, by status code.", (*_CALL, "grpc_code"), registry=REGISTRY
)
calls_denied = Counter(
    "vfmalign_calls_denied",
    "RPCs that were denied, because the caller could not be identified or lacks the permission.",
    ("grpc_service", "grpc_method", "reason"),
    registry=REGISTRY,
)
calls_ended = Counter(
    "vfmalign_calls_ended",
    "RPCs that ended, by the side at fault (`fault`), which is `none` if they ended with OK.",
    ("grpc_service", "grpc_method", "fault"),
    registry=REGISTRY,
)
calls_failed = Counter(
    "vfmalign_calls_failed",
    "RPCs that did not end with OK, by the side at fault (`fault`) and the reason of the error. `server`: an "
    "error of the service or of what it needs, a full queue or memory, or a deadline that passed while the call waited "
    "for one of them. `pacs`: the PACS that the call names does not answer in time, rejects the service or sends "
    "something else. `caller`: everything else, such as `SHORT_DEADLINE`, a deadline that passed and was less than 2 s "
    "away when the call arrived.",
    ("grpc_service", "grpc_method", "fault", "reason"),
    registry=REGISTRY,
)
calls_by_role = Counter(
    "vfmalign_calls_by_role",
    "RPCs that callers were allowed to make, by the caller's tenant and role. Of several roles that allow the RPC, the "
    "first one in the table of docs/security.md counts.",
    ("tenant", "role", "grpc_service", "grpc_method"),
    registry=REGISTRY,
)
quota_used_ratio = Gauge(
    "vfmalign_quota_used_ratio",
    "Used share of a quota. Absent without a quota; above 1 if the quota was lowered later. Each caller has quotas of "
    "`jobs`, `checks` and `experiments`, and the value is the largest share of any caller. Each tenant has quotas of "
    "`monitors`, `storage` and `uploads`. The last two are measured when an upload is announced, and every three "
    "minutes while the value is above 0.9.",
    ("tenant", "quota"),
    registry=REGISTRY,
)
answers_not_taken = Counter(
    "vfmalign_answers_not_taken",
    "Answer messages that the caller did not read in time.",
    registry=REGISTRY,
)
deleted_objects = Counter(
    "vfmalign_deleted_objects",
    "Objects that a call or a sweep has deleted from the object storage, by kind.",
    ("kind",),
    registry=REGISTRY,
)
deleted_bytes = Counter(
    "vfmalign_deleted_bytes", "Bytes that a call or a sweep has deleted, by kind.", ("kind",), registry=REGISTRY
)
last_sweep = Gauge(
    "vfmalign_last_sweep_timestamp_seconds",
    "Time of the last complete sweep, in seconds since 1970. An hourly sweep deletes objects that are due. Before the "
    "first sweep, the start of the service.",
    ("tenant", "kind"),
    registry=REGISTRY,
)
log_lines_lost = Counter(
    "vfmalign_log_lines_lost",
    "Log lines that could not be written, for example because the disk was full.",
    registry=REGISTRY,
)
audit_lines_lost = Counter(
    "vfmalign_audit_lines_lost",
    "Audit lines that could not be written or found the queue full.",
    registry=REGISTRY,
)
grpc_handling_seconds = Histogram(
    "grpc_server_handling_seconds",
    "Time from the start of an RPC to its end, in seconds.",
    _CALL,
    buckets=SECONDS,
    registry=REGISTRY,
)
stage_seconds = Histogram(
    "vfmalign_stage_seconds", "Time of one stage of work, in seconds.", ("stage",), buckets=SECONDS, registry=REGISTRY
)
queue_depth = Gauge("vfmalign_queue_depth", "Calls that run or wait in a work queue.", ("queue",), registry=REGISTRY)
gpu_memory_used_bytes = Gauge(
    "vfmalign_gpu_memory_used_bytes",
    "Accelerator memory that this process uses, in bytes.",
    ("device",),
    registry=REGISTRY,
)
store_seconds = Histogram(
    "vfmalign_store_seconds",
    "Time of one attempt of a call to the object store, with the transfer of the object, in seconds. `operation` is "
    "`get`, `head`, `list`, `put`, `delete`, `bucket` or `probe` (a regular check that the store answers).",
    ("operation",),
    buckets=SECONDS,
    registry=REGISTRY,
)
store_attempts = Counter(
    "vfmalign_store_attempts",
    "Attempts of calls to the object store. The `outcome` is `failed` if the store does not answer, reports an "
    "error of its own or refuses the keys. Otherwise, it is `answered`.",
    ("operation", "outcome"),
    registry=REGISTRY,
)
store_failures = Counter(
    "vfmalign_store_failures",
    "Calls to the object store that failed after every attempt, or were refused.",
    ("operation",),
    registry=REGISTRY,
)
store_last_success = Gauge(
    "vfmalign_store_last_success_timestamp_seconds",
    "Unix time at which the object store last answered this process's probe. Before that, the start of the probe.",
    ("bucket",),
    registry=REGISTRY,
)
artifacts_recomputed = Counter(
    "vfmalign_artifacts_recomputed",
    "Stored objects that were lost or damaged and have been created again, by kind.",
    ("kind",),
    registry=REGISTRY,
)
build_info = Gauge(
    "vfmalign_build_info", "Version of vfmalign and of Python.", ("version", "python"), registry=REGISTRY
)


@dataclass
class Timing:
    """Wall time of one stage, in seconds; 0 while the stage runs."""

    seconds: float = 0.0


@contextmanager
def stage(name: str) -> Iterator[Timing]:
    """Measures the block as one stage, even if the block raises."""
    timing = Timing()
    start = time.perf_counter()
    try:
        yield timing
    finally:
        timing.seconds = time.perf_counter() - start
        stage_seconds.labels(name).observe(timing.seconds)


class Stages:
    """Adds up the seconds of each stage of one call. Lists the stages in the order of their first use. Thread-safe.

    Args:
        prefix: prefix of stage names in `vfmalign_stage_seconds`, such as `extract.`. Responses omit this prefix.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Timing]:
        """Measures the block and adds its time to the named stage."""
        with self._lock:
            self._seconds.setdefault(name, 0.0)
        timing = Timing()
        try:
            with stage(self._prefix + name) as timing:
                yield timing
        finally:
            with self._lock:
                self._seconds[name] += timing.seconds

    def add(self, seconds: Mapping[str, float]) -> None:
        """Adds times that were measured elsewhere, such as by an earlier attempt.

        The metric of stages omits these times.
        """
        with self._lock:
            for name, value in seconds.items():
                self._seconds[name] = self._seconds.get(name, 0.0) + value

    def seconds(self) -> dict[str, float]:
        """Returns the wall seconds per stage so far. Stages of different threads may overlap."""
        with self._lock:
            return dict(self._seconds)


def announce_build() -> None:
    """Exports the versions and the metrics of the process. Further calls have no effect.

    Counters and histograms omit their `_created` samples, which would double the number of series.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    build_info.labels(__version__, platform.python_version()).set(1)
    if "process_cpu_seconds_total" not in REGISTRY._names_to_collectors:
        ProcessCollector(registry=REGISTRY)
        GCCollector(registry=REGISTRY)
