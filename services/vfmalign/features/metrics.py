"""Prometheus metrics of the feature service alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from prometheus_client import Counter, Gauge, Histogram

from vfmalign.core.domain.errors import (
    BadPacsAnswer,
    Cancelled,
    DeadlineExceeded,
    PacsRefused,
    PacsUnavailable,
    VfmalignError,
)
from vfmalign.core.runtime.metrics import REGISTRY, SECONDS, artifacts_recomputed
from vfmalign.core.runtime.work_context import PACS, current_work

PacsOperation = Literal["search", "download"]
batch_size = Histogram(
    "vfmalign_batch_size",
    "Volumes in one forward pass.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)
pacs_call_seconds = Histogram(
    "vfmalign_pacs_call_seconds",
    "Time of a search for a study's instances, or of their download, at a PACS, with its attempts, in seconds. "
    "`server` is the configured name, `operation` is `search` or `download`.",
    ("server", "operation"),
    buckets=SECONDS,
    registry=REGISTRY,
)
pacs_failures = Counter(
    "vfmalign_pacs_failures",
    "Searches and downloads at a PACS that failed after every attempt, or at the deadline of the call, by the reason "
    "of the error. Calls that their callers cancel count where an attempt has failed before.",
    ("server", "operation", "reason"),
    registry=REGISTRY,
)
pacs_received_bytes = Counter(
    "vfmalign_pacs_received_bytes",
    "Bytes of instances that a PACS has sent.",
    ("server",),
    registry=REGISTRY,
)
observations_delivered = Counter(
    "vfmalign_observations_delivered",
    "Answers of Extract about observations for monitors, by delivery and reason: `recorded`, `queued` or `dropped`. "
    "What becomes of those that were queued counts again: `recorded` with the reason FROM_OUTBOX, or `dropped`; "
    "where several replicas send the same one, each counts it.",
    ("delivery", "reason"),
    registry=REGISTRY,
)
# From 0 on, because an increase does not see the first event of a series that begins with it.
for _reason in ("OUTBOX_FULL", "STORE_UNAVAILABLE", "NO_MONITORING"):
    observations_delivered.labels("dropped", _reason)
for _lost in ("feature_set_part", "feature_set_manifest"):
    artifacts_recomputed.labels(_lost)
outbox_observations = Gauge(
    "vfmalign_outbox_observations",
    "Observations of a tenant that wait for their monitors, as far as this process knows. Replicas share them.",
    ("tenant",),
    registry=REGISTRY,
)
outbox_bytes = Gauge(
    "vfmalign_outbox_bytes",
    "Bytes of the observations of a tenant that wait for their monitors.",
    ("tenant",),
    registry=REGISTRY,
)
outbox_oldest = Gauge(
    "vfmalign_outbox_oldest_timestamp_seconds",
    "When the oldest of the observations of a tenant that wait was stored, in seconds since 1970; 0 where none waits.",
    ("tenant",),
    registry=REGISTRY,
)


def register_pacs(servers: Iterable[str]) -> None:
    """Registers the metrics of the configured PACS, so that the first failure of each is seen."""
    for server, operation in itertools.product(servers, get_args(PacsOperation)):
        pacs_call_seconds.labels(server, operation)
        for reason in (PacsUnavailable.reason, PacsRefused.reason, BadPacsAnswer.reason, DeadlineExceeded.reason):
            pacs_failures.labels(server, operation, reason)


@contextmanager
def observe_pacs(server: str, operation: PacsOperation) -> Iterator[None]:
    """Measures the block as one operation at a PACS, and counts its failure."""
    waiting = current_work.get().waiting_for(f"{PACS}{server}")
    with waiting, pacs_call_seconds.labels(server, operation).time():
        try:
            yield
        except Cancelled:
            raise
        except VfmalignError as error:
            pacs_failures.labels(server, operation, error.reason).inc()
            raise
