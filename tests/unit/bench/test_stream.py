"""The benchmark of rows that are not in memory: values are right, and the table shows what did not run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import environments, process, stream, tables
from bench.measure import MeasurementSettings
from bench.statistics.simulations import Population


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: Callable[..., Any]) -> None:
    monkeypatch.setattr("subprocess.Popen", python)  # each method has a process; it has torch already
    for module in (environments, process):
        monkeypatch.setattr(module, "HOME", tmp_path)
    monkeypatch.setattr(stream, "CHANNELS", 8)
    monkeypatch.setattr(stream, "SHIFT", 0.5)
    monkeypatch.setattr(stream, "SIGMA", 3.0)


def test_streams_give_the_populations_value() -> None:
    sizes = stream.StreamSizes(repeated=(3_000,), once=(), slow=(10_000_000,))
    section = stream.run(MeasurementSettings(repeats=1, threads=1, retries=0), sizes)
    answers = {one["method"]: one["turns"][-1] for one in section.records if one["turns"]}
    population = Population(0, 0, 8, shift=0.5 * 8**0.5).mmd2(3.0)
    assert f"{population:.9e}" in section.sentences[0]
    assert answers["fourier, n = m = 3,000"]["value"] == pytest.approx(population, rel=0.1)
    assert answers["drawing alone, n = m = 3,000"]["value"] == pytest.approx(0.5, abs=0.05)
    text = tables.to_markdown(section)
    assert "| fourier, n = m = 10,000,000 | – | – | – | – | – | – | slow: run with --slow |" in text
