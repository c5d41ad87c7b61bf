"""Z-scores and quantiles: exact for the whole channel; a constant channel is not divided by its rounding error."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.axis_weights import AxisWeights
from vfmalign.imaging.normalisation import compute_moments, scale_from_moments, scale_from_quantiles


@given(
    seed=st.integers(0, 2**32 - 1),
    offset=st.sampled_from([0.0, 100.0, -1e4]),
    spread=st.sampled_from([1.0, 50.0]),
    empty=st.sampled_from([0.0, 0.5, 0.99]),
)
def test_moments_equal_numpy_over_nonzero_voxels(seed, offset, spread, empty):
    """Against numpy in float64, also where slices are all zero and where the mean is 10,000 SDs from zero."""
    rng = np.random.default_rng(seed)
    channel_DHW = offset + spread * rng.standard_normal((4, 12, 15)) * rng.random((4, 1, 1))
    channel_DHW[rng.random(channel_DHW.shape) < empty] = 0.0
    channel_DHW[0] = 0.0
    channel_DHW = channel_DHW.astype(np.float32)
    seen = channel_DHW[channel_DHW != 0].astype(np.float64)
    moments = compute_moments(torch.from_numpy(channel_DHW))
    assert moments.count == len(seen)
    if len(seen):
        assert moments.mean == pytest.approx(seen.mean(), rel=1e-12, abs=1e-12 * spread)
        assert moments.std == pytest.approx(seen.std(), rel=1e-6, abs=1e-7 * abs(offset))


@given(seed=st.integers(0, 2**32 - 1), slices=st.integers(1, 12), planes=st.integers(1, 5))
def test_moments_from_planes_equal_moments_of_the_slices(seed, slices, planes):
    """With planes that are partly or all zero, slices without any plane, and slices of planes far apart."""
    rng = np.random.default_rng(seed)
    planes_KHW = rng.integers(1, 1000, (planes, 6, 7)) * (rng.random((planes, 6, 7)) < rng.random((planes, 1, 1)))
    weights_DK = (rng.random((slices, planes)) * (rng.random((slices, planes)) < 0.5)).astype(np.float32)
    written_DHW = np.einsum("dk,khw->dhw", weights_DK.astype(np.float64), planes_KHW.astype(np.float64))
    seen = written_DHW[written_DHW != 0]
    weights = AxisWeights(np.zeros(slices, np.intp), weights_DK, planes)
    moments = compute_moments(torch.from_numpy(planes_KHW.astype(np.float32)), weights)
    assert moments.count == len(seen)
    if len(seen):
        assert moments.mean == pytest.approx(seen.mean(), rel=1e-12)
        assert moments.std == pytest.approx(seen.std(), rel=1e-6, abs=1e-7 * seen.mean())


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6])
def test_a_constant_channel_is_not_scaled(value):
    channel_DHW = torch.full((3, 40, 50), value)
    moments = compute_moments(channel_DHW)
    assert not moments.has_contrast
    assert torch.equal(scale_from_moments([moments]).apply_(channel_DHW[None].clone())[0], channel_DHW)


@given(
    seed=st.integers(0, 2**32 - 1),
    offset=st.sampled_from([0.0, -100.0, 1e4]),
    quantiles=st.sampled_from([(0.02, 0.98), (0.0, 1.0), (0.1, 0.5)]),
)
def test_quantiles_equal_numpy_in_float64(seed, offset, quantiles):
    rng = np.random.default_rng(seed)
    signal_CDHW = (offset + 50 * rng.standard_normal((2, 5, 7, 9))).astype(np.float32)
    signal_CDHW[0][rng.random(signal_CDHW[0].shape) < 0.4] = 0.0
    scale = scale_from_quantiles(map(torch.from_numpy, signal_CDHW.copy()), quantiles, ("a", "b"), "study")
    scaled_CDHW = scale.apply_(torch.from_numpy(signal_CDHW.copy())).numpy()
    for channel, values, scaled in zip(range(2), signal_CDHW.astype(np.float64), scaled_CDHW, strict=True):
        low, high = np.quantile(values, quantiles)
        assert float(scale.mean_C[channel]) == pytest.approx(low, rel=1e-6, abs=1e-6)
        expected = np.clip((values - low) / (high - low), 0, 1)
        np.testing.assert_allclose(scaled, expected, atol=1e-5 + 1e-7 * abs(offset))
    assert scaled_CDHW.min() == 0.0
    assert scaled_CDHW.max() == 1.0


def test_a_hidden_channel_keeps_its_units_under_quantiles():
    hidden, seen = torch.zeros(4, 5, 6), torch.rand(4, 5, 6)
    scale = scale_from_quantiles([hidden, seen], (0.02, 0.98), ("adc", "t1w"), "study")
    clean = torch.stack([torch.full((4, 5, 6), 1200.0), seen])
    assert torch.equal(scale.apply_(clean.clone())[0], clean[0])
    inverted = scale.invert(scale.apply_(torch.stack([hidden, seen])))
    inside = (seen > seen.quantile(0.03)) & (seen < seen.quantile(0.97))
    assert torch.allclose(inverted[1][inside], seen[inside], atol=1e-6)


def test_equal_quantiles_are_refused():
    mostly_empty = torch.zeros(10, 10, 10)
    mostly_empty[0, 0, :5] = 1.0
    with pytest.raises(BadVolume, match="t1w has the same value at its 2% and 98% quantile") as caught:
        scale_from_quantiles([mostly_empty], (0.02, 0.98), ("t1w",), "case c-1")
    assert caught.value.subject == "case c-1"
    assert "crop the field of view" in caught.value.remedy
