"""Z-scores: moments of slices are the whole channel's in float64, and one value is not divided by its rounding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfmalign.imaging.scaling import moments_of, scale_of


@given(
    seed=st.integers(0, 2**32 - 1),
    offset=st.sampled_from([0.0, 100.0, -1e4]),
    spread=st.sampled_from([1.0, 50.0]),
    empty=st.sampled_from([0.0, 0.5, 0.99]),
)
def test_moments_are_those_of_all_voxels_that_are_not_zero(seed, offset, spread, empty):
    """Against numpy in float64, also where slices are all zero and where the mean is 10,000 SDs from zero."""
    rng = np.random.default_rng(seed)
    channel_DHW = offset + spread * rng.standard_normal((4, 12, 15)) * rng.random((4, 1, 1))
    channel_DHW[rng.random(channel_DHW.shape) < empty] = 0.0
    channel_DHW[0] = 0.0
    channel_DHW = channel_DHW.astype(np.float32)
    seen = channel_DHW[channel_DHW != 0].astype(np.float64)
    found = moments_of(torch.from_numpy(channel_DHW))
    assert found.seen == len(seen)
    if len(seen):
        assert found.mean == pytest.approx(seen.mean(), rel=1e-6, abs=1e-6 * spread)
        assert found.spread == pytest.approx(seen.std(), rel=1e-3, abs=1e-6 * abs(offset) + 1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6])
def test_one_value_keeps_its_units(value):
    channel_DHW = torch.full((3, 40, 50), value)
    found = moments_of(channel_DHW)
    assert not found.varies
    assert torch.equal(scale_of([found]).apply_(channel_DHW[None].clone())[0], channel_DHW)
