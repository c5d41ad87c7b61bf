"""The engine's sums on a CUDA device by a Triton program, in which kernel values never reach the device's memory.

Same numbers as `engine.accumulate`: distances and kernel values in float32, sums of a tile in float32, sums of tiles in
float64. Products run on bfloat16 matrix units: rows that were rounded to bfloat16 as they are, float32 rows as sums of
three bfloat16 parts, which keep float32's 24 bits. What is summed within a tile is written to a place of its own and
added up in a fixed order, so that the same device gives the same bits.

Imports `triton` late: without it, or without a device for it, `unavailable_reason` says so. Under TRITON_INTERPRET=1
the program runs on the CPU, slowly.

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
from vfmalign.mmd.engine.kernels import Kernel
from vfmalign.mmd.engine.precision import PrecisionName
from vfmalign.mmd.engine.rows import FloatArray
from vfmalign.mmd.engine.tiles import Layout, Matrix, PairedMatrix, Sums, TileShape
from vfmalign.mmd.engine.triton.operands import COMPONENTS, Operands
from vfmalign.mmd.engine.triton.tile_plan import PanelChunk, plan_chunks

_LOG2_E = math.log2(math.e)
# bfloat16 parts of a kernel value where it meets the weights of permutations, by those of the rows.
VALUE_COMPONENTS = {1: 2, 3: 3}
_LEAST_CAPABILITY = (8, 0)
_LAUNCH_TILES = 16_384
_PARTIAL_BYTES = 128 * 2**20
_BLOCK_ROWS = 8_192

Coefficients = list[tuple[float, float]]


def _gaussians(kernel: Kernel) -> Coefficients:
    """exp2(scale · distance²) for each Gaussian of a mean."""
    return [(-0.5 * _LOG2_E / scale**2, 1.0 / len(kernel.scales)) for scale in kernel.scales]


# What the program evaluates, by name of the kernel: its formula, and pairs of a scale of the distance and a weight.
_FAMILIES: dict[str, tuple[str, Callable[[Kernel], Coefficients]]] = {
    "gaussian": ("gaussian", _gaussians),
    "gaussian_mixture": ("gaussian", _gaussians),
    "laplacian": ("laplacian", lambda kernel: [(-_LOG2_E / kernel.sigma, 1.0)]),
    "rational_quadratic": ("rational_quadratic", lambda kernel: [(0.5 / kernel.sigma**2, 1.0)]),
    "inverse_multiquadric": ("inverse_multiquadric", lambda kernel: [(1.0 / kernel.sigma**2, 1.0)]),
}


def unavailable_reason(device: torch.device, precision: PrecisionName, kernels: Sequence[Kernel]) -> str:
    """Why the Triton program cannot take these kernels here, as one sentence; empty where it can."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if precision not in COMPONENTS:
        return f"triton sums in bfloat16 and float32, and {precision} was needed"
    unknown = sorted({kernel.name for kernel in kernels} - set(_FAMILIES))
    if unknown:
        return f"triton has no {' or '.join(unknown)} kernel"
    if device.type == "cuda":
        if torch.version.hip or torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
            return f"triton needs a CUDA device of capability {_LEAST_CAPABILITY[0]}.{_LEAST_CAPABILITY[1]} or later"
        return ""
    return "" if os.environ.get("TRITON_INTERPRET") == "1" else "triton needs a CUDA device"


def errors() -> tuple[type[Exception], ...]:
    """What triton raises where its program cannot be compiled or does not fit on the device."""
    from triton.errors import TritonError

    return (TritonError,)


