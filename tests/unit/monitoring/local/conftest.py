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
def run_observer(tmp_path: Path) -> Observe:
    """Observes files; `said` of the fixture's function collects progress and alarms."""
    said: list[Any] = []

    def run(reference: str, *streams: str, **options: Any) -> DriftDocument:
        folder = tmp_path / "exchange"
        folder.mkdir(exist_ok=True)
        request = DriftRequest(reference=reference, streams=streams, **options)
        return observe(request, folder, lambda *numbers: said.append(numbers), lambda *alarm: said.append(alarm))

    run.said = said  # type: ignore[attr-defined]
    return run
