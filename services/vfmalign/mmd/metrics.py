"""Prometheus metrics that only the MMD service has."""

from __future__ import annotations

from prometheus_client import Counter

from vfmalign.core.runtime.metrics import REGISTRY

engine_cpu_seconds = Counter(
    "vfmalign_engine_cpu_seconds",
    "CPU time of comparisons, with that of the threads that they run, in seconds; counted when a comparison ends.",
    registry=REGISTRY,
)
