"""Paired similarity from two estimates of MMD², compared with the kernel itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfmalign.analysis.checks.shift import SATURATION_THRESHOLD, is_saturated, paired_similarity
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import LayerResult, ShiftResult
from vfmalign.mmd.api import mmd2


def kernel(x_NC, y_MC, sigma):
    return np.exp(-np.square(x_NC[:, None] - y_MC[None]).sum(-1) / (2 * sigma**2))


def layer(value, bound=1e-12):
    """One layer's MMD²; no interval, no test."""
    estimate = value if isinstance(value, Estimate) else Estimate(value=value)
    none = absent("not requested")
    shift = ShiftResult(
        mmd2=estimate, sigma=1.0, p_value=none, p_value_max_t=none, permutations=0, enumerated=False,
        error_bound=bound, below_error_bound=False,
    )  # fmt: skip
    return LayerResult(layer="a", channels=3, channels_excluded=0, raw=shift, standardised=None)


def estimates(x_NC, y_NC, sigma):
    values = (
        mmd2(x_NC, y_NC, pairing="paired", sigma=sigma, estimator=estimator)
        for estimator in ("unbiased_paired", "biased")
    )
    return [layer(value) for value in values]


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 20), channels=st.integers(1, 9), move=st.floats(0.0, 9.0))
def test_paired_similarity_is_the_mean_kernel_between_each_case_and_itself(seed, rows, channels, move):
    rng = np.random.default_rng(seed)
    x_NC = rng.normal(size=(rows, channels))
    y_NC = x_NC + move * rng.normal(size=(rows, channels))
    expected = np.diag(kernel(x_NC, y_NC, 2.0)).mean()
    assert paired_similarity(*estimates(x_NC, y_NC, 2.0), rows).value == pytest.approx(expected, abs=1e-11)


MOVES = {
    "together": lambda rng, x_NC, sigma, far: x_NC + far * sigma * _unit(rng.normal(size=x_NC.shape[1])),
    "each its own way": lambda rng, x_NC, sigma, far: x_NC + far * sigma * _unit(rng.normal(size=x_NC.shape)),
}


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_below_the_threshold_mmd2_no_longer_grows_with_distance(move):
    rng = np.random.default_rng(0)
    x_NC = rng.normal(size=(16, 128)) / np.sqrt(np.arange(1, 129))
    sigma = float(np.median(np.linalg.norm(x_NC[:, None] - x_NC[None], axis=-1)[np.triu_indices(16, 1)]))

    def at(far):
        y_NC = move(np.random.default_rng(1), x_NC, sigma, far)
        unbiased, biased = estimates(x_NC, y_NC, sigma)
        return paired_similarity(unbiased, biased, 16), unbiased.raw.mmd2.value

    (near, less), (beyond, more), (_, most) = at(1.0), at(2.5), at(100.0)
    assert not is_saturated(near)
    assert less < 0.75 * most
    assert is_saturated(beyond)
    assert more > 0.9 * most


def test_equal_features_have_similarity_one():
    x_NC = np.random.default_rng(0).normal(size=(12, 4))
    similarity = paired_similarity(*estimates(x_NC, x_NC, 1.0), 12)
    assert similarity.value == pytest.approx(1.0, abs=1e-12)
    assert not is_saturated(similarity)


@pytest.mark.parametrize("u", [1.0, 1.0 + 1e-12, 1.0 - 1e-12])
def test_rounding_takes_the_similarity_out_of_no_bound(u):
    """Features that moved far: n·V − (n − 1)·U is 2 but for rounding."""
    rows = 3
    far = paired_similarity(layer(u), layer((2 + (rows - 1) * 1.0) / rows), rows)
    assert far.value == pytest.approx(0.0, abs=1e-11)
    assert far.value >= 0.0
    near = paired_similarity(layer(u), layer((rows - 1) * 1.0 / rows), rows)
    assert near.value == pytest.approx(1.0, abs=1e-11)
    assert near.value <= 1.0


def test_paired_similarity_is_absent_with_a_reason():
    one_row = paired_similarity(layer(absent("needs at least 2 rows")), layer(0.1), 1)
    assert (one_row.value, one_row.absent_reason) == (None, "needs at least 2 rows")
    coarse = paired_similarity(layer(0.5, bound=SATURATION_THRESHOLD / 1000), layer(0.5), 2000)
    assert coarse.value is None
    assert "precision" in coarse.absent_reason
    assert not is_saturated(coarse)
