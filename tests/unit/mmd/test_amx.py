"""Products of bfloat16 numbers: those of the matrix units where this processor has them, and of float32 elsewhere."""

import ctypes

import pytest
import torch

from vfmalign.mmd import amx
from vfmalign.mmd.amx import products
from vfmalign.mmd.quadratic import Quadratics
from vfmalign.mmd.rows import Rows

CPU = torch.device("cpu")


@pytest.fixture(params=["as here", "no units"], autouse=True)
def units(request, monkeypatch):
    """What this processor has, and what all have."""
    if request.param == "no units":
        monkeypatch.setattr(amx, "_function", lambda: None)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize(("rows", "columns", "channels"), [(1, 1, 1), (3, 5, 7), (64, 130, 96), (33, 17, 768)])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("by_row", [True, False])
def test_products_keep_what_float32_holds(rows, columns, channels, add, by_row):
    x_IK = numbers(rows, 2 * channels)[:, channels:]  # rows with something between them
    y_JK = numbers(columns, channels, seed=1) if by_row else numbers(channels, columns, seed=1).T
    before_IJ = numbers(rows, columns, seed=2).float()
    out_IJ = before_IJ.clone() if add else torch.full((rows, columns), torch.nan)
    assert products(x_IK, y_JK, out_IJ, add=add) is out_IJ
    wanted_IJ = add * before_IJ.double() + x_IK.double() @ y_JK.double().T
    assert (out_IJ - wanted_IJ).abs().max() < 1e-5 * channels**0.5


def test_nothing_to_multiply_leaves_what_is_kept():
    out_IJ = torch.full((2, 3), 4.0)
    products(numbers(2, 0), numbers(3, 0), out_IJ, add=True)
    assert (out_IJ == 4.0).all()
    assert products(numbers(0, 8), numbers(3, 8), torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "y", "out"),
    [
        (numbers(4, 8), numbers(5, 9), torch.zeros(4, 5)),
        (numbers(4, 8), numbers(5, 8), torch.zeros(5, 4)),
        (numbers(4, 8).float(), numbers(5, 8), torch.zeros(4, 5)),
        (numbers(4, 8), numbers(5, 8), torch.zeros(4, 5).double()),
        (numbers(8, 4).T, numbers(5, 8), torch.zeros(4, 5)),
        (numbers(4, 8), numbers(5, 16)[:, ::2], torch.zeros(4, 5)),
        (numbers(1, 8).expand(4, 8), numbers(5, 8), torch.zeros(4, 5)),
    ],
)
def test_what_would_be_read_beside_its_memory_is_refused(x, y, out):
    with pytest.raises(ValueError, match="cannot multiply"):
        products(x, y, out)


def test_a_torch_without_the_function_has_no_units(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    find = amx._find
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert find() is None

    def absent(_):
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert find() is None
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert find() is None


def test_two_parts_hold_a_row_to_sixteen_bits():
    features = torch.randn(50, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rows = Rows.of(features, "bfloat16x2")
    assert ((rows.values_NK - features) / features).abs().max() < 2.0**-16
    assert rows.values_NK.dtype == rows.dtype == torch.float32
    torch.testing.assert_close(rows.norms_N.double(), rows.values_NK.double().square().sum(dim=1), rtol=1e-7, atol=0)


@pytest.mark.parametrize("level", [0.0, 0.5, 1e3])
def test_relabelled_sums_are_those_of_the_whole_matrix(level):
    """Also where all entries are large and nearly equal, as of a kernel with a wide bandwidth."""
    generator = torch.Generator().manual_seed(4)
    tile_IJ = level + 0.1 * torch.randn(60, 90, generator=generator)
    groups_N = torch.arange(150) // 2
    weights_GB = torch.randint(-1, 2, (75, 40), generator=generator, dtype=torch.int8)
    weights_NB = weights_GB[groups_N].double()
    wanted_B = torch.einsum("ib,ij,jb->b", weights_NB[:60], tile_IJ.double(), weights_NB[60:])
    quadratics = Quadratics(weights_GB, groups_N, torch.float32, in_parts=True)
    found_B = quadratics.of(tile_IJ, slice(0, 60), slice(60, 150))
    assert (found_B - wanted_B).abs().max() < 2.0**-17 * 0.1 * (60 * 90) ** 0.5 + 1e-7 * level * 60 * 90
