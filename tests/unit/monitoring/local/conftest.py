"""Streams of arrays, and a way to observe them in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vfmalign.core.domain.drift import DriftRequest
from vfmalign.monitoring.local.observer import observe
from vfmalign.reports.drift.document import DriftDocument

Observe = Callable[..., DriftDocument]


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """Saves generated features as a .npy file and returns its path."""

    def run(name: str, rows: int, shift: float = 0.0, seed: int = 0, channels: int = 4) -> str:
        features = np.random.default_rng([seed, rows]).normal(shift, size=(rows, channels)).astype("f4")
        np.save(tmp_path / name, features)
        return str(tmp_path / name)

    return run


@pytest.fixture
def run_observer() -> Observe:
    """Observes files; its function has `said`, progress and alarms so far, and the last run's `comparisons`."""
    said: list[Any] = []

    def run(reference: str, *streams: str, **options: Any) -> DriftDocument:
        request = DriftRequest(reference=reference, streams=streams, **options)
        document, run.comparisons = observe(  # type: ignore[attr-defined]
            request, lambda *numbers: said.append(numbers), lambda *alarm: said.append(alarm)
        )
        return document

    run.said = said  # type: ignore[attr-defined]
    return run
