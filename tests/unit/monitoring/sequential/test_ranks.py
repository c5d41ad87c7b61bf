"""Conformal p-values by brute force, and stored scores in order."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfmalign.monitoring.sequential import ranks
from vfmalign.monitoring.sequential.ranks import SortedScores, get_cell

scores = st.lists(st.sampled_from([-1.5, 0.0, 0.25, 3.0, 1e300]), max_size=30)


@pytest.mark.parametrize("bag", [(1.0,), (1.0, 2.0), (3.0, 1.0, 2.0, 7.0), (1.0, 1.0, 2.0), (5.0, 5.0, 5.0, 5.0)])
def test_a_cell_is_the_p_value_counted_over_the_bag(bag: tuple[float, ...]) -> None:
    for order in permutations(bag):
        *others, score = order
        counted = SortedScores(np.array(others)).count(score)
        assert counted == (sum(one > score for one in others), sum(one == score for one in others))
        cells = [get_cell(*counted, len(others), (place + 0.5) / (counted[1] + 1)) for place in range(counted[1] + 1)]
        assert min(cell.lower for cell in cells) == sum(one > score for one in bag) / len(bag)
        assert max(cell.upper for cell in cells) == sum(one >= score for one in bag) / len(bag)
        assert all(cell.upper - cell.lower == pytest.approx(1 / len(bag), abs=1e-15) for cell in cells)


@pytest.mark.parametrize("bag", [(1.0, 2.0, 3.0, 4.0), (1.0, 1.0, 2.0, 2.0), (1.0, 1.0, 1.0, 3.0)])
def test_every_rank_is_equally_likely_with_ties_too(bag: tuple[float, ...]) -> None:
    probabilities: dict[float, float] = {}
    orders = list(permutations(bag))
    for *others, score in orders:
        greater, equal = SortedScores(np.array(others)).count(score)
        for place in range(equal + 1):
            cell = get_cell(greater, equal, len(others), (place + 0.5) / (equal + 1))
            probabilities[cell.lower] = probabilities.get(cell.lower, 0.0) + 1 / (equal + 1) / len(orders)
    assert probabilities == pytest.approx({rank / len(bag): 1 / len(bag) for rank in range(len(bag))}, abs=1e-12)


@given(first=scores, added=scores)
def test_counts_equal_those_of_a_list(first: list[float], added: list[float]) -> None:
    stored, plain = SortedScores(np.array(first)), list(first)
    for score in added:
        expected = (sum(one > score for one in plain), sum(one == score for one in plain))
        assert stored.count(score) == expected
        stored.add(score)
        plain.append(score)
    assert stored.to_array().tolist() == sorted(plain)
    assert len(stored) == len(plain)


def test_scores_are_merged_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_RECENT_SCORES", 8)
    values = np.random.default_rng(0).integers(0, 20, 100).astype(float)
    stored = SortedScores(values[:3])
    for index, value in enumerate(values[3:], start=3):
        assert stored.count(value) == ((values[:index] > value).sum(), (values[:index] == value).sum())
        stored.add(value)
    assert stored.to_array().tolist() == sorted(values)
