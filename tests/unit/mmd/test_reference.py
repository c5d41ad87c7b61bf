"""Scale and bandwidth from the reference."""

import numpy as np
import pytest
import torch

from vfmalign.core.errors import BadOption, Cancelled
from vfmalign.mmd import reference


def never():
    return False


def test_sigma_is_the_median_over_pairs(rng, monkeypatch):
    monkeypatch.setattr(reference, "_TILE", 7)
    for rows in (2, 3, 20, 33):
        x = rng.normal(size=(rows, 5))
        pairs = [np.linalg.norm(x[i] - x[j]) for i in range(rows) for j in range(i + 1, rows)]
        got = reference.median_distance(torch.from_numpy(x), "a", never)
        assert got == pytest.approx(np.median(pairs), rel=1e-14)


def test_large_reference_is_sampled_reproducibly(rng, monkeypatch):
    monkeypatch.setattr(reference, "EXACT_MEDIAN_ROWS", 300)
    x = torch.from_numpy(rng.normal(size=(2000, 4)))
    first = reference.median_distance(x, "a", never)
    assert first == reference.median_distance(x, "a", never)
    monkeypatch.setattr(reference, "EXACT_MEDIAN_ROWS", 2000)
    assert first == pytest.approx(reference.median_distance(x, "a", never), rel=0.03)


def test_sigma_zero_is_refused(rng):
    row = torch.from_numpy(np.tile(rng.normal(size=(1, 7)), (6, 1)))
    with pytest.raises(BadOption, match="median distance"):
        reference.median_distance(row, "stages.3", never)
    with pytest.raises(BadOption, match="at least 2 rows"):
        reference.median_distance(row[:1], "stages.3", never)


def test_median_stops_between_tiles(rng):
    with pytest.raises(Cancelled):
        reference.median_distance(torch.from_numpy(rng.normal(size=(10, 2))), "a", lambda: True)


def test_scale_leaves_out_channels_that_do_not_vary(rng):
    x = rng.normal(size=(40, 6)) * [1.0, 2.0, 3.0, 1e-8, 0.0, 5.0] + 1e3
    scale = reference.scale_of(torch.from_numpy(x), "a")
    assert scale.left_out == 2
    got = scale.apply(torch.from_numpy(x)).numpy()
    kept = x[:, [0, 1, 2, 5]]
    np.testing.assert_allclose(got, (kept - kept.mean(0)) / kept.std(0, ddof=1), rtol=1e-9, atol=1e-12)


def test_constant_reference_is_refused():
    with pytest.raises(BadOption, match="no channel"):
        reference.scale_of(torch.full((5, 3), 0.1, dtype=torch.float64), "a")


def test_comparison_takes_scale_and_sigma_from_the_reference_alone(brute, rng):
    spread = np.array([1.0, 5.0, 0.1, 0.0])
    ref = rng.normal(size=(25, 4)) * spread + 2.0
    x = rng.normal(size=(20, 4)) * spread + 2.0
    y = x + 40.0 * spread
    layer = brute.compare(x, y, reference=ref)
    pairs = np.triu_indices(25, 1)
    distances = np.linalg.norm(ref[:, None] - ref[None], axis=2)[pairs]
    assert layer.raw.sigma == pytest.approx(np.median(distances), rel=1e-12)
    assert layer.channels_left_out == 1
    scaled = [(part[:, :3] - ref[:, :3].mean(0)) / ref[:, :3].std(0, ddof=1) for part in (ref, x, y)]
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
