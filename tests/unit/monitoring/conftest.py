"""Monitors on generated features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vfmalign.monitoring.sequential import Monitor, MonitorOptions, Observation

Observe = Callable[..., list[Observation]]


@pytest.fixture
def make_monitor() -> Callable[..., Monitor]:
    """Makes a monitor whose reference is Gaussian."""

    def make(rows: int = 60, channels: int = 4, strata: Any = None, seed: int = 0, **options: Any) -> Monitor:
        reference = np.random.default_rng([seed, 1]).normal(size=(rows, channels))
        patients = [f"reference-{row}" for row in range(rows)]
        return Monitor(MonitorOptions(seed=seed, **options), reference, patients, strata)

    return make


@pytest.fixture
def observe() -> Observe:
    """Lets a monitor observe rows of patients of their own."""

    def run(monitor: Monitor, rows: np.ndarray, first: int = 0, **named: Any) -> list[Observation]:
        names = [f"stream-{first + row}" for row in range(len(rows))]
        return monitor.observe(rows, names, named.pop("patients", names), **named)

    return run
