"""Prometheus metrics of the feature service alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import Counter, Histogram

from vfmalign.core.domain.errors import Cancelled, VfmalignError
from vfmalign.core.runtime.metrics import REGISTRY, SECONDS

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


@contextmanager
def observe_pacs(server: str, operation: Literal["search", "download"]) -> Iterator[None]:
    """Measures the block as one operation at a PACS, and counts its failure."""
    with pacs_call_seconds.labels(server, operation).time():
        try:
            yield
        except Cancelled:
            raise
        except VfmalignError as error:
            pacs_failures.labels(server, operation, error.reason).inc()
            raise
