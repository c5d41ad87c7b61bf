"""Prometheus metrics of services with a database: transactions, and whether this process leads."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from vfmalign.core.runtime.metrics import REGISTRY, SECONDS

orchestrator_leader = Gauge(
    "vfmalign_orchestrator_leader", "Whether this orchestrator leads (1) or stands by (0).", registry=REGISTRY
)
orchestrator_takeovers = Counter(
    "vfmalign_orchestrator_takeovers", "Times that this orchestrator began to lead.", registry=REGISTRY
)
database_seconds = Histogram(
    "vfmalign_database_seconds",
    "Time of one transaction, with the wait for its lock, in seconds; `access` is `read` or `write`.",
    ("access",),
    buckets=SECONDS,
    registry=REGISTRY,
)
database_errors = Counter(
    "vfmalign_database_errors",
    "Transactions that failed because the database cannot be reached, is damaged or rejects a statement.",
    registry=REGISTRY,
)
