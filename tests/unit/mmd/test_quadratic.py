"""Permuted sums, tile by tile, are those of the whole matrix."""

import pytest
import torch

from vfmalign.mmd.engine import permuted_sums
from vfmalign.mmd.engine.permuted_sums import QuadraticForms


@pytest.mark.parametrize("at_once", [7, 2048])
@pytest.mark.parametrize("group_rows", [1, 2])
@pytest.mark.parametrize("level", [0.0, 0.5, 1e3])
def test_permuted_sums_are_those_of_the_whole_matrix(level, group_rows, at_once, monkeypatch):
    """Also where all entries are large and nearly equal, as of a kernel with a wide bandwidth."""
    monkeypatch.setattr(permuted_sums, "_PERMUTATIONS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(4)
    tile_IJ = level + 0.1 * torch.randn(60, 90, generator=generator)
    groups_N = torch.arange(150) // group_rows
    weights_GB = torch.randint(-1, 2, (150 // group_rows, 40), generator=generator, dtype=torch.int8)
    weights_NB = weights_GB[groups_N].double()
    wanted_B = torch.einsum("ib,ij,jb->b", weights_NB[:60], tile_IJ.double(), weights_NB[60:])
    quadratic_forms = QuadraticForms(weights_GB, groups_N, torch.float32)
    found_B = quadratic_forms.evaluate(tile_IJ, slice(0, 60), slice(60, 150))
    assert (found_B - wanted_B).abs().max() < 2.0**-17 * 0.1 * (60 * 90) ** 0.5 + 1e-7 * level * 60 * 90
