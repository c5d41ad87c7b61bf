"""The mix of strata: its bound by enumeration, and what it tells from a change of features."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from vfmalign.monitoring.sequential import Component
from vfmalign.monitoring.sequential.stratum_mix import StratumMix, get_log_evidence


@pytest.mark.parametrize("probability", [0.05, 0.3, 0.5])
def test_the_bound_holds_over_every_sequence(probability: float) -> None:
    largest: list[tuple[float, float]] = []
    for ones in product((0, 1), repeat=11):
        weight = math.prod(probability if one else 1 - probability for one in ones)
        evidence = [get_log_evidence(sum(ones[:4]), 4, sum(ones[4:stop]), stop - 4) for stop in range(4, 12)]
        largest.append((math.exp(max(evidence)), weight))
    assert max(value for value, _ in largest) > 2.0
    for level in sorted({value for value, _ in largest}):
        assert sum(weight for value, weight in largest if value >= level) <= 1 / level + 1e-12


def test_the_evidence_has_its_closed_form() -> None:
    # m(11) = ½·¾, m(0) = ½, and the largest probability of 1, 1 and 0 is (2/3)²·(1/3).
    expected = math.log(0.5 * 0.75 * 0.5 / ((2 / 3) ** 2 / 3))
    assert get_log_evidence(2, 2, 0, 1) == pytest.approx(expected, abs=1e-12)


def test_strata_that_the_scoring_rows_lack_count_as_one() -> None:
    mix = StratumMix(("a",), {"a": 2, "x": 1})
    for stratum in ("y", "a", ""):
        mix.add(stratum)
    assert mix.calibration == {"a": 2, "": 1}
    assert mix.stream == {"a": 1, "": 1}


def test_without_strata_there_is_no_evidence() -> None:
    mix = StratumMix((), {"a": 5})
    mix.add("a")
    assert (mix.stream, mix.largest_log_evidence) == ({}, 0.0)


@pytest.mark.parametrize("more", ["a", "b", "c", "new"])
def test_a_larger_share_of_any_stratum_is_found(make_monitor: Any, observe: Any, more: str) -> None:
    monitor = make_monitor(rows=150, strata=["a", "b", "c"] * 50)
    rng = np.random.default_rng(0)
    strata = np.where(rng.random(150) < 0.7, more, rng.choice(["a", "b", "c"], 150)).tolist()
    observe(monitor, rng.normal(size=(150, 4)), strata=strata)
    assert monitor.status.mix_log_evidence > monitor.status.mix_log_threshold
    assert monitor.status.mix_log_threshold == pytest.approx(math.log(4 / 0.008))


def test_another_mix_is_told_from_other_features(make_monitor: Any, observe: Any) -> None:
    reference = ["a", "a", "b"] * 40
    rng = np.random.default_rng(0)
    rows, more_b = rng.normal(size=(100, 4)), rng.choice(["a", "b"], p=[0.2, 0.8], size=100).tolist()
    mixed = make_monitor(rows=120, strata=reference)
    observe(mixed, rows, strata=more_b)
    assert mixed.status.mix_log_evidence > mixed.status.mix_log_threshold
    assert mixed.status.alarm is None
    assert mixed.status.strata == {"a": more_b.count("a"), "b": more_b.count("b"), "": 0}
    moved = make_monitor(rows=120, strata=reference)
    observe(moved, rows + 3.0, strata=rng.choice(["a", "b"], p=[2 / 3, 1 / 3], size=100).tolist())
    assert moved.status.mix_log_evidence < moved.status.mix_log_threshold
    assert moved.status.alarm is not None


def test_the_mix_never_changes_the_main_evidence(make_monitor: Any, observe: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 4))
    evidence = []
    for stratum in ("a", "unheard of", ""):
        monitor = make_monitor(strata=["a"] * 60)
        observe(monitor, rows, strata=[stratum] * 50)
        evidence.append(monitor.status.log_martingale)
    assert evidence[0] == evidence[1] == evidence[2]
    assert set(evidence[0]) == set(Component)
