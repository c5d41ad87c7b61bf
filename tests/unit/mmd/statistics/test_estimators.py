"""Estimates against plain formulas, in every tiling, and what they promise."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vfmalign.core.domain.errors import BadOption
from vfmalign.mmd.engine import ordered_pool
from vfmalign.mmd.statistics import estimators

PAIRED = ["biased", "unbiased_paired"]
INDEPENDENT = ["biased", "unbiased_independent"]


@pytest.mark.parametrize("tile_rows", [1, 3, 7, 16, 1000])
@pytest.mark.parametrize("estimator", PAIRED)
@pytest.mark.parametrize(("n", "d"), [(2, 1), (13, 5), (32, 17)])
def test_paired_estimates_equal_the_plain_formula(brute, rng, n, d, estimator, tile_rows):
    x = rng.normal(size=(n, d)) + 3.0
    y = x + rng.normal(size=(n, d)) * 0.7
    got = brute.compare(x, y, estimator=estimator, tile_rows=tile_rows).raw
    assert got.mmd2.value == pytest.approx(brute.estimators[estimator](x, y, 1.5), abs=1e-14)
    assert got.precision == "float64"


@pytest.mark.parametrize("tile_rows", [1, 4, 9, 1000])
@pytest.mark.parametrize("estimator", INDEPENDENT)
@pytest.mark.parametrize(("n", "m", "d"), [(2, 3, 1), (11, 5, 4), (9, 30, 17)])
def test_independent_estimates_equal_the_plain_formula(brute, rng, n, m, d, estimator, tile_rows):
    x, y = rng.normal(size=(n, d)) - 5.0, rng.normal(size=(m, d)) * 1.3 - 5.0
    got = brute.compare(x, y, pairing="independent", estimator=estimator, tile_rows=tile_rows).raw
    assert got.mmd2.value == pytest.approx(brute.estimators[estimator](x, y, 1.5), abs=1e-14)


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_groups_do_not_change_the_estimate(brute, rng, grouped, pairing):
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 4)) + 0.5
    labels = grouped(rng, 30, 9)
    other = labels if pairing == "paired" else [f"other-{label}" for label in labels]
    plain = brute.compare(x, y, pairing=pairing)
    with_groups = brute.compare(x, y, pairing=pairing, groups_x=labels, groups_y=other, tile_rows=4)
    assert with_groups.raw.mmd2.value == pytest.approx(plain.raw.mmd2.value, abs=1e-14)


def test_default_is_the_unbiased_form_that_fits():
    assert estimators.get_default("paired", "permutation") == "unbiased_paired"
    assert estimators.get_default("independent", "permutation") == "unbiased_independent"
    assert estimators.get_default("independent", "wild_bootstrap") == "unbiased_paired"


def test_independent_form_is_refused_for_pairs(brute, rng):
    x = rng.normal(size=(9, 2))
    with pytest.raises(BadOption, match="unbiased_paired") as error:
        brute.compare(x, x, estimator="unbiased_independent")
    assert error.value.field == "estimator"
    with pytest.raises(BadOption, match="unbiased_independent"):
        brute.compare(x, x + 1, pairing="independent", estimator="unbiased_paired")


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_random_fourier_suits_both_pairings_and_not_the_wild_bootstrap(pairing):
    estimators.check(pairing, "random_fourier", "permutation")
    with pytest.raises(BadOption, match="`random_fourier` is not a sum over pairs") as error:
        estimators.check(pairing, "random_fourier", "wild_bootstrap")
    assert error.value.field == "estimator"


def test_unbiased_forms_average_to_zero_under_the_null_and_the_wrong_form_does_not(rng, brute):
    """Monte Carlo, 2,000 datasets, n = 5: within 4 standard errors; paired rows of correlation 0.9."""
    values = {"paired": [], "independent": [], "wrong": [], "biased": []}
    for _ in range(2000):
        shared = rng.normal(size=(5, 2))
        x = np.sqrt(0.9) * shared + np.sqrt(0.1) * rng.normal(size=(5, 2))
        y = np.sqrt(0.9) * shared + np.sqrt(0.1) * rng.normal(size=(5, 2))
        z = rng.normal(size=(5, 2))
        k_xx, k_yy, k_xy = brute.gram(x, x, 1.5), brute.gram(y, y, 1.5), brute.gram(x, y, 1.5)
        k_zz, k_xz = brute.gram(z, z, 1.5), brute.gram(x, z, 1.5)
        h = k_xx + k_yy - k_xy - k_xy.T
        pairs = estimators.PairedSums(h.sum(), np.trace(h), np.asarray(5.0))
        five = np.asarray(5.0)
        values["paired"].append(estimators.unbiased_paired(pairs))
        values["biased"].append(estimators.biased_paired(pairs))
        values["independent"].append(
            estimators.unbiased_independent(
                estimators.IndependentSums(
                    k_xx.sum(), k_zz.sum(), k_xz.sum(), np.trace(k_xx), np.trace(k_zz), five, five
                )
            )
        )
        values["wrong"].append(
            estimators.unbiased_independent(
                estimators.IndependentSums(
                    k_xx.sum(), k_yy.sum(), k_xy.sum(), np.trace(k_xx), np.trace(k_yy), five, five
                )
            )
        )
    z_scores = {name: np.mean(v) / (np.std(v) / np.sqrt(len(v))) for name, v in values.items()}
    assert abs(z_scores["paired"]) < 4.0
    assert abs(z_scores["independent"]) < 4.0
    assert z_scores["wrong"] < -20.0
    assert z_scores["biased"] > 20.0


def test_unbiased_values_below_zero_are_not_clipped(brute, rng):
    negative = 0
    for _ in range(30):
        x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 3))
        shift = brute.compare(x, y, pairing="independent").raw
        assert shift.mmd2.value == pytest.approx(brute.estimators["unbiased_independent"](x, y, 1.5), abs=1e-14)
        negative += shift.mmd2.value < 0
    assert negative > 5


@pytest.mark.parametrize("estimator", PAIRED)
def test_identical_samples_give_zero_and_p_one(brute, rng, estimator):
    x = (rng.normal(size=(40, 96)) * 20 + 100).astype(np.float32)
    shift = brute.compare(x, x.copy(), estimator=estimator, fixed_sigma=280.0, permutations=200, tile_rows=16).raw
    assert abs(shift.mmd2.value) <= 1e-12
    assert shift.p_value.value == 1.0
    assert shift.below_error_bound


def test_one_row_has_a_biased_value_and_no_unbiased_one(brute, rng):
    x, y = rng.normal(size=(1, 3)), rng.normal(size=(1, 3))
    shift = brute.compare(x, y, permutations=100).raw
    assert shift.mmd2.value is None
    assert "at least 2 rows" in shift.mmd2.absent_reason
    assert shift.p_value.value is None
    biased = brute.compare(x, y, estimator="biased", permutations=100).raw
    assert biased.mmd2.value == pytest.approx(brute.estimators["biased"](x, y, 1.5), abs=1e-14)
    assert "too few" in biased.p_value.absent_reason


class _Largest(TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(part, torch.Tensor):
                self.elements = max(self.elements, part.numel())
        return result


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_no_tensor_is_larger_than_a_tile_or_the_input(brute, rng, pairing, monkeypatch):
    monkeypatch.setattr(ordered_pool, "_MAX_THREADS", 1)  # what other threads form would not be recorded
    n, d, tile, permutations = 400, 3, 32, 500
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, d))
    with _Largest() as largest:
        brute.compare(x, y, pairing=pairing, tile_rows=tile, permutations=permutations)
    assert largest.elements <= max(2 * n * d, tile * tile, 2 * n * permutations)
    with _Largest() as without_test:
        brute.compare(x, y, pairing=pairing, tile_rows=tile)
    assert without_test.elements <= max(2 * n * d, tile * tile)
    assert without_test.elements < n * n / 10
