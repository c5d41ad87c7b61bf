"""Sums over a symmetric kernel matrix, tile by tile, without storing the matrix.

A single pass computes the tiles on and above the diagonal. Each tile starts as a matrix product and is converted to
kernel values in place. While the tile is in the CPU cache, it is reduced to row sums, sums within groups and products
with the permutations' weights. The next tile then overwrites it. Kernel values have the precision of the rows. The rows
of a tile are summed pairwise in the same precision, with at most a few thousand terms. A float64 reduction of a tile
would take longer than computing the exponentials of the tile. All later sums are in float64.

Legend: N rows, K channels, I rows and J columns of one tile, P blocks of rows, G groups, B permutations.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine import ordered_pool, products
from vfmalign.mmd.engine.kernels import BoundKernel
from vfmalign.mmd.engine.permuted_sums import QuadraticForms
from vfmalign.mmd.engine.precision import PrecisionName
from vfmalign.mmd.engine.rows import FloatArray, IntArray, Rows

TileShape = tuple[int, int]
Tile = tuple[slice, slice, tuple[int, int]]
"""Row range, column range, and the blocks of both."""

# Wide tiles of few rows keep the matrix product near its top speed and the tile in the cache (measured; `make bench`).
_TILE_SHAPES: dict[str, TileShape] = {"cpu": (512, 2048), "cuda": (4096, 8192)}


@dataclass(frozen=True)
class Layout:
    """Blocks and groups of the rows, and the weight of each group in each permutation.

    Attributes:
        block_sizes: number of rows of each block, in order. Each row has one sum per block.
        group_of_N: group index of each row, in ascending order, so that the rows of a group are contiguous.
        weights_GB: weight of each group's rows in each permutation (−1, 0 or 1); B may be 0.
    """

    block_sizes: tuple[int, ...]
    group_of_N: IntArray
    weights_GB: NDArray[np.int8]


@dataclass(frozen=True)
class Sums:
    """Float64 sums over a symmetric matrix T. All statistics of a comparison are computed from these sums.

    Attributes:
        rows_NP: Σ_j T_ij over the columns j of each block, including the diagonal.
        diagonal_N: T_ii.
        within_G: Σ T_ij over all i and j in the same group, including the diagonal.
        quadratic_B: w_bᵀ T w_b for each permutation b.
        squares: Σ k² over all ordered pairs of different pooled rows; 0 if not requested.
    """

    rows_NP: FloatArray
    diagonal_N: FloatArray
    within_G: FloatArray
    quadratic_B: FloatArray
    squares: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        """Adds up the sums of two disjoint sets of tiles."""
        return Sums(
            self.rows_NP + other.rows_NP,
            self.diagonal_N + other.diagonal_N,
            self.within_G + other.within_G,
            self.quadratic_B + other.quadratic_B,
            self.squares + other.squares,
        )


class Matrix(Protocol):
    """Symmetric matrix that depends on the kernel. It is computed one rectangle at a time."""

    device: torch.device
    dtype: torch.dtype
    precision: PrecisionName

    def tile(
        self,
        rows: slice,
        columns: slice,
        kernels: Sequence[BoundKernel],
        squares: list[float],
        context: WorkContext = UNLIMITED,
    ) -> Iterator[Tensor]:
        """Yields the rectangle [I, J] for each kernel in turn.

        A rectangle is valid until the next rectangle is requested.

        Args:
            rows: range of the I rows.
            columns: range of the J columns. It is equal to `rows` or disjoint from `rows`.
            kernels: kernels to evaluate.
            squares: one sum per kernel; the function adds Σ k² over the off-diagonal entries to it. Empty if not
                needed.
            context: checked before every matrix product and between kernels.
        """


class PooledMatrix:
    """Kernel matrix over the pooled rows [x; y], for independent samples."""

    def __init__(self, pooled: Rows) -> None:
        self.pooled = pooled
        self.device, self.dtype, self.precision = pooled.device, pooled.dtype, pooled.precision
        self._buffers = _TileBuffers(self.device, self.dtype)

    def tile(
        self,
        rows: slice,
        columns: slice,
        kernels: Sequence[BoundKernel],
        squares: list[float],
        context: WorkContext = UNLIMITED,
    ) -> Iterator[Tensor]:
        """Yields k(z_i, z_j) of one rectangle."""
        buffers = self._buffers.get(rows, columns, _buffer_count(kernels))
        for index, value_IJ in _kernel_values(
            (self.pooled, self.pooled), rows, columns, kernels, buffers, context=context
        ):
            _add_squares(squares, index, value_IJ, rows == columns)
            yield value_IJ


class PairedMatrix:
    """Matrix h(z_i, z_j) = k(x_i, x_j) + k(y_i, y_j) − k(x_i, y_j) − k(x_j, y_i) of the pairs z_i = (x_i, y_i).

    The four terms are added in each entry before the entries are summed. For identical samples, the result is therefore
    exactly 0 instead of a difference of large sums.
    """

    def __init__(self, x: Rows, y: Rows) -> None:
        self.x, self.y = x, y
        self.device, self.dtype, self.precision = x.device, x.dtype, x.precision
        self._buffers = _TileBuffers(self.device, self.dtype)

    def tile(
        self,
        rows: slice,
        columns: slice,
        kernels: Sequence[BoundKernel],
        squares: list[float],
        context: WorkContext = UNLIMITED,
    ) -> Iterator[Tensor]:
        """Yields h(z_i, z_j) of one rectangle."""
        buffers = self._buffers.get(rows, columns, len(kernels) + _buffer_count(kernels))
        sums, buffers = buffers[: len(kernels)], buffers[len(kernels) :]
        x, y = self.x, self.y
        for a, b, sign in ((x, x, 1.0), (y, y, 1.0), (x, y, -1.0), (y, x, -1.0)):
            for index, value_IJ in _kernel_values((a, b), rows, columns, kernels, buffers, context=context):
                _add_squares(squares, index, value_IJ, a is b and rows == columns)
                if a is x and b is x:
                    sums[index].copy_(value_IJ)
                else:
                    sums[index].add_(value_IJ, alpha=sign)
        yield from sums


def _buffer_count(kernels: Sequence[BoundKernel]) -> int:
    """Returns the number of tiles to allocate: one for kernel values, and another one if kernels share an argument."""
    return min(len(kernels), 2)


def _kernel_values(
    pair: tuple[Rows, Rows],
    rows: slice,
    columns: slice,
    kernels: Sequence[BoundKernel],
    buffers: Sequence[Tensor],
    *,
    context: WorkContext,
) -> Iterator[tuple[int, Tensor]]:
    """Yields the values of one kernel after another in the last buffer. The first buffer contains the shared argument.

    With a single kernel, distances are scaled while they are computed, which saves one pass over the tile.
    """
    (a, b), computed_argument, argument_IJ = pair, "", buffers[0]
    for index, kernel in enumerate(kernels):
        if index:
            context.checkpoint()
        prescaled = kernel.argument == "distance" and len(kernels) == 1
        if kernel.argument != computed_argument:
            if kernel.argument == "product":
                products.products(a, b, rows, columns, argument_IJ, context=context)
            else:
                scale = kernel.scale if prescaled else 1.0
                products.squared_distances(a, b, rows, columns, argument_IJ, scale=scale, context=context)
                if rows == columns:  # the product form would lose small distances on the diagonal to cancellation
                    diagonal_I = torch.zeros_like(a.norms_N[rows]) if a is b else products.pair_distances(a, b, rows)
                    argument_IJ.diagonal().copy_(diagonal_I.mul_(scale))
            computed_argument = kernel.argument
        yield index, kernel.profile(argument_IJ) if prescaled else kernel.evaluate(argument_IJ, buffers[-1])


def _add_squares(squares: list[float], index: int, value_IJ: Tensor, on_diagonal: bool) -> None:
    """Adds Σ k² over the off-diagonal entries of a rectangle. Does nothing if `squares` is empty."""
    if squares:
        squares[index] += float(torch.dot(value_IJ.view(-1), value_IJ.view(-1)))
        if on_diagonal:
            squares[index] -= float(value_IJ.diagonal().double().square().sum())


class _TileBuffers(threading.local):
    """Reusable buffers for tiles. Every thread has its own buffers.

    Buffers are reused because allocating memory and its first access take longer than filling a tile.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._buffers: list[Tensor] = []

    def get(self, rows: slice, columns: slice, count: int) -> list[Tensor]:
        """Returns `count` tiles of the rectangle's size, with undefined contents."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if len(self._buffers) < count or self._buffers[0].numel() < height * width:
            size = max(height * width, self._buffers[0].numel() if self._buffers else 0)
            self._buffers = [torch.empty(size, dtype=self._dtype, device=self._device) for _ in range(count)]
        return [buffer[: height * width].view(height, width) for buffer in self._buffers[:count]]


@dataclass(frozen=True)
class TileSums:
    """Sums of one tile of one kernel.

    Attributes:
        rows_I: sums over the columns.
        columns_J: sums over the rows; None for a tile on the diagonal, because it is symmetric.
        diagonal_I: entries on the matrix diagonal; None for a tile off the diagonal.
        within_I: sums over the columns in the group of the row; None if no group has both rows and columns in the tile.
        quadratic_B: Σ w_i T_ij w_j in float64; None if there are no permutations.
    """

    rows_I: Tensor
    columns_J: Tensor | None
    diagonal_I: Tensor | None
    within_I: Tensor | None
    quadratic_B: Tensor | None


class Accumulator:
    """Reduces tiles to sums, and adds up these sums for each kernel."""

    def __init__(self, layout: Layout, kernels: Sequence[BoundKernel], matrix: Matrix) -> None:
        device = matrix.device
        self._kernels = kernels
        self._group_of_N = layout.group_of_N
        rows, (groups, permutations) = sum(layout.block_sizes), layout.weights_GB.shape
        self._group_of = torch.from_numpy(layout.group_of_N).to(device)
        weights_GB = torch.from_numpy(layout.weights_GB).to(device)
        self._singletons, self._permutations = groups == rows, permutations
        self._quadratic_forms = QuadraticForms(weights_GB, self._group_of, matrix.dtype)

        def zeros(*shape: int) -> list[Tensor]:
            return [torch.zeros(*shape, dtype=torch.float64, device=device) for _ in kernels]

        self._rows_NP, self._diagonal_N = zeros(rows, len(layout.block_sizes)), zeros(rows)
        self._within_G, self._quadratic_B = zeros(groups), zeros(permutations)

    def reduce(self, tile_IJ: Tensor, rows: slice, columns: slice, context: WorkContext = UNLIMITED) -> TileSums:
        """Returns the sums of a tile. The caller may overwrite the tile afterwards. This method is thread-safe.

        Checks `context` before every few permutations.
        """
        within_I = None
        if not self._singletons and self._group_of_N[rows.stop - 1] >= self._group_of_N[columns.start]:
            within_IJ = self._group_of[rows, None] == self._group_of[None, columns]
            within_I = (tile_IJ * within_IJ).sum(dim=1)
        return TileSums(
            tile_IJ.sum(dim=1),
            None if rows == columns else tile_IJ.sum(dim=0),
            tile_IJ.diagonal().clone() if rows == columns else None,
            within_I,
            self._quadratic_forms.evaluate(tile_IJ, rows, columns, context) if self._permutations else None,
        )

    def add(self, kernel: int, tile: TileSums, rows: slice, columns: slice, blocks: tuple[int, int]) -> None:
        """Adds the sums of one kernel's tile and of the mirrored tile below the diagonal."""
        self._rows_NP[kernel][rows, blocks[1]].add_(tile.rows_I)
        if tile.diagonal_I is not None:
            self._diagonal_N[kernel][rows] = tile.diagonal_I.double()
        if tile.columns_J is not None:
            self._rows_NP[kernel][columns, blocks[0]].add_(tile.columns_J)
        factor = 1.0 if tile.columns_J is None else 2.0
        if tile.within_I is not None:
            self._within_G[kernel].index_add_(0, self._group_of[rows], tile.within_I.double(), alpha=factor)
        if tile.quadratic_B is not None:
            self._quadratic_B[kernel] += tile.quadratic_B * factor

    def sums(self, squares: Sequence[float]) -> list[Sums]:
        """Returns the sums over all tiles for each kernel."""
        within_G = self._diagonal_N if self._singletons else self._within_G
        tensors = zip(self._rows_NP, self._diagonal_N, within_G, self._quadratic_B, strict=True)
        all_squares = squares or [0.0] * len(self._kernels)
        return [
            Sums(rows_NP.cpu().numpy(), diagonal_N.cpu().numpy(), of_G.cpu().numpy(), quadratic_B.cpu().numpy(), square)
            for (rows_NP, diagonal_N, of_G, quadratic_B), square in zip(tensors, all_squares, strict=True)
        ]


