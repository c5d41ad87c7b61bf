"""Scale and bandwidth: from the reference, or from both samples together."""

import numpy as np
import pytest
import torch
from tests.mmd_options import make_options

from vfmalign.client.messages.mmd import Kernel
from vfmalign.core.domain.errors import BadOption, Cancelled
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.comparison.standardisation import scalings
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.rows import Affine, mean, prepare, standard_deviation
from vfmalign.mmd.statistics import bandwidths


def rows(x):
    return prepare([(x, None)], Affine(), "float64", torch.device("cpu"))


def scaled(given, **options):
    return list(scalings(given, "a", make_options(**options).kernel, ComputeConfig()))


def test_sigma_is_the_median_over_pairs(rng, monkeypatch):
    monkeypatch.setattr(bandwidths, "_TILE", 7)
    for count in (2, 3, 20, 33):
        x = rng.normal(size=(count, 5))
        pairs = [np.linalg.norm(x[i] - x[j]) for i in range(count) for j in range(i + 1, count)]
        assert bandwidths.median_distance(rows(x), "a", UNLIMITED) == pytest.approx(np.median(pairs), rel=1e-13)


def test_many_rows_are_sampled_reproducibly_and_from_both_samples(rng, monkeypatch):
    x, y = rng.normal(size=(900, 4)), rng.normal(size=(1100, 4)) + 3.0
    both = np.concatenate([x, y])
    exact = np.median(np.linalg.norm(both[:, None] - both[None], axis=2)[np.triu_indices(2000, 1)])
    monkeypatch.setattr(bandwidths, "EXACT_ROWS", 300)
    first, second = (scaled([x, y], bandwidth_rule="pooled_median")[0].sigma for _ in range(2))
    assert first == second == pytest.approx(exact, rel=0.05)
    assert first != exact


def test_sigma_zero_is_refused(rng):
    row = np.tile(rng.normal(size=(1, 7)), (6, 1))
    with pytest.raises(BadOption, match="median distance"):
        bandwidths.median_distance(rows(row), "stages.3", UNLIMITED)
    with pytest.raises(BadOption, match="at least 2 rows"):
        bandwidths.median_distance(rows(row[:1]), "stages.3", UNLIMITED)


def test_rows_that_are_equal_are_exactly_0_apart(rng):
    x = rng.normal(size=(5, 300)) * 1e3
    found = bandwidths.pairwise_distances(rows(np.concatenate([x, x])), UNLIMITED)
    assert np.count_nonzero(found == 0.0) == 5


def test_median_stops_between_tiles(rng):
    def stop():
        raise Cancelled("now")

    with pytest.raises(Cancelled):
        bandwidths.median_distance(rows(rng.normal(size=(10, 2))), "a", WorkContext(is_cancelled=stop))


def test_scale_leaves_out_channels_that_do_not_vary(rng):
    x = rng.normal(size=(40, 6)) * [1.0, 2.0, 3.0, 1e-8, 0.0, 5.0] + 1e3
    standardised = scaled([x, x, x])[1]
    assert standardised.channels_excluded == 2
    kept = x[:, [0, 1, 2, 5]]
    expected = (kept - kept.mean(0)) / kept.std(0, ddof=1)
    np.testing.assert_allclose(standardised.affine.apply(torch.from_numpy(x)), expected, rtol=1e-9, atol=1e-12)


def test_a_scale_is_at_least_a_tenth_of_the_median_sd_of_the_channels_that_vary(brute, rng):
    """Constant channels and those of rounding do not enter the median, and a channel at the floor is not at its SD."""
    x = rng.normal(size=(50, 9)) * [1.0, 2.0, 3.0, 0.01, 0.15, 0.0, 0.0, 0.0, 1e-9]
    standardised = scaled([x, x, x])[1]
    assert (standardised.channels_excluded, standardised.channels_at_floor) == (4, 1)
    sd = x[:, :5].std(0, ddof=1)
    assert np.argsort(sd)[2] == 0  # the median channel
    np.testing.assert_allclose(standardised.affine.sd_C[:5], [*sd[:3], 0.1 * sd[0], sd[4]], rtol=1e-12)
    expected = brute.standardise(x[:, :5], x[:, :5])[0]
    np.testing.assert_allclose(standardised.affine.apply(torch.from_numpy(x)), expected, rtol=1e-9, atol=1e-12)
    assert standardised.sigma == pytest.approx(brute.median(expected), rel=1e-12)


