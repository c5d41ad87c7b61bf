"""Prometheus metrics that only the feature service exports."""

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
    "Duration of searching or downloading the instances of a study at a PACS, including all attempts, in seconds. "
    "`server` is the configured name, `operation` is `search` or `download`.",
    ("server", "operation"),
    buckets=SECONDS,
    registry=REGISTRY,
)
pacs_failures = Counter(
    "vfmalign_pacs_failures",
    "Searches and downloads at a PACS that failed after all attempts, or at the deadline of the call, by reason of the "
    "error. A call cancelled by its caller counts if an attempt had failed before.",
    ("server", "operation", "reason"),
    registry=REGISTRY,
)
pacs_received_bytes = Counter(
    "vfmalign_pacs_received_bytes",
    "Bytes of instances received from a PACS.",
    ("server",),
    registry=REGISTRY,
)
observations_delivered = Counter(
    "vfmalign_observations_delivered",
    "Observations for monitors from Extract, by delivery and reason: `queued` or `dropped`. Queued observations count "
    "again when they are `recorded` or `dropped`. If several replicas send the same observation, each counts it.",
    ("delivery", "reason"),
    registry=REGISTRY,
)
# Start at 0, because `increase()` does not see the first event of a series that begins with it.
for _reason in ("OUTBOX_FULL", "STORE_UNAVAILABLE", "NO_MONITORING"):
    observations_delivered.labels("dropped", _reason)
for _delivery in ("queued", "recorded"):
    observations_delivered.labels(_delivery, "")
for _lost in ("feature_set_part", "feature_set_manifest"):
    artifacts_recomputed.labels(_lost)
outbox_observations = Gauge(
    "vfmalign_outbox_observations",
    "Observations of a tenant that wait for their monitors, as known to this process. Replicas share the same "
    "observations.",
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
    "When the oldest waiting observation of a tenant was stored, in seconds since 1970; 0 if none waits.",
    ("tenant",),
    registry=REGISTRY,
)


def register_pacs(servers: Iterable[str]) -> None:
    """Creates the time series of each configured PACS, so that even its first failure shows as an increase."""
    for server, operation in itertools.product(servers, get_args(PacsOperation)):
        pacs_call_seconds.labels(server, operation)
        for reason in (PacsUnavailable.reason, PacsRefused.reason, BadPacsAnswer.reason, DeadlineExceeded.reason):
            pacs_failures.labels(server, operation, reason)


@contextmanager
def observe_pacs(server: str, operation: PacsOperation) -> Iterator[None]:
    """Measures the duration of the block as one operation at a PACS. If the block fails, counts the failure."""
    waiting = current_work.get().waiting_for(f"{PACS}{server}")
    with waiting, pacs_call_seconds.labels(server, operation).time():
        try:
            yield
        except Cancelled:
            raise
        except VfmalignError as error:
            pacs_failures.labels(server, operation, error.reason).inc()
            raise
