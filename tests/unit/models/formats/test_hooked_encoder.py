"""Submodules of a network as layers of an encoder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vfmalign.core.domain.errors import BadOption
from vfmalign.models.formats.hooked_encoder import HookedEncoder


class Network(nn.Module):
    """Calls one of its two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.unused = nn.Conv3d(1, 2, 1), nn.Conv3d(1, 2, 1)

    def forward(self, input_NCDHW: Tensor) -> Tensor:
        return self.called(input_NCDHW)


def test_a_submodule_that_is_not_called_is_refused_and_told_what_to_name() -> None:
    shape = (4, 4, 4)
    encoder = HookedEncoder(Network(), ["called"], shape, 1)
    assert encoder.feature_maps(torch.zeros(1, 1, *shape))["called"].shape == (1, 2, *shape)
    with pytest.raises(BadOption) as caught:
        HookedEncoder(Network(), ["unused"], shape, 1)
    assert "layer 'unused' has no output: the network does not call it" in str(caught.value)
    assert "name a submodule that forward() calls" in str(caught.value)
