"""What must hold for any samples, over samples that hypothesis draws: the same ones in every run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mmd_options import make_options

from vfmalign.mmd import mmd2, mmd_test
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.kernels import KERNELS, WITHOUT_BANDWIDTH
from vfmalign.mmd.statistics import permutations

any_case = settings(derandomize=True, max_examples=30, deadline=None, database=None)
of_distances = st.sampled_from(sorted(set(KERNELS) - WITHOUT_BANDWIDTH))
any_kernel = st.sampled_from(sorted(KERNELS))
widths = st.floats(0.05, 20.0)


@st.composite
def two_samples(draw, *, paired=None, least=2):
    """x, y and whether they are pairs; small integers give ties and duplicates, which normal rows never do."""
    pairs = draw(st.booleans()) if paired is None else paired
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, channels = draw(st.integers(least, 14)), draw(st.integers(1, 6))
    m = n if pairs else draw(st.integers(least, 14))
    scale = draw(st.sampled_from([1.0, 0.01, 30.0]))
    if draw(st.booleans()):
        x, y = (rng.integers(-2, 3, (rows, channels)).astype(np.float64) for rows in (n, m))
    else:
        x, y = rng.normal(size=(n, channels)), rng.normal(size=(m, channels)) + draw(st.sampled_from([0.0, 1.0]))
    return scale * x, scale * y, pairs


def pairing_of(pairs):
    return "paired" if pairs else "independent"


def unbiased(pairs):
    return "unbiased_paired" if pairs else "unbiased_independent"


def size(kernel, *parts):
    """The largest |k|: differences are rounding beside it."""
    if kernel not in WITHOUT_BANDWIDTH:
        return 1.0
    square = max(float((part**2).sum(axis=1).max()) for part in parts)
    return 1.0 + square if kernel == "linear" else (1.0 + square / parts[0].shape[1]) ** 3


def close(value, expected, kernel, *parts):
    """Equal but for rounding, which the Laplacian takes the root of between equal rows."""
    share = 1e-7 if kernel == "laplacian" else 1e-12
    return value == pytest.approx(expected, rel=1e-9, abs=share * size(kernel, *parts))


@any_case
@given(two_samples(), any_kernel, widths, st.booleans())
def test_x_and_y_may_change_places(samples, kernel, width, biased):
    x, y, pairs = samples
    options = {
        "pairing": pairing_of(pairs),
        "kernel": kernel,
        "sigma": width,
        "estimator": "biased" if biased else None,
    }
    assert close(mmd2(y, x, **options), mmd2(x, y, **options), kernel, x, y)


@any_case
@given(two_samples(), of_distances, st.floats(-100.0, 100.0))
def test_kernels_of_distances_do_not_know_where_features_lie(samples, kernel, offset):
    x, y, pairs = samples
    width = max(float(np.abs(x).max()), 0.01)
    here = mmd2(x, y, pairing=pairing_of(pairs), kernel=kernel, sigma=width)
    there = mmd2(x + offset * width, y + offset * width, pairing=pairing_of(pairs), kernel=kernel, sigma=width)
    # Adding the offset rounds the features themselves; the Laplacian is steep at 0.
    assert there == pytest.approx(here, abs=1e-6 if kernel == "laplacian" else 1e-10)


@any_case
@given(two_samples(), any_kernel, widths, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(samples, kernel, width, random):
    """Of pairs: of rows of x and y together."""
    x, y, pairs = samples
    order_x, order_y = list(range(len(x))), list(range(len(y)))
    random.shuffle(order_x)
    random.shuffle(order_y)
    shuffled = x[order_x], y[order_x if pairs else order_y]
    options = {"pairing": pairing_of(pairs), "kernel": kernel, "sigma": width}
    assert close(mmd2(*shuffled, **options), mmd2(x, y, **options), kernel, x, y)


@any_case
@given(two_samples(), of_distances, widths, st.sampled_from([1e-3, 0.1, 7.0, 1e4]))
def test_features_and_bandwidth_scale_together(samples, kernel, width, factor):
    x, y, pairs = samples
    scaled = mmd2(factor * x, factor * y, pairing=pairing_of(pairs), kernel=kernel, sigma=factor * width)
    assert scaled == pytest.approx(mmd2(x, y, pairing=pairing_of(pairs), kernel=kernel, sigma=width), abs=1e-6)


@any_case
@given(two_samples(), st.sampled_from([1e-3, 0.1, 7.0, 1e3]))
def test_the_pooled_median_scales_with_the_features(samples, factor):
    x, y, pairs = samples
    if np.unique(np.concatenate([x, y]), axis=0).shape[0] < len(x) + len(y):
        y = y + np.random.default_rng(1).normal(size=y.shape)
    here, there = (mmd_test(c * x, c * y, pairing=pairing_of(pairs), permutations=0) for c in (1.0, factor))
    assert there.sigma == pytest.approx(factor * here.sigma, rel=1e-9)
    assert there.mmd2 == pytest.approx(here.mmd2, abs=1e-9)


@any_case
@given(two_samples(), any_kernel, widths)
def test_v_and_u_differ_by_their_diagonals(samples, kernel, width):
    """Over pairs V = ((n − 1)·U + mean h(z_i, z_i))/n; over two samples each mean of k likewise, the cross term is one.

    V ≥ 0 always; V ≥ U wherever U ≤ mean h(z_i, z_i), as for any bounded kernel of distances with independent samples.
    """
    x, y, pairs = samples
    biased, u = (
        mmd2(x, y, pairing=pairing_of(pairs), kernel=kernel, sigma=width, estimator=name)
        for name in ("biased", unbiased(pairs))
    )
    scale = size(kernel, x, y)
    assert biased >= -1e-12 * scale
    k = KERNELS[kernel](width, x.shape[1])

    def values(a, b):
        import torch

        argument = a @ b.T if k.argument == "product" else ((a[:, None] - b[None]) ** 2).sum(axis=2)
        return k.evaluate(torch.from_numpy(argument), torch.empty(argument.shape, dtype=torch.float64)).numpy()

    n, m = len(x), len(y)
    if pairs:
        diagonal = (np.diag(values(x, x)) + np.diag(values(y, y)) - 2 * np.diag(values(x, y))).mean()
        expected = ((n - 1) * u + diagonal) / n
    else:
        within = [(values(a, a).sum() - np.trace(values(a, a))) / (len(a) * (len(a) - 1)) for a in (x, y)]
        expected = u + (np.diag(values(x, x)).mean() - within[0]) / n + (np.diag(values(y, y)).mean() - within[1]) / m
        if kernel not in WITHOUT_BANDWIDTH:
            assert biased >= u - 1e-12
    assert close(biased, expected, kernel, x, y)


@any_case
@given(two_samples(), of_distances, widths)
def test_values_stay_within_their_bounds(samples, kernel, width):
    """0 < k ≤ 1: a mean of two kernels less twice one."""
    x, y, pairs = samples
    result = mmd_test(x, y, pairing=pairing_of(pairs), kernel=kernel, sigma=width, permutations=0)
    assert -2.0 <= result.mmd2 <= 2.0
    assert 0.0 < result.error_bound < 1e-3
    assert mmd2(x, y, pairing=pairing_of(pairs), kernel=kernel, sigma=width, estimator="biased") <= 2.0


@any_case
@given(two_samples(), any_kernel, widths, st.integers(2, 4))
def test_copies_of_all_rows_leave_the_biased_value_alone(samples, kernel, width, copies):
    x, y, pairs = samples
    options = {"pairing": pairing_of(pairs), "kernel": kernel, "sigma": width, "estimator": "biased"}
    several = mmd2(np.tile(x, (copies, 1)), np.tile(y, (copies, 1)), **options)
    assert close(several, mmd2(x, y, **options), kernel, x, y)


@any_case
@given(two_samples(paired=True), any_kernel, widths)
def test_samples_that_are_equal_are_not_apart(samples, kernel, width):
    x, _, _ = samples
    for estimator in ("biased", "unbiased_paired"):
        same = mmd2(x, x.copy(), pairing="paired", kernel=kernel, sigma=width, estimator=estimator)
        assert abs(same) <= 1e-12 * size(kernel, x)


@any_case
@given(two_samples(least=8), any_kernel, st.integers(1, 9), st.integers(1, 30))
def test_tiles_change_nothing(samples, kernel, height, width):
    """Nor do they change p: statistics that differ by rounding count as equal."""
    x, y, pairs = samples

    def shift(tile_shape):
        options = make_options("paired" if pairs else "independent", kernel=kernel, fixed_sigma=2.0, permutations=60)
        engine = ComputeConfig(tile_shape=tile_shape)
        return compare(Sample("x", {"a": x}), Sample("y", {"a": y}), None, options, engine).layers[0].raw

    whole, tiled = shift(None), shift((height, width))
    assert close(tiled.mmd2.value, whole.mmd2.value, kernel, x, y)
    assert tiled.p_value.value == whole.p_value.value
    assert (tiled.mmd2.interval is None) == (whole.mmd2.interval is None)
    if whole.mmd2.interval is not None:
        assert close(tiled.mmd2.interval.upper, whole.mmd2.interval.upper, kernel, x, y)


@any_case
@given(two_samples(), st.sampled_from([0.0, 0.5]), st.integers(0, 2**64 - 1))
def test_p_values_are_shares_of_permutations(samples, offset, seed):
    x, y, pairs = samples
    result = mmd_test(x, y + offset, pairing=pairing_of(pairs), sigma=1.0, permutations=39, seed=seed)
    groups = len(x) if pairs else len(x) + len(y)
    if groups < permutations.MIN_GROUPS:
        assert result.p_value is None
        assert result.absent_reason
        return
    counted = result.permutations if result.enumerated else result.permutations + 1
    share = result.p_value * counted
    assert share == pytest.approx(round(share), abs=1e-6)
    assert 1 <= round(share) <= counted


@any_case
@given(st.integers(1, 90), st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**64 - 1), st.booleans())
def test_the_first_permutations_of_a_longer_run_are_the_same(groups, others, count, seed, swap):
    def weights(number):
        if swap:
            return permutations.draw_swaps(groups + permutations.MAX_ENUMERATED_GROUPS, number, seed).weights_GB
        return permutations.draw_permutations(groups, others, number, seed).weights_GB

    short, long = weights(count), weights(count + 25)
    np.testing.assert_array_equal(long[:, :count], short)
    assert set(np.unique(long)) <= ({-1, 1} if swap else {0, 1})
    if not swap:
        assert (long.sum(axis=0) == groups).all()