def accumulate(
    matrix: Matrix,
    kernels: Sequence[BoundKernel],
    layout: Layout,
    *,
    tile_shape: TileShape | None = None,
    context: WorkContext,
    squares: bool = False,
    shard: tuple[int, int] = (0, 1),
    threads: int | None = None,
) -> list[Sums]:
    """Computes the matrix sums of each kernel in one pass over the tiles on and above the diagonal.

    Args:
        matrix: the matrix.
        kernels: kernels, which are all evaluated on the same distances.
        layout: blocks, groups and permutations of the rows.
        tile_shape: maximum rows and columns of a tile; None for the default of the device.
        context: each thread that computes tiles checks the context before each product, each kernel and every few
            thousand permutations. If several threads compute tiles, the caller also checks the context every few
            milliseconds.
        squares: whether to sum k² as well.
        shard: (index, count): sums only the tiles with number % count = index. The caller all-reduces the sums.
        threads: number of threads that compute tiles. If None, the device and the number of tiles determine the number.
            The number of threads changes the sums only if one thread rounds a product differently than several threads
            do.
    """
    accumulator = Accumulator(layout, kernels, matrix)
    height, width = tile_shape or default_tile_shape(matrix.device)
    tiles = list(upper_tiles(layout.block_sizes, height, width))[shard[0] :: shard[1]]
    threads = threads or ordered_pool.choose_threads(matrix.device, len(tiles))

    totals = [0.0] * len(kernels) if squares else []

    def compute(tile: Tile) -> tuple[list[TileSums], list[float]]:
        rows, columns, _ = tile
        tile_squares = [0.0] * len(totals)
        tiles_IJ = matrix.tile(rows, columns, kernels, tile_squares, context)
        return [accumulator.reduce(tile_IJ, rows, columns, context) for tile_IJ in tiles_IJ], tile_squares

    def add(tile: Tile, results: tuple[list[TileSums], list[float]]) -> None:
        kernel_sums, tile_squares = results
        for kernel, tile_sums in enumerate(kernel_sums):
            accumulator.add(kernel, tile_sums, *tile)
        for kernel, square in enumerate(tile_squares):
            totals[kernel] += square if tile[0] == tile[1] else 2.0 * square

    ordered_pool.reduce_in_order(compute, add, tiles, context=context, threads=threads)
    return accumulator.sums(totals)


