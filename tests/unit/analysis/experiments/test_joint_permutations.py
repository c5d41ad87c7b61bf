"""The joint permutation test against brute force, and where it ends."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vfmalign.analysis.experiments.joint_permutations import (
    DRAWS,
    JointPermutations,
    permute_correlations,
    run_joint_permutation_test,
    run_test,
)
from vfmalign.analysis.experiments.rank_correlation import Stratum, mean_correlation


def make_strata(x_NS, y_NS):
    units = tuple(f"u{place}" for place in range(len(x_NS)))
    columns = zip(np.array(x_NS, dtype=float).T, np.array(y_NS, dtype=float).T, strict=True)
    return [Stratum(str(place), units, x_N, y_N) for place, (x_N, y_N) in enumerate(columns)]


def brute_force(x_NS, y_NS, sign):
    """The shares over all orders of the units, one by one."""

    def mean(order):
        columns = zip(x_NS.T, y_NS[list(order)].T, strict=True)
        return np.mean([stats.spearmanr(x_N, y_N).statistic for x_N, y_N in columns])

    values = np.array([mean(order) for order in itertools.permutations(range(len(x_NS)))])
    observed, largest = mean(range(len(x_NS))), np.abs(values).max()
    return (
        (sign * values >= sign * observed - 1e-9).mean(),
        (np.abs(values) >= abs(observed) - 1e-9).mean(),
        (np.abs(values) >= largest - 1e-9).mean(),
    )


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("ties", [False, True])
def test_the_enumeration_is_that_of_brute_force(sign, ties):
    rng = np.random.default_rng(3)
    x_NS, y_NS = (rng.integers(0, 3, (5, 2)) if ties else rng.random((5, 3)) for _ in range(2))
    test = run_joint_permutation_test(make_strata(x_NS, y_NS), sign=sign, seed=1)
    assert test.enumerated
    assert test.permutations == 120
    assert (test.p_paper, test.p_two_sided, test.smallest_p_two_sided) == pytest.approx(brute_force(x_NS, y_NS, sign))


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4), min_size=3, max_size=4), st.sampled_from([-1, 1]))
@settings(max_examples=25)
def test_the_enumeration_is_that_of_brute_force_with_any_ties(rows, sign):
    table = np.array(rows, dtype=float)
    x_NS, y_NS = table[:, :2], table[:, 2:]
    if any(len(np.unique(column)) == 1 for column in table.T):
        return
    test = run_test(x_NS, y_NS, JointPermutations.create(len(rows), seed=1), sign=sign)
    assert (test.p_paper, test.p_two_sided, test.smallest_p_two_sided) == pytest.approx(brute_force(x_NS, y_NS, sign))


def test_an_order_that_all_strata_share_counts_once():
    """Five models with one order in five tasks are five observations and not 25."""
    test = run_joint_permutation_test(
        make_strata([[n] * 5 for n in range(5)], [[-n] * 5 for n in range(5)]), sign=-1, seed=1
    )
    assert test.p_paper == pytest.approx(1 / 120)
    assert test.p_two_sided == test.smallest_p_two_sided == pytest.approx(2 / 120)


def test_equally_extreme_orders_count_as_extreme():
    """One of five units differs in y, so that only its place matters: each of five has the probability of a fifth."""
    test = run_joint_permutation_test(make_strata([[n] for n in range(5)], [[0], [0], [0], [0], [1]]), sign=1, seed=1)
    assert test.p_paper == pytest.approx(1 / 5)
    assert test.p_two_sided == test.smallest_p_two_sided == pytest.approx(2 / 5)


def test_infinite_values_rank_last():
    x_NS = np.arange(5.0)[:, np.newaxis]
    censored, last = np.array([[0, 2, 1, math.inf, math.inf], [0, 2, 1, 9, 9]])[:, :, np.newaxis]
    orders = JointPermutations.create(5, seed=1)
    assert run_test(x_NS, censored, orders, sign=1) == run_test(x_NS, last, orders, sign=1)


def test_eight_units_are_enumerated_and_nine_are_drawn():
    assert len(JointPermutations.create(8, seed=1)) == math.factorial(8) == 40_320
    perfect = np.arange(9.0)[:, np.newaxis]
    test = run_joint_permutation_test(make_strata(perfect, perfect), sign=1, seed=1)
    assert not test.enumerated
    assert test.permutations == DRAWS == 20_000
    assert test.p_paper == pytest.approx(1 / 20_001)
    assert test == run_joint_permutation_test(make_strata(perfect, perfect), sign=1, seed=1)


def test_draws_agree_with_the_enumeration():
    rng = np.random.default_rng(4)
    x_NS, y_NS = rng.random((2, 7, 3))
    exact = run_test(x_NS, y_NS, JointPermutations.create(7, seed=1), sign=1)
    drawn = run_test(x_NS, y_NS, JointPermutations.draw(7, DRAWS, rng), sign=1)
    assert exact.enumerated
    assert not drawn.enumerated
    assert drawn.p_paper == pytest.approx(exact.p_paper, abs=5 * math.sqrt(0.25 / DRAWS))
    assert drawn.p_two_sided == pytest.approx(exact.p_two_sided, abs=5 * math.sqrt(0.25 / DRAWS))


def test_a_unit_keeps_its_values_in_all_strata():
    value_NS = np.arange(12.0).reshape(4, 3)
    for reordered_NS in JointPermutations.create(4, seed=1).apply(value_NS):
        assert sorted(map(tuple, reordered_NS)) == sorted(map(tuple, value_NS))


@pytest.mark.parametrize("units", [0, 2, 4])
def test_fewer_than_five_units_are_not_tested(units):
    assert (
        run_joint_permutation_test(make_strata(*np.random.default_rng(1).random((2, units, 3))), sign=1, seed=1) is None
    )
    assert run_joint_permutation_test([], sign=1, seed=1) is None


def test_a_stratum_that_is_tied_does_not_enter_the_mean_of_a_number():
    rng = np.random.default_rng(5)
    x_KNS, y_NS = rng.random((2, 6, 3)), rng.random((6, 3))
    x_KNS[1, :, 2] = 7.0
    rho_K, rho_PK = permute_correlations(x_KNS, y_NS, JointPermutations.create(6, seed=1))
    assert rho_K[0] == pytest.approx(mean_correlation(make_strata(x_KNS[0], y_NS)))
    assert rho_K[1] == pytest.approx(mean_correlation(make_strata(x_KNS[1, :, :2], y_NS[:, :2])))
    assert rho_PK.shape == (720, 2)
    assert rho_PK[0] == pytest.approx(rho_K)
