"""Rank correlation in strata against brute force, formulas and known cases."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vfmalign.finetuning.experiments.analysis import rank_correlation
from vfmalign.finetuning.experiments.analysis.rank_correlation import (
    Stratum,
    common_permutation_test,
    count_permutations,
    mean_correlation,
    permutation_test,
    rank_correlations,
)


def stratum(name, x, y):
    units = tuple(f"u{place}" for place in range(len(x)))
    return Stratum(name, units, np.array(x, dtype=float), np.array(y, dtype=float))


def brute_force(strata, sign):
    """The shares over the product of all permutations, one by one."""
    weights = [len(one.x_N) - 1 for one in strata]

    def mean(orders):
        rhos = [
            stats.spearmanr(one.x_N, one.y_N[list(order)]).statistic for one, order in zip(strata, orders, strict=True)
        ]
        return np.average(rhos, weights=weights)

    values = np.array(
        [mean(orders) for orders in itertools.product(*(itertools.permutations(range(len(s.x_N))) for s in strata))]
    )
    observed = mean([range(len(one.x_N)) for one in strata])
    return (
        (sign * values >= sign * observed - 1e-9).mean(),
        (np.abs(values) >= abs(observed) - 1e-9).mean(),
        (sign * values >= (sign * values).max() - 1e-9).mean(),
        (np.abs(values) >= np.abs(values).max() - 1e-9).mean(),
    )


SMALL = [
    [stratum("a", [1, 2, 3], [2, 1, 3]), stratum("b", [1, 2, 3, 4], [4, 3, 1, 2])],
    [stratum("a", [1, 1, 2], [2, 1, 3]), stratum("b", [1, 2, 3, 3], [4, 4, 1, 2])],
    [stratum("a", [1, 2, 2, 3], [5, 5, 1, 0])],
    [stratum("a", [1, 2, 3], [2, 1, math.inf]), stratum("b", [3, 1], [1, 2])],
]


@pytest.mark.parametrize("strata", SMALL)
@pytest.mark.parametrize("sign", [-1, 1])
def test_permutation_test_is_that_of_brute_force(strata, sign):
    ranked = [stratum(one.name, one.x_N, stats.rankdata(one.y_N)) for one in strata]
    test = permutation_test(strata, sign=sign, seed=1)
    assert test.enumerated
    assert (
        test.p_paper, test.p_two_sided, test.smallest_p_paper, test.smallest_p_two_sided
    ) == pytest.approx(brute_force(ranked, sign))  # fmt: skip


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=4), min_size=1, max_size=2),
    st.sampled_from([-1, 1]),
)
@settings(max_examples=25, deadline=None)
def test_permutation_test_is_that_of_brute_force_with_any_ties(pairs, sign):
    strata = rank_correlation.with_defined_rho(
        [stratum(str(i), *zip(*rows, strict=True)) for i, rows in enumerate(pairs)]
    )
    test = permutation_test(strata, sign=sign, seed=1)
    if not strata:
        assert test is None
        return
    assert (
        test.p_paper, test.p_two_sided, test.smallest_p_paper, test.smallest_p_two_sided
    ) == pytest.approx(brute_force(strata, sign))  # fmt: skip


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_permutations_are_the_distinct_orders(values):
    assert count_permutations(np.array(values)) == len(set(itertools.permutations(values)))


def test_permutations_are_counted_by_the_formula():
    four = [stratum(str(i), [1, 2, 3, 4], [4, 3, 2, 1]) for i in range(5)]
    test = permutation_test(four, sign=-1, seed=1)
    assert test.permutations == math.factorial(4) ** 5
    assert test.smallest_p_paper == pytest.approx(24.0**-5)
    assert test.smallest_p_two_sided == pytest.approx(2 * 24.0**-5)
    assert test.p_paper == pytest.approx(24.0**-5)
    assert test.enumerated
    tied = [stratum("a", [1, 2, 3, 4], [4, 3, 3, 1]), stratum("b", [1, 2, 3], [1, 1, 1])]
    assert permutation_test(tied, sign=-1, seed=1).permutations == 12  # what is all ties has no ρ


def test_too_many_permutations_are_drawn(monkeypatch):
    monkeypatch.setattr(rank_correlation, "MONTE_CARLO", 4000)
    rng = np.random.default_rng(3)
    long = [stratum(str(i), rng.random(12), rng.random(12)) for i in range(3)]
    test = permutation_test(long, sign=-1, seed=5)
    assert not test.enumerated
    assert test.drawn == 4000
    assert test == permutation_test(long, sign=-1, seed=5)
    perfect = permutation_test([stratum("a", range(12), range(12))], sign=1, seed=1)
    assert perfect.p_paper == perfect.smallest_p_paper == pytest.approx(1 / 4001)


def test_draws_agree_with_the_enumeration(monkeypatch):
    strata = [stratum(str(i), [1, 2, 3, 4, 5], y) for i, y in enumerate(([2, 1, 5, 3, 4], [1, 3, 2, 5, 4]))]
    exact = permutation_test(strata, sign=1, seed=1)
    monkeypatch.setattr(rank_correlation, "MAX_ENUMERATED", 10)
    drawn = permutation_test(strata, sign=1, seed=1)
    assert exact.enumerated
    assert not drawn.enumerated
    assert drawn.p_paper == pytest.approx(
        exact.p_paper, abs=5 * math.sqrt(exact.p_paper / rank_correlation.MONTE_CARLO)
    )


def test_rank_correlation_is_scipy_s():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 4, 9), rng.integers(0, 4, (6, 9))
    assert rank_correlations(x, y) == pytest.approx([stats.spearmanr(x, row).statistic for row in y])
    assert np.isnan(rank_correlations(np.ones(4), np.arange(4.0)))


def test_mean_weighs_each_stratum_by_its_pairs_less_one():
    strata = [
        stratum("a", [1, 2, 3], [1, 2, 3]),
        stratum("b", [1, 2, 3, 4, 5], [5, 4, 3, 2, 1]),
        stratum("c", [1], [1]),
    ]
    assert mean_correlation(strata) == pytest.approx((2 * 1 + 4 * -1) / 6)
    assert mean_correlation([stratum("c", [1], [1]), stratum("d", [1, 2], [3, 3])]) is None


def test_one_order_for_all_strata_sees_that_models_keep_theirs():
    strata = [stratum(str(i), [1, 2, 3, 4], [4, 3, 2, 1]) for i in range(5)]
    test = common_permutation_test(strata, sign=-1)
    assert test.permutations == 24
    assert test.p_paper == pytest.approx(1 / 24)
    assert test.p_two_sided == test.smallest_p_two_sided == pytest.approx(2 / 24)
    assert common_permutation_test([*strata, stratum("x", [1, 2], [1, 2])], sign=-1) is None


def test_null_keeps_its_level():
    rng = np.random.default_rng(11)
    experiments = 200
    rejected = {"paper": 0, "both": 0}
    for _ in range(experiments):
        strata = [stratum(str(i), rng.random(4), rng.random(4)) for i in range(5)]
        test = permutation_test(strata, sign=-1, seed=1)
        rejected["paper"] += test.p_paper <= 0.05
        rejected["both"] += test.p_two_sided <= 0.05
    # An exact test rejects at most 5 %: 10 of 200, with 4 standard deviations of 3.1.
    assert rejected["paper"] <= 10 + 12
    assert rejected["both"] <= 10 + 12
    assert rejected["paper"] >= 2
