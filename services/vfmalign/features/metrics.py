"""Prometheus metrics of the feature service alone."""

from __future__ import annotations

from prometheus_client import Histogram

from vfmalign.core.runtime.metrics import REGISTRY

batch_size = Histogram(
    "vfmalign_batch_size",
    "Volumes in one forward pass.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)