def accumulate(
    matrix: Matrix,
    kernels: Sequence[Kernel],
    layout: Layout,
    *,
    tile_shape: TileShape | None = None,
    context: WorkContext,
    squares: bool = False,
    shard: tuple[int, int] = (0, 1),
    launch_tiles: int = _LAUNCH_TILES,
) -> list[Sums]:
    """All sums of the matrix for each kernel, as `engine.accumulate` forms them; one pass per family of kernels.

    Args:
        matrix: the matrix, of rows in bfloat16 or float32.
        kernels: of distances; ask `unavailable_reason` first.
        layout: blocks, groups and permutations of its rows.
        tile_shape: largest tile, at least 16 × 16; None for what suits the device.
        context: checked before every launch.
        squares: whether to sum k² as well.
        shard: (index, count): only the tiles of one part, for ranks that add their sums up.
        launch_tiles: largest number of tiles between two checks of `context`.
    """
    families: dict[tuple[str, int], list[int]] = {}
    coefficients = [_FAMILIES[kernel.name][1](kernel) for kernel in kernels]
    for index, kernel in enumerate(kernels):
        families.setdefault((_FAMILIES[kernel.name][0], len(coefficients[index])), []).append(index)
    device = matrix.device
    found: dict[int, Sums] = {}
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        operands = Operands.of(matrix, layout, tile_shape)
        for (family, _), indices in families.items():
            one_pass = _Pass(operands, layout, family, [coefficients[index] for index in indices], squares)
            one_pass.run(context, shard, launch_tiles)
            own = [kernels[index] for index in indices]
            found.update(zip(indices, one_pass.sums(matrix, own, with_diagonal=shard[0] == 0), strict=True))
    return [found[index] for index in range(len(kernels))]


