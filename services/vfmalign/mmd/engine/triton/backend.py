"""Sums over kernel matrices on a CUDA device. The Triton program never writes kernel values to device memory.

The program computes the same sums as `tiles.accumulate`. Distances, kernel values and sums within a tile are in
float32. Sums over tiles are in float64. Products run on bfloat16 matrix units. Rows rounded to bfloat16 are used
unchanged. A float32 row is split into three bfloat16 components, which preserve its 24 bits. The sums of each tile are
stored separately and added in a fixed order, so that results are bitwise reproducible on the same device.

`triton` is imported late. `unavailable_reason` reports whether `triton` or a suitable device is missing. With
TRITON_INTERPRET=1, the program runs slowly on the CPU.

Legend: N rows, F kernels of one family, T tiles, P blocks of rows, G groups, B permutations.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.engine import products
from vfmalign.mmd.engine.kernels import BoundKernel
from vfmalign.mmd.engine.precision import PrecisionName
from vfmalign.mmd.engine.rows import FloatArray
from vfmalign.mmd.engine.tiles import Layout, Matrix, PairedMatrix, Sums, TileShape
from vfmalign.mmd.engine.triton.operands import COMPONENTS, Operands
from vfmalign.mmd.engine.triton.tile_plan import PanelChunk, plan_chunks

_LOG2_E = math.log2(math.e)
# bfloat16 components of a kernel value that is multiplied by permutation weights, by the components of a row.
VALUE_COMPONENTS = {1: 2, 3: 3}
_MIN_CAPABILITY = (8, 0)
_LAUNCH_TILES = 16_384  # such a launch takes milliseconds, so that a cancelled comparison stops soon
_PARTIAL_BYTES = 128 * 2**20  # size of the partial sums of one chunk
_BLOCK_ROWS = 8_192

Coefficients = list[tuple[float, float]]


def _gaussians(kernel: BoundKernel) -> Coefficients:
    """Returns the scale and the weight of each Gaussian exp2(scale · distance²) of a kernel."""
    return [(-0.5 * _LOG2_E / scale**2, 1.0 / len(kernel.gaussian_sigmas)) for scale in kernel.gaussian_sigmas]


# By kernel name: the formula that the program evaluates, and its coefficients, pairs of a distance scale and a weight.
_FAMILIES: dict[str, tuple[str, Callable[[BoundKernel], Coefficients]]] = {
    "gaussian": ("gaussian", _gaussians),
    "gaussian_mixture": ("gaussian", _gaussians),
    "laplacian": ("laplacian", lambda kernel: [(-_LOG2_E / kernel.sigma, 1.0)]),
    "rational_quadratic": ("rational_quadratic", lambda kernel: [(0.5 / kernel.sigma**2, 1.0)]),
    "inverse_multiquadric": ("inverse_multiquadric", lambda kernel: [(1.0 / kernel.sigma**2, 1.0)]),
}


def unavailable_reason(device: torch.device, precision: PrecisionName, kernels: Sequence[BoundKernel]) -> str:
    """Returns why the Triton program cannot sum these kernels on this device, or an empty string if it can."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if precision not in COMPONENTS:
        return f"triton sums in bfloat16 and float32, and {precision} was needed"
    unknown = sorted({kernel.name for kernel in kernels} - set(_FAMILIES))
    if unknown:
        return f"triton has no {' or '.join(unknown)} kernel"
    if device.type == "cuda":
        if torch.version.hip or torch.cuda.get_device_capability(device) < _MIN_CAPABILITY:
            return f"triton needs a CUDA device of capability {_MIN_CAPABILITY[0]}.{_MIN_CAPABILITY[1]} or later"
        return ""
    return "" if os.environ.get("TRITON_INTERPRET") == "1" else "triton needs a CUDA device"


def errors() -> tuple[type[Exception], ...]:
    """Returns the error types that triton raises if the program does not compile or does not fit on the device."""
    from triton.errors import TritonError

    return (TritonError,)


def accumulate(
    matrix: Matrix,
    kernels: Sequence[BoundKernel],
    layout: Layout,
    *,
    tile_shape: TileShape | None = None,
    context: WorkContext,
    squares: bool = False,
    shard: tuple[int, int] = (0, 1),
    launch_tiles: int = _LAUNCH_TILES,
) -> list[Sums]:
    """Computes the same sums as `tiles.accumulate`, in one pass per kernel family.

    Args:
        matrix: the matrix, with rows in bfloat16 or float32.
        kernels: kernels of distances; call `unavailable_reason` first.
        layout: blocks, groups and permutations of the rows.
        tile_shape: maximum rows and columns of a tile, at least 16 × 16; None for the default of the device.
        context: checked before every launch.
        squares: whether to sum k² as well.
        shard: (index, count): sums only the tiles with number % count = index. The caller all-reduces the sums.
        launch_tiles: maximum number of tiles between two checks of `context`.
    """
    families: dict[tuple[str, int], list[int]] = {}
    coefficients = [_FAMILIES[kernel.name][1](kernel) for kernel in kernels]
    for index, kernel in enumerate(kernels):
        families.setdefault((_FAMILIES[kernel.name][0], len(coefficients[index])), []).append(index)
    device = matrix.device
    sums: dict[int, Sums] = {}
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        operands = Operands.from_matrix(matrix, layout, tile_shape)
        for (family, _), indices in families.items():
            family_pass = _FamilyPass(operands, layout, family, [coefficients[index] for index in indices], squares)
            family_pass.run(context, shard, launch_tiles)
            members = [kernels[index] for index in indices]
            # The diagonal is not part of any tile; only one process adds it.
            family_sums = family_pass.sums(matrix, members, with_diagonal=shard[0] == 0)
            sums.update(zip(indices, family_sums, strict=True))
    return [sums[index] for index in range(len(kernels))]


