"""The Triton kernels match the torch engine in float64, over many tiles and launches."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine import rows, tiles
from vfmalign.mmd.engine.kernels import KERNELS
from vfmalign.mmd.engine.triton import backend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(find_spec("triton") is None, reason="needs triton"),
]
FIELDS = ("rows_NP", "diagonal_N", "within_G", "quadratic_B", "squares")
ROWS, CHANNELS, PERMUTATIONS = 3_001, 200, 300


def samples(paired):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(ROWS, CHANNELS))
    return x, 0.6 * x + rng.normal(size=x.shape) if paired else rng.normal(0.1, 1.0, (ROWS - 700, CHANNELS))


def matrix(paired, precision, device, values=None):
    def prepared(*parts):
        return rows.prepare([(part, None) for part in parts], rows.Affine(), precision, torch.device(device))

    x, y = values or samples(paired)
    return tiles.PairedMatrix(prepared(x), prepared(y)) if paired else tiles.PooledMatrix(prepared(x, y))


def in_float64(matrix):
    def wide(some):
        return rows.Rows.from_features(some.values_NK.double(), "float64")

    if isinstance(matrix, tiles.PairedMatrix):
        return tiles.PairedMatrix(wide(matrix.x), wide(matrix.y))
    return tiles.PooledMatrix(wide(matrix.pooled))


def layout(paired, group_rows=1, permutations=PERMUTATIONS):
    sizes = (ROWS,) if paired else (ROWS, ROWS - 700)
    group_of = np.arange(sum(sizes)) // group_rows
    weights = np.random.default_rng(8).integers(0, 2, (int(group_of[-1]) + 1, permutations))
    return tiles.Layout(sizes, group_of, (2 * weights - 1 if paired else weights).astype(np.int8))


def kernels(*names):
    return [KERNELS[name](sigma, CHANNELS) for name in names for sigma in (12.0, 25.0)]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("group_rows", [1, 8])
@pytest.mark.parametrize("names", [("gaussian",), ("gaussian_mixture",), ("laplacian", "inverse_multiquadric")])
def test_triton_equals_torch_in_float64(paired, precision, group_rows, names):
    """Tolerance per entry: 2e-6, the rounding error of float32 distances over 200 channels; 4e-6 for weighted sums."""
    assert backend.unavailable_reason(torch.device("cuda"), precision, kernels(*names)) == ""
    of_rows, own = matrix(paired, precision, "cuda"), layout(paired, group_rows)
    launches = []
    found = backend.accumulate(
        of_rows,
        kernels(*names),
        own,
        context=WorkContext(is_cancelled=lambda: launches.append(1)),
        squares=True,
        launch_tiles=300,
    )
    expected = tiles.accumulate(in_float64(of_rows), kernels(*names), own, context=UNLIMITED, squares=True)
    count = len(expected[0].diagonal_N)
    assert len(launches) > 2
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got.rows_NP, wanted.rows_NP, rtol=0, atol=2e-6 * count)
        np.testing.assert_allclose(got.diagonal_N, wanted.diagonal_N, rtol=0, atol=2e-6)
        np.testing.assert_allclose(got.within_G, wanted.within_G, rtol=0, atol=2e-6 * group_rows**2)
        np.testing.assert_allclose(got.quadratic_B, wanted.quadratic_B, rtol=0, atol=4e-6 * count)
        np.testing.assert_allclose(got.squares, wanted.squares, rtol=2e-6)


def test_without_permutations():
    of_rows, own = matrix(False, "float32", "cuda"), layout(False, permutations=0)
    found = backend.accumulate(of_rows, kernels("gaussian"), own, context=UNLIMITED)
    expected = tiles.accumulate(in_float64(of_rows), kernels("gaussian"), own, context=UNLIMITED)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got.rows_NP, wanted.rows_NP, rtol=0, atol=2e-6 * len(wanted.diagonal_N))
        assert got.quadratic_B.size == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_identical_pairs_give_exactly_zero(precision):
    x = matrix(True, precision, "cuda").x
    own = layout(True, 8)
    for sums in backend.accumulate(tiles.PairedMatrix(x, x), kernels("gaussian"), own, context=UNLIMITED):
        for field in ("rows_NP", "diagonal_N", "within_G", "quadratic_B"):
            np.testing.assert_array_equal(getattr(sums, field), 0.0)


def test_repeated_calls_agree_bit_for_bit():
    of_rows, own = matrix(False, "float32", "cuda"), layout(False, 8)
    first, second = (
        backend.accumulate(of_rows, kernels("gaussian"), own, context=UNLIMITED, squares=True) for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_stops_between_launches():
    calls = []

    def stop_at_third():
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        backend.accumulate(
            matrix(False, "float32", "cuda"),
            kernels("gaussian"),
            layout(False),
            context=WorkContext(is_cancelled=stop_at_third),
            launch_tiles=50,
        )
    assert len(calls) == 3


def test_kernel_values_take_no_device_memory():
    """The kernel matrix of 30,000 rows would take 3.6 GB."""
    x = np.random.default_rng(9).normal(size=(30_000, 64))
    of_rows = matrix(False, "float32", "cuda", values=(x[:15_000], x[15_000:]))
    own = tiles.Layout((15_000, 15_000), np.arange(30_000), np.zeros((30_000, 0), np.int8))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    backend.accumulate(of_rows, kernels("gaussian"), own, context=UNLIMITED)
    assert torch.cuda.max_memory_allocated() - before < 400 * 2**20