class _Pass:
    """One family of kernels over all tiles: launches the program and adds its partial sums up in float64."""

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

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.zeros(self._count, *shape, dtype=dtype, device=self._device)

    def run(self, context: WorkContext, shard: tuple[int, int], launch_tiles: int) -> None:
        """Launches the program on all tiles of a share, never more than one launch ahead of the device."""
        per_tile = 4 * self._count * max(1, self._permutations)
        launch_tiles = max(1, min(launch_tiles, _PARTIAL_BYTES // per_tile))
        under_way: deque[torch.cuda.Event] = deque()
        seen = 0
        for chunk in plan_chunks(
            self._layout.block_sizes,
            self._layout.group_of_N,
            self._operands.shape,
            grouped=self._grouped,
            most_tiles=launch_tiles,
            most_sums=_PARTIAL_BYTES // (4 * self._count),
        ):
            numbers = np.arange(seen, seen + len(chunk.tiles))
            tiles = chunk.tiles[numbers % shard[1] == shard[0]]
            seen += len(chunk.tiles)
            partial = _Partial(self._count, chunk, self._device)
            for start in range(0, len(tiles), launch_tiles):
                context.checkpoint()
                self._launch(tiles[start : start + launch_tiles], chunk, partial)
                if self._device.type == "cuda":
                    under_way.append(torch.cuda.current_stream().record_event())
                    if len(under_way) > 1:
                        under_way.popleft().synchronize()
            self._add(chunk, partial)

    def _launch(self, tiles: np.ndarray, chunk: PanelChunk, partial: _Partial) -> None:
        """Sums of some tiles; those of permutations and squares are added up at once, the others once per chunk."""
        from vfmalign.mmd.engine.triton import kernels

        operands, shape = self._operands, self._operands.shape
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
            BLOCK_I=shape.rows,
            BLOCK_J=shape.columns,
            BLOCK_K=shape.channels,
            BLOCK_B=shape.permutations,
            COMPONENTS=len(operands.x_SNK),
            VALUE_COMPONENTS=VALUE_COMPONENTS[len(operands.x_SNK)],
            INTERPRETED=kernels.INTERPRETED,
            num_warps=shape.warps,
            num_stages=shape.stages,
            enable_fp_fusion=True,
        )
        self._quadratic_FB += 2.0 * quadratic_FTB.sum(dim=1, dtype=torch.float64)
        if self._with_squares:
            self._squares_F += 2.0 * squares_FT.sum(dim=1, dtype=torch.float64)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(self._count, *shape, dtype=torch.float32, device=self._device)

    def _add(self, chunk: PanelChunk, partial: _Partial) -> None:
        """Adds the sums of a chunk: what is right of the diagonal counts for its row, and for its column."""
        of_chunk, right_of_it = slice(chunk.first_row, chunk.first_row + chunk.rows), slice(chunk.first_row, None)
        for block in range(len(self._layout.block_sizes)):
            columns = [at for at, span in enumerate(chunk.columns) if span.block == block]
            if columns:
                some = partial.rows[:, columns[0] : columns[-1] + 1]
                self._rows_FPN[:, block, of_chunk] += some.sum(dim=1, dtype=torch.float64)
            panels = [at for at, span in enumerate(chunk.panels) if span.block == block]
            if panels:
                some = partial.columns[:, panels[0] : panels[-1] + 1]
                self._rows_FPN[:, block, right_of_it] += some.sum(dim=1, dtype=torch.float64)
        self._within_FN[:, of_chunk] += 2.0 * partial.within.sum(dim=1, dtype=torch.float64)

    def sums(self, matrix: Matrix, kernels: Sequence[Kernel], *, with_diagonal: bool) -> list[Sums]:
        """What was added and, on one share alone, the diagonal, whose distances are taken directly."""
        asked = self._layout.weights_GB.shape[1]
        parts = (self._rows_FPN.transpose(1, 2), self._within_FN, self._quadratic_FB[:, :asked], self._squares_F)
        rows_FNP, within_FN, quadratic_FB, squares_F = (part.cpu().numpy() for part in parts)
        found = []
        for index, kernel in enumerate(kernels):
            within_G = _by_group(within_FN[index], self._layout)
            none_N = np.zeros(rows_FNP.shape[1])
            sums = Sums(rows_FNP[index], none_N, within_G, quadratic_FB[index], float(squares_F[index]))
            found.append(sums + self._diagonal(matrix, kernel) if with_diagonal else sums)
        return found

    def _diagonal(self, matrix: Matrix, kernel: Kernel) -> Sums:
        """What the diagonal adds to each sum."""
        rows, blocks = sum(self._layout.block_sizes), len(self._layout.block_sizes)
        same = float(_evaluate(kernel, torch.zeros(1))[0])
        diagonal_N, squares = np.full(rows, same), 0.0
        if isinstance(matrix, PairedMatrix):
            spans = [slice(start, start + _BLOCK_ROWS) for start in range(0, rows, _BLOCK_ROWS)]
            distances_N = torch.cat([products.pair_distances(matrix.x, matrix.y, span) for span in spans])
            cross_N = _evaluate(kernel, distances_N)
            diagonal_N = 2.0 * (same - cross_N)
            squares = 2.0 * float(np.square(cross_N).sum()) if self._with_squares else 0.0
        rows_NP = np.zeros((rows, blocks))
        rows_NP[np.arange(rows), np.repeat(np.arange(blocks), self._layout.block_sizes)] = diagonal_N
        within_G = _by_group(diagonal_N, self._layout)
        return Sums(rows_NP, diagonal_N, within_G, _weighted(within_G, self._layout.weights_GB), squares)


class _Partial:
    """Room for the partial sums of one chunk, each entry of which one tile writes at most."""

    def __init__(self, kernels: int, chunk: PanelChunk, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(kernels, *shape, dtype=torch.float32, device=device)

        self.rows = zeros(len(chunk.columns), chunk.rows)
        self.columns = zeros(len(chunk.panels), chunk.columns[-1].stop - chunk.first_row)
        self.within = zeros(chunk.within_slots, chunk.rows)


def _by_group(values_N: FloatArray, layout: Layout) -> FloatArray:
    """Sums of values over the rows of each group."""
    return np.bincount(layout.group_of_N, values_N, minlength=layout.weights_GB.shape[0]).astype(np.float64)


def _evaluate(kernel: Kernel, distance2_N: Tensor) -> FloatArray:
    """Kernel values of squared distances, in float64."""
    argument_N = distance2_N.double()
    values: FloatArray = kernel.evaluate(argument_N, torch.empty_like(argument_N)).cpu().numpy()
    return values


def _weighted(diagonal_G: FloatArray, weights_GB: np.ndarray) -> FloatArray:
    """Σ_g w² d_g for each permutation, weights becoming float64 a few at a time."""
    step = max(1, 2**22 // max(1, weights_GB.shape[0]))
    starts = range(0, weights_GB.shape[1], step)
    parts = [diagonal_G @ np.square(weights_GB[:, start : start + step].astype(np.float64)) for start in starts]
    return np.concatenate(parts) if parts else np.zeros(0)