def test_the_floor_leaves_channels_above_it_bit_for_bit(rng):
    x = rng.normal(size=(40, 7)) * [1.0, 2.0, 0.5, 0.3, 3.0, 1.0, 0.2]
    standardised = scaled([x, x, x])[1]
    assert standardised.channels_at_floor == 0
    x_mean = mean(x)
    np.testing.assert_array_equal(standardised.affine.sd_C, standard_deviation(x, x_mean))


def test_one_varying_channel_is_standardised_by_its_own_sd(rng):
    x = np.column_stack([np.full(30, 7.0), rng.normal(size=30) * 1e-4])
    standardised = scaled([x, x, x])[1]
    assert (standardised.channels_excluded, standardised.channels_at_floor) == (1, 0)
    assert standardised.affine.apply(torch.from_numpy(x)).std() == pytest.approx(1.0)


def test_raw_features_alone_need_no_scale(rng):
    constant = np.full((5, 3), 0.1)
    features, kernel = [rng.normal(size=(5, 3)), constant, constant], Kernel(fixed_sigma=1.0)
    assert [one.name for one in scalings(features, "a", kernel, ComputeConfig(), standardise=False)] == ["raw"]


def test_constant_reference_is_refused():
    x = np.full((5, 3), 0.1)
    with pytest.raises(BadOption, match="no channel"):
        scaled([x, x, x], fixed_sigma=1.0)


def test_a_grid_of_bandwidths_spans_the_distances(rng):
    x = rng.normal(size=(60, 3))
    pairs = np.linalg.norm(x[:, None] - x[None], axis=2)[np.triu_indices(60, 1)]
    grid = bandwidths.bandwidth_grid(rows(x), 10, UNLIMITED)
    assert len(grid) == 10
    assert grid[0] == pytest.approx(0.5 * np.quantile(pairs, 0.05))
    assert grid[-1] == pytest.approx(2.0 * np.quantile(pairs, 0.95))
    assert bandwidths.bandwidth_grid(rows(np.ones((9, 2))), 10, UNLIMITED) == ()


def test_comparison_takes_scale_and_sigma_from_the_reference_alone(brute, rng):
    spread = np.array([1.0, 5.0, 0.1, 0.0])
    ref = rng.normal(size=(25, 4)) * spread + 2.0
    x = rng.normal(size=(20, 4)) * spread + 2.0
    y = x + 40.0 * spread
    layer = brute.compare(x, y, reference=ref)
    pairs = np.triu_indices(25, 1)
    distances = np.linalg.norm(ref[:, None] - ref[None], axis=2)[pairs]
    assert layer.raw.sigma == pytest.approx(np.median(distances), rel=1e-12)
    assert layer.channels_excluded == 1
    scaled = brute.standardise(ref[:, :3], *(part[:, :3] for part in (ref, x, y)))
    sigma = np.median(np.linalg.norm(scaled[0][:, None] - scaled[0][None], axis=2)[pairs])
    assert layer.standardised.sigma == pytest.approx(sigma, rel=1e-12)
    truth = brute.estimators["unbiased_paired"](scaled[1], scaled[2], sigma)
    assert layer.standardised.mmd2.value == pytest.approx(truth, abs=1e-13)
    # The bandwidth does not follow the shift, as a pooled one would.
    assert brute.compare(x, x, reference=ref).raw.sigma == layer.raw.sigma


def test_reference_of_one_row_gives_reasons_instead_of_numbers(brute, rng):
    layer = brute.compare(rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), reference=rng.normal(size=(1, 2)))
    for shift in (layer.raw, layer.standardised):
        assert shift.mmd2.value is None
        assert "one row" in shift.mmd2.absent_reason
