"""The benchmark of the endpoint: a real server and store, and all five figures."""

from __future__ import annotations

import pytest
from bench import tables
from bench.endpoint import measurements
from bench.measure import MeasurementSettings
from bench.workloads import gemm_limit


def test_all_five_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"LATENCY_CALLS": 2, "CLIENTS": 3, "CLIENT_CALLS": 2, "ROUNDS": 2, "SMALL_CALLS": 2, "LARGE_REQUEST_S": 0.5}
    small["TOKEN_CALLS"] = 2
    for name, value in small.items():
        monkeypatch.setattr(measurements, name, value)
    monkeypatch.setattr(measurements, "REFERENCE_BYTES", 2**20)
    monkeypatch.setattr(measurements, "LARGE_ROWS", 6_000)
    monkeypatch.setattr(measurements, "PERMUTATIONS", 50)
    monkeypatch.setattr(gemm_limit, "SECONDS_PER_TRIAL", 0.001)
    section = measurements.run(MeasurementSettings(threads=1))
    inline, by_reference, beside, *rounds, authenticated = section.records
    assert (inline["ratio"] > 0.1, by_reference["ratio"] > 0.1) == (True, True)
    assert len(beside["beside_s"]) > 0
    assert beside["least_s"] > 0.0
    assert [len(one["rounds"]) for one in rounds] == [2, 2]
    for one in rounds:
        assert all(0.0 < counters["engine"] < counters["process"] for counters in one["rounds"])
    assert (len(authenticated["open_s"]), len(authenticated["authenticated_s"])) == (2, 2)
    assert authenticated["token_ratio"] > 0.1
    text = tables.to_markdown(section)
    assert "1 MiB by reference (n = m = 170, d = 768), no test" in text
    assert "3 clients, n = m = 256" in text
