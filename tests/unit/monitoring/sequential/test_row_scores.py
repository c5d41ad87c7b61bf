"""Scores of rows by their formula, and what rounding keeps equal."""

from __future__ import annotations

import numpy as np

from vfmalign.monitoring.sequential.references import make_scorer
from vfmalign.monitoring.sequential.row_scores import BINS, RowScorer


def test_a_score_is_its_formula_rounded() -> None:
    rng = np.random.default_rng(0)
    scorer = make_scorer(rng.normal(size=(30, 5)))
    for row in rng.normal(size=(50, 5)):
        z = scorer.standardise(row)
        kernel = np.exp(-np.square(scorer.scoring_SD - z).sum(axis=1) / scorer.bandwidth)
        score, kernel_sum = scorer.score(z)
        assert score * 2**20 == round(score * 2**20)
        np.testing.assert_allclose(score, -np.log(kernel.sum()), rtol=0, atol=2.0**-20)
        np.testing.assert_allclose(kernel_sum, kernel.sum(), rtol=0, atol=30 * 2.0**-20)


def test_another_machine_s_last_bits_leave_identical_rows_equal() -> None:
    rng = np.random.default_rng(1)
    scorer = make_scorer(rng.normal(size=(30, 5)))
    bandwidth = scorer.bandwidth
    others = [RowScorer(scorer.mean_D, scorer.scale_D, scorer.scoring_SD, bandwidth * (1 + k * 1e-15)) for k in (-1, 1)]
    rows = rng.normal(size=(500, 5))
    differences = [other.score(row)[0] - scorer.score(row)[0] for row in rows for other in others]
    assert np.count_nonzero(differences) <= 1


def test_bins_hold_equal_shares_of_the_scoring_rows() -> None:
    scorer = make_scorer(np.random.default_rng(2).normal(size=(10 * BINS + 1, 3)))
    assert scorer.edges_DT.shape == (3, BINS)
    assert np.isneginf(scorer.edges_DT[:, 0]).all()
    assert (np.diff(scorer.edges_DT, axis=1) > 0.0).all()
    for channel, edges_T in enumerate(scorer.edges_DT):
        bins = np.searchsorted(edges_T, scorer.scoring_SD[:, channel], "right") - 1
        assert set(np.bincount(bins, minlength=BINS)) <= {10, 11}