class _FamilyPass:
    """Launches the program for one kernel family on all tiles. Adds up the partial sums in float64."""

    def __init__(
        self, operands: Operands, layout: Layout, family: str, coefficients: Sequence[Coefficients], squares: bool
    ) -> None:
        self._operands, self._layout, self._family, self._with_squares = operands, layout, family, squares
        self._device = operands.x_SNK.device
        self._count = len(coefficients)
        self._coefficients = torch.tensor(coefficients, dtype=torch.float32, device=self._device)
        rows, self._permutations = sum(layout.block_sizes), int(operands.weights_GB.shape[1])
        self._grouped = layout.weights_GB.shape[0] != rows
        self._rows_FPN = self._zeros(len(layout.block_sizes), rows)
        self._within_FN = self._zeros(rows)
        self._quadratic_FB = self._zeros(self._permutations)
        self._squares_F = self._zeros()

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(self._count, *shape, dtype=torch.float64, device=self._device)

    def run(self, context: WorkContext, shard: tuple[int, int], launch_tiles: int) -> None:
        """Launches the program on all tiles of a shard. At most one launch is queued ahead of the device.

        One queued launch is enough to keep the device busy. More queued launches could not be cancelled.
        """
        per_tile = 4 * self._count * max(1, self._permutations)
        launch_tiles = max(1, min(launch_tiles, _PARTIAL_BYTES // per_tile))
        pending: deque[torch.cuda.Event] = deque()
        planned = 0
        for chunk in plan_chunks(
            self._layout.block_sizes,
            self._layout.group_of_N,
            self._operands.config,
            grouped=self._grouped,
            max_tiles=launch_tiles,
            max_sums=_PARTIAL_BYTES // (4 * self._count),
        ):
            numbers = np.arange(planned, planned + len(chunk.tiles))
            tiles = chunk.tiles[numbers % shard[1] == shard[0]]
            planned += len(chunk.tiles)
            partial = _PartialSums(self._count, chunk, self._device)
            for start in range(0, len(tiles), launch_tiles):
                context.checkpoint()
                self._launch(tiles[start : start + launch_tiles], chunk, partial)
                if self._device.type == "cuda":
                    pending.append(torch.cuda.current_stream().record_event())
                    if len(pending) > 1:
                        pending.popleft().synchronize()
            self._add(chunk, partial)

    def _launch(self, tiles: np.ndarray, chunk: PanelChunk, partial: _PartialSums) -> None:
        """Sums some tiles. Adds the sums of permutations and squares at once, and other sums once per chunk."""
        from vfmalign.mmd.engine.triton import kernels

        operands, config = self._operands, self._operands.config
        tiles_T7 = torch.from_numpy(tiles).to(self._device)
        quadratic_FTB = self._empty(len(tiles), self._permutations)
        squares_FT = self._empty(len(tiles))
        kernels.sum_tiles[(len(tiles),)](
            operands.x_SNK,
            operands.y_SNK,
            operands.x_norms_N,
            operands.y_norms_N,
            self._coefficients,
            operands.groups_N,
            operands.weights_GB,
            tiles_T7,
            partial.rows,
            partial.columns,
            partial.within,
            quadratic_FTB,
            squares_FT,
            int(operands.x_SNK.shape[2]),
            operands.x_SNK.stride(0),
            self._count,
            self._permutations,
            chunk.first_row,
            int(partial.rows.shape[2]),
            int(partial.rows.shape[1]),
            int(partial.columns.shape[1]),
            int(partial.columns.shape[2]),
            int(partial.within.shape[1]),
            PAIRED=operands.paired,
            FAMILY=self._family,
            C=int(self._coefficients.shape[1]),
            PERMUTED=self._permutations > 0,
            GROUPED=self._grouped,
            SQUARES=self._with_squares,
            BLOCK_I=config.rows,
            BLOCK_J=config.columns,
            BLOCK_K=config.channels,
            BLOCK_B=config.permutations,
            COMPONENTS=len(operands.x_SNK),
            VALUE_COMPONENTS=VALUE_COMPONENTS[len(operands.x_SNK)],
            INTERPRETED=kernels.INTERPRETED,
            num_warps=config.warps,
            num_stages=config.stages,
            enable_fp_fusion=True,
        )
        self._quadratic_FB += 2.0 * quadratic_FTB.sum(dim=1, dtype=torch.float64)
        if self._with_squares:
            self._squares_F += 2.0 * squares_FT.sum(dim=1, dtype=torch.float64)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(self._count, *shape, dtype=torch.float32, device=self._device)

    def _add(self, chunk: PanelChunk, partial: _PartialSums) -> None:
        """Adds the sums of a chunk. Each entry right of the diagonal counts for its row and for its column."""
        chunk_rows, following_rows = slice(chunk.first_row, chunk.first_row + chunk.rows), slice(chunk.first_row, None)
        for block in range(len(self._layout.block_sizes)):
            columns = [index for index, span in enumerate(chunk.columns) if span.block == block]
            if columns:
                row_sums = partial.rows[:, columns[0] : columns[-1] + 1]
                self._rows_FPN[:, block, chunk_rows] += row_sums.sum(dim=1, dtype=torch.float64)
            panels = [index for index, span in enumerate(chunk.panels) if span.block == block]
            if panels:
                column_sums = partial.columns[:, panels[0] : panels[-1] + 1]
                self._rows_FPN[:, block, following_rows] += column_sums.sum(dim=1, dtype=torch.float64)
        self._within_FN[:, chunk_rows] += 2.0 * partial.within.sum(dim=1, dtype=torch.float64)

    def sums(self, matrix: Matrix, kernels: Sequence[BoundKernel], *, with_diagonal: bool) -> list[Sums]:
        """Returns the sums of each kernel matrix, with or without its diagonal."""
        permutations = self._layout.weights_GB.shape[1]  # without the padding
        tensors = (
            self._rows_FPN.transpose(1, 2),
            self._within_FN,
            self._quadratic_FB[:, :permutations],
            self._squares_F,
        )
        rows_FNP, within_FN, quadratic_FB, squares_F = (tensor.cpu().numpy() for tensor in tensors)
        kernel_sums = []
        for index, kernel in enumerate(kernels):
            within_G = _by_group(within_FN[index], self._layout)
            zeros_N = np.zeros(rows_FNP.shape[1])
            sums = Sums(rows_FNP[index], zeros_N, within_G, quadratic_FB[index], float(squares_F[index]))
            kernel_sums.append(sums + self._diagonal(matrix, kernel) if with_diagonal else sums)
        return kernel_sums

    def _diagonal(self, matrix: Matrix, kernel: BoundKernel) -> Sums:
        """Returns the contributions of the diagonal. Its distances are computed from differences of rows."""
        rows, blocks = sum(self._layout.block_sizes), len(self._layout.block_sizes)
        at_zero = float(_evaluate(kernel, torch.zeros(1))[0])
        diagonal_N, squares = np.full(rows, at_zero), 0.0
        if isinstance(matrix, PairedMatrix):
            spans = [slice(start, start + _BLOCK_ROWS) for start in range(0, rows, _BLOCK_ROWS)]
            distances_N = torch.cat([products.pair_distances(matrix.x, matrix.y, span) for span in spans])
            cross_N = _evaluate(kernel, distances_N)
            diagonal_N = 2.0 * (at_zero - cross_N)
            squares = 2.0 * float(np.square(cross_N).sum()) if self._with_squares else 0.0
        rows_NP = np.zeros((rows, blocks))
        rows_NP[np.arange(rows), np.repeat(np.arange(blocks), self._layout.block_sizes)] = diagonal_N
        within_G = _by_group(diagonal_N, self._layout)
        return Sums(rows_NP, diagonal_N, within_G, _weighted_diagonal(within_G, self._layout.weights_GB), squares)


class _PartialSums:
    """Buffers for the partial sums of one chunk. At most one tile writes to each entry."""

    def __init__(self, kernels: int, chunk: PanelChunk, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(kernels, *shape, dtype=torch.float32, device=device)

        self.rows = zeros(len(chunk.columns), chunk.rows)
        self.columns = zeros(len(chunk.panels), chunk.columns[-1].stop - chunk.first_row)
        self.within = zeros(chunk.within_slots, chunk.rows)


def _by_group(values_N: FloatArray, layout: Layout) -> FloatArray:
    """Returns the sum of the rows' values for each group."""
    return np.bincount(layout.group_of_N, values_N, minlength=layout.weights_GB.shape[0]).astype(np.float64)


def _evaluate(kernel: BoundKernel, distance2_N: Tensor) -> FloatArray:
    """Evaluates a kernel in float64 at the given squared distances."""
    argument_N = distance2_N.double()
    values: FloatArray = kernel.evaluate(argument_N, torch.empty_like(argument_N)).cpu().numpy()
    return values


def _weighted_diagonal(diagonal_G: FloatArray, weights_GB: np.ndarray) -> FloatArray:
    """Returns Σ_g w² d_g for each permutation. Converts the weights of only a few permutations to float64 at a time."""
    step = max(1, 2**22 // max(1, weights_GB.shape[0]))
    starts = range(0, weights_GB.shape[1], step)
    sums = [diagonal_G @ np.square(weights_GB[:, start : start + step].astype(np.float64)) for start in starts]
    return np.concatenate(sums) if sums else np.zeros(0)