def default_tile_shape(device: torch.device) -> TileShape:
    """Returns the default number of rows and columns of a tile for a device."""
    return _TILE_SHAPES.get(device.type, _TILE_SHAPES["cuda"])


def upper_tiles(block_sizes: Sequence[int], height: int, width: int) -> Iterator[Tile]:
    """Yields rectangles of a symmetric matrix. Together, they cover each entry on and above the diagonal once.

    Rectangles on the diagonal are squares. Rectangles above the diagonal are wide, and their width is a multiple of
    their height. The rectangles are ordered column by column from the top, so that consecutive rectangles have the same
    columns. No rectangle spans two blocks.
    """
    width = max(height, width - width % height)
    panels = list(_spans(block_sizes, height))
    for block_J, columns in _spans(block_sizes, width):
        for block_I, rows in panels:
            if rows.stop <= columns.start:
                yield rows, columns, (block_I, block_J)
            elif rows.start < columns.stop:
                yield rows, rows, (block_I, block_J)
                if rows.stop < columns.stop:
                    yield rows, slice(rows.stop, columns.stop), (block_I, block_J)


def _spans(block_sizes: Sequence[int], size: int) -> Iterator[tuple[int, slice]]:
    """Yields consecutive ranges of at most `size` rows, each with its block. No range spans two blocks."""
    start = 0
    for block, rows in enumerate(block_sizes):
        for offset in range(0, rows, size):
            yield block, slice(start + offset, start + min(offset + size, rows))
        start += rows
