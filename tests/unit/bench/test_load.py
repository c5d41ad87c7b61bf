"""The benchmark under load: a real server, and a figure for each number of clients."""

from __future__ import annotations

import pytest
from bench.endpoint import load
from bench.measure import MeasurementSettings


def test_every_number_of_clients_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CLIENTS": (1, 3), "SECONDS": 1.0, "SAMPLE_S": 0.1}.items():
        monkeypatch.setattr(load, name, value)
    section = load.run(MeasurementSettings(repeats=1, threads=1))
    assert [line[0] for line in section.tables[0].rows] == ["1", "3"]
    for record in section.records:
        assert record["calls"] > 0
        assert record["refusals"] == {}
        assert len(record["rss_mib"]) > 1
