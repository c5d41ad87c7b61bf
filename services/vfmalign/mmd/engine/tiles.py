"""Sums over a symmetric kernel matrix, tile by tile, without ever holding the matrix. Knows nothing of statistics.

One pass does everything: only tiles on and above the diagonal are formed; each is a matrix product, becomes kernel
values where it lies, and is reduced while it is still in the cache — to row sums, to the product with the permutations'
weights, to sums within groups — before the next one overwrites it. Kernel values have the precision of the rows; rows
of a tile are summed in that precision (at most a few thousand terms, pairwise), everything beyond in float64: a float64
reduction of each tile would cost more than its exponentials.

Legend: N rows, K channels, I and J the rows and columns of one tile, P blocks of rows, G groups, B permutations.
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

from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.engine import ordered_pool, products
from vfmalign.mmd.engine.kernels import Kernel
from vfmalign.mmd.engine.permuted_sums import QuadraticForms
from vfmalign.mmd.engine.precision import PrecisionName
from vfmalign.mmd.engine.rows import FloatArray, IntArray, Rows

TileShape = tuple[int, int]
Tile = tuple[slice, slice, tuple[int, int]]
"""Rows, columns and their blocks."""

# Wide tiles of few rows keep the matrix product near its best speed and the tile in the cache (measured; `make bench`).
_TILES: dict[str, TileShape] = {"cpu": (512, 2048), "cuda": (4096, 8192)}


@dataclass(frozen=True)
class Layout:
    """How rows form blocks and groups, and how permutations weigh the groups.

    Attributes:
        block_sizes: rows of each block, in order; row sums are split by block.
        group_of_N: index of each row's group; ascending, so that rows of a group are neighbours.
        weights_GB: weight of each group's rows in each permutation (−1, 0 or 1); B may be 0.
    """

    block_sizes: tuple[int, ...]
    group_of_N: IntArray
    weights_GB: NDArray[np.int8]


@dataclass(frozen=True)
class Sums:
    """What statistics need to know of a symmetric matrix T, in float64.

    Attributes:
        rows_NP: Σ_j T_ij over the columns j of each block, diagonal included.
        diagonal_N: T_ii.
        within_G: Σ T_ij over i and j of one group, diagonal included.
        quadratic_B: w_bᵀ T w_b for each permutation b.
        squares: Σ k² over all ordered pairs of different pooled rows; 0 where it was not asked for.
    """

    rows_NP: FloatArray
    diagonal_N: FloatArray
    within_G: FloatArray
    quadratic_B: FloatArray
    squares: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        """Sums over the tiles of both."""
        return Sums(
            self.rows_NP + other.rows_NP,
            self.diagonal_N + other.diagonal_N,
            self.within_G + other.within_G,
            self.quadratic_B + other.quadratic_B,
            self.squares + other.squares,
        )


class Matrix(Protocol):
    """A symmetric matrix per kernel that can be computed one rectangle at a time."""

    device: torch.device
    dtype: torch.dtype
    precision: PrecisionName

    def tile(self, rows: slice, columns: slice, kernels: Sequence[Kernel], squares: list[float]) -> Iterator[Tensor]:
        """The rectangle [I, J] for each kernel in turn; a tile is good until the next is asked for.

        `rows` and `columns` are equal or do not overlap. `squares` receives Σ k² over the rectangle, diagonal left out.
        """


class PooledMatrix:
    """K over the pooled rows [x; y]: what independent samples need."""

    def __init__(self, pooled: Rows) -> None:
        self.pooled = pooled
        self.device, self.dtype, self.precision = pooled.device, pooled.dtype, pooled.precision
        self._scratch = _Scratch(self.device, self.dtype)

    def tile(self, rows: slice, columns: slice, kernels: Sequence[Kernel], squares: list[float]) -> Iterator[Tensor]:
        """k(z_i, z_j) of one rectangle."""
        memory = self._scratch.take(rows, columns, _room(kernels))
        for index, value_IJ in _values((self.pooled, self.pooled), rows, columns, kernels, memory):
            _note_squares(squares, index, value_IJ, rows == columns)
            yield value_IJ


class PairedMatrix:
    """h(z_i, z_j) = k(x_i, x_j) + k(y_i, y_j) − k(x_i, y_j) − k(x_j, y_i) over pairs z_i = (x_i, y_i).

    Summing h instead of its four terms cancels before it accumulates: identical samples give 0, not a difference of
    large sums.
    """

    def __init__(self, x: Rows, y: Rows) -> None:
        self.x, self.y = x, y
        self.device, self.dtype, self.precision = x.device, x.dtype, x.precision
        self._scratch = _Scratch(self.device, self.dtype)

    def tile(self, rows: slice, columns: slice, kernels: Sequence[Kernel], squares: list[float]) -> Iterator[Tensor]:
        """H of one rectangle."""
        memory = self._scratch.take(rows, columns, len(kernels) + _room(kernels))
        sums, memory = memory[: len(kernels)], memory[len(kernels) :]
        x, y = self.x, self.y
        for a, b, sign in ((x, x, 1.0), (y, y, 1.0), (x, y, -1.0), (y, x, -1.0)):
            for index, value_IJ in _values((a, b), rows, columns, kernels, memory):
                _note_squares(squares, index, value_IJ, a is b and rows == columns)
                if a is x and b is x:
                    sums[index].copy_(value_IJ)
                else:
                    sums[index].add_(value_IJ, alpha=sign)
        yield from sums


def _room(kernels: Sequence[Kernel]) -> int:
    """Tiles that kernel values need: their own, and one for an argument that several kernels share."""
    return min(len(kernels), 2)


def _values(
    pair: tuple[Rows, Rows], rows: slice, columns: slice, kernels: Sequence[Kernel], memory: Sequence[Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Values of each kernel in turn, in the last tile of `memory`; kernels of distances share them, in the first.

    Distances for one kernel alone are made as it wants them scaled, which spares a walk through the tile.
    """
    (a, b), formed, argument_IJ = pair, "", memory[0]
    for index, kernel in enumerate(kernels):
        alone = kernel.argument == "distance" and len(kernels) == 1
        if kernel.argument != formed:
            if kernel.argument == "product":
                products.products(a, b, rows, columns, argument_IJ)
            else:
                scale = kernel.scale if alone else 1.0
                products.squared_distances(a, b, rows, columns, argument_IJ, scale=scale)
                if rows == columns:  # without the cancellation of a product
                    own_I = torch.zeros_like(a.norms_N[rows]) if a is b else products.pair_distances(a, b, rows)
                    argument_IJ.diagonal().copy_(own_I.mul_(scale))
            formed = kernel.argument
        yield index, kernel.form(argument_IJ) if alone else kernel.evaluate(argument_IJ, memory[-1])


