"""The mix of strata: its bound by enumeration, and what it tells from a change of features."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from vfmalign.monitoring.sequential import Component
from vfmalign.monitoring.sequential.stratum_mix import StratumMix


@pytest.mark.parametrize("probability", [0.05, 0.3, 0.5])
def test_the_bound_holds_over_every_sequence(probability: float) -> None:
    largest: list[tuple[float, float]] = []
    for labels in product("ab", repeat=10):
        weight = math.prod(probability if label == "a" else 1 - probability for label in labels)
        mix = StratumMix({label: labels[:4].count(label) for label in sorted(set(labels[:4]))})
        for label in labels[4:]:
            mix.add(label)
        largest.append((math.exp(mix.largest_log_evidence), weight))
    for level in (1.5, 2.0, 3.0, 5.0):
        assert sum(weight for value, weight in largest if value >= level) <= 1 / level


def test_the_evidence_has_its_closed_form() -> None:
    mix = StratumMix({"a": 2})
    mix.add("x")
    # Two labels, a and others: m(aa) = ½·¾, m(x) = ½, and the largest probability of {a, a, x} is (2/3)²·(1/3).
    assert mix.log_evidence == pytest.approx(math.log(0.5 * 0.75 * 0.5 / ((2 / 3) ** 2 / 3)))
    assert mix.stream == {"a": 0, "": 1}


def test_unknown_strata_do_not_count() -> None:
    mix = StratumMix({"a": 5, "b": 5})
    mix.add("")
    assert sum(mix.stream.values()) == 0
    without = StratumMix({})
    without.add("a")
    assert without.log_evidence == 0.0


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
