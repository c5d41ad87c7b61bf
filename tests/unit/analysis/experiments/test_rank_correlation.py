"""Rank correlation in strata against formulas and known cases."""

import numpy as np
import pytest
from scipy import stats

from vfmalign.analysis.experiments.rank_correlation import (
    Stratum,
    get_centred_ranks,
    mean_correlation,
    rank_correlations,
)


def stratum(name, x, y):
    units = tuple(f"u{place}" for place in range(len(x)))
    return Stratum(name, units, np.array(x, dtype=float), np.array(y, dtype=float))


def test_rank_correlation_is_scipy_s():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 4, 9), rng.integers(0, 4, (6, 9))
    assert rank_correlations(x, y) == pytest.approx([stats.spearmanr(x, row).statistic for row in y])
    assert np.isnan(rank_correlations(np.ones(4), np.arange(4.0)))


def test_ranks_are_mid_ranks_and_infinite_values_rank_last():
    value = np.array([[3.0, 1, 3, np.inf, 2], [np.inf, np.inf, 0, 1, np.inf]])
    assert get_centred_ranks(value) == pytest.approx(stats.rankdata(value, axis=-1) - 3)


def test_mean_weighs_each_stratum_by_its_pairs_less_one():
    strata = [
        stratum("a", [1, 2, 3], [1, 2, 3]),
        stratum("b", [1, 2, 3, 4, 5], [5, 4, 3, 2, 1]),
        stratum("c", [1], [1]),
    ]
    assert mean_correlation(strata) == pytest.approx((2 * 1 + 4 * -1) / 6)
    assert mean_correlation([stratum("c", [1], [1]), stratum("d", [1, 2], [3, 3])]) is None