def _note_squares(squares: list[float], index: int, value_IJ: Tensor, same_rows: bool) -> None:
    """Adds Σ k² of a rectangle."""
    if squares:
        squares[index] += float(torch.dot(value_IJ.view(-1), value_IJ.view(-1)))
        if same_rows:
            squares[index] -= float(value_IJ.diagonal().double().square().sum())


class _Scratch(threading.local):
    """Tiles that are overwritten again and again, so that no tile pays for fresh memory; every thread has its own."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._memory: list[Tensor] = []

    def take(self, rows: slice, columns: slice, count: int) -> list[Tensor]:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if len(self._memory) < count or self._memory[0].numel() < height * width:
            size = max(height * width, self._memory[0].numel() if self._memory else 0)
            self._memory = [torch.empty(size, dtype=self._dtype, device=self._device) for _ in range(count)]
        return [memory[: height * width].view(height, width) for memory in self._memory[:count]]


@dataclass(frozen=True)
class TileSums:
    """What one tile of one kernel adds to the sums.

    Attributes:
        rows_I: over its columns.
        columns_J: over its rows; None of a tile on the diagonal, whose mirror image it is itself.
        diagonal_I: of a tile on the diagonal; None elsewhere.
        same_I: over the columns in the row's group; None where no group has rows and columns in the tile.
        quadratic_B: Σ w_i T_ij w_j, float64; None without permutations.
    """

    rows_I: Tensor
    columns_J: Tensor | None
    diagonal_I: Tensor | None
    same_I: Tensor | None
    quadratic_B: Tensor | None


class Accumulator:
    """Adds tiles to the sums of each kernel."""

    def __init__(self, layout: Layout, kernels: Sequence[Kernel], matrix: Matrix) -> None:
        device = matrix.device
        self._kernels = kernels
        self._group_of_N = layout.group_of_N
        rows, (groups, permutations) = sum(layout.block_sizes), layout.weights_GB.shape
        self._group_of = torch.from_numpy(layout.group_of_N).to(device)
        weights_GB = torch.from_numpy(layout.weights_GB).to(device)
        self._singletons, self._permutations = groups == rows, permutations
        self._quadratics = QuadraticForms(weights_GB, self._group_of, matrix.dtype)

        def zeros(*shape: int) -> list[Tensor]:
            return [torch.zeros(*shape, dtype=torch.float64, device=device) for _ in kernels]

        self._rows_NP, self._diagonal_N = zeros(rows, len(layout.block_sizes)), zeros(rows)
        self._within_G, self._quadratic_B = zeros(groups), zeros(permutations)

    def reduce(self, tile_IJ: Tensor, rows: slice, columns: slice) -> TileSums:
        """What a tile adds; any thread may ask, and the tile may be overwritten."""
        same_I = None
        if not self._singletons and self._group_of_N[rows.stop - 1] >= self._group_of_N[columns.start]:
            same_IJ = self._group_of[rows, None] == self._group_of[None, columns]
            same_I = (tile_IJ * same_IJ).sum(dim=1)
        return TileSums(
            tile_IJ.sum(dim=1),
            None if rows == columns else tile_IJ.sum(dim=0),
            tile_IJ.diagonal().clone() if rows == columns else None,
            same_I,
            self._quadratics.of(tile_IJ, rows, columns) if self._permutations else None,
        )

    def add(self, kernel: int, tile: TileSums, rows: slice, columns: slice, blocks: tuple[int, int]) -> None:
        """Adds one tile of one kernel, and its mirror image below the diagonal."""
        self._rows_NP[kernel][rows, blocks[1]].add_(tile.rows_I)
        if tile.diagonal_I is not None:
            self._diagonal_N[kernel][rows] = tile.diagonal_I.double()
        if tile.columns_J is not None:
            self._rows_NP[kernel][columns, blocks[0]].add_(tile.columns_J)
        factor = 1.0 if tile.columns_J is None else 2.0
        if tile.same_I is not None:
            self._within_G[kernel].index_add_(0, self._group_of[rows], tile.same_I.double(), alpha=factor)
        if tile.quadratic_B is not None:
            self._quadratic_B[kernel] += tile.quadratic_B * factor

    def sums(self, squares: Sequence[float]) -> list[Sums]:
        """What was added, per kernel."""
        within_G = self._diagonal_N if self._singletons else self._within_G
        parts = zip(self._rows_NP, self._diagonal_N, within_G, self._quadratic_B, strict=True)
        noted = squares or [0.0] * len(self._kernels)
        return [
            Sums(rows_NP.cpu().numpy(), diagonal_N.cpu().numpy(), of_G.cpu().numpy(), quadratic_B.cpu().numpy(), two)
            for (rows_NP, diagonal_N, of_G, quadratic_B), two in zip(parts, noted, strict=True)
        ]


def accumulate(
    matrix: Matrix,
    kernels: Sequence[Kernel],
    layout: Layout,
    *,
    tile_shape: TileShape | None = None,
    context: WorkContext,
    squares: bool = False,
    shard: tuple[int, int] = (0, 1),
    threads: int | None = None,
) -> list[Sums]:
    """All sums of the matrix in one pass over its upper tiles, for each kernel.

    Args:
        matrix: the matrix.
        kernels: evaluated on the same distances.
        layout: blocks, groups and permutations of its rows.
        tile_shape: largest tile, rows × columns; None for what suits the device.
        context: checked before every tile, or every few milliseconds where several threads form tiles; no tile is
            begun meanwhile. May raise to stop.
        squares: whether to sum k² as well.
        shard: (index, count): only the tiles of one part, for ranks that add their sums up.
        threads: that form tiles side by side; None for what suits the device and the number of tiles. The sums do not
            depend on it beyond how products round in one thread or several.
    """
    accumulator = Accumulator(layout, kernels, matrix)
    height, width = tile_shape or default_tile(matrix.device)
    tiles = list(upper_tiles(layout.block_sizes, height, width))[shard[0] :: shard[1]]
    threads = threads or ordered_pool.threads_for(matrix.device, len(tiles))

    totals = [0.0] * len(kernels) if squares else []

    def form(tile: Tile) -> tuple[list[TileSums], list[float]]:
        rows, columns, _ = tile
        noted = [0.0] * len(totals)
        formed = matrix.tile(rows, columns, kernels, noted)
        return [accumulator.reduce(tile_IJ, rows, columns) for tile_IJ in formed], noted

    def add(tile: Tile, found: tuple[list[TileSums], list[float]]) -> None:
        of_kernels, noted = found
        for kernel, of_kernel in enumerate(of_kernels):
            accumulator.add(kernel, of_kernel, *tile)
        for kernel, more in enumerate(noted):
            totals[kernel] += more if tile[0] == tile[1] else 2.0 * more

    ordered_pool.in_order(form, add, tiles, context=context, threads=threads)
    return accumulator.sums(totals)


def default_tile(device: torch.device) -> TileShape:
    """The largest tile that suits the device, rows × columns."""
    return _TILES.get(device.type, _TILES["cuda"])


def upper_tiles(block_sizes: Sequence[int], height: int, width: int) -> Iterator[Tile]:
    """Rectangles that cover a symmetric matrix on and above its diagonal once: rows, columns and their blocks.

    Wide ones, column by column from the top, and squares on the diagonal; none lies across two blocks. Widths are
    rounded down to a multiple of the height.
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
    """Consecutive ranges of rows with their blocks, none longer than `size` and none across two blocks."""
    start = 0
    for block, rows in enumerate(block_sizes):
        for offset in range(0, rows, size):
            yield block, slice(start + offset, start + min(offset + size, rows))
        start += rows
