"""Exact sums over streams that are larger than memory: one panel of rows is held while all later rows pass it by.

Every pair of rows is visited once, in the engine's own tiles, so that permutations and several kernels cost what they
cost in memory. A panel is as large as the memory allows, as each one means that the rows after it are read again:
N rows in panels of P are read (N/P + 1)/2 times. Sums per row, per group and the permutations' weights are kept whole.

Legend: N rows of both streams (of pairs: pairs), C channels as given, K channels kept, I rows of one block, G groups,
B permutations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vfmalign.core.domain.errors import BadTensor, Exhausted
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine import products
from vfmalign.mmd.engine.kernels import Kernel
from vfmalign.mmd.engine.precision import PrecisionName
from vfmalign.mmd.engine.row_streams import RowStream, check_compatible, read_ahead
from vfmalign.mmd.engine.rows import LARGEST_SQUARED_NORM, Affine, Rows
from vfmalign.mmd.engine.tiles import (
    Accumulator,
    Layout,
    Matrix,
    PairedMatrix,
    PooledMatrix,
    Sums,
    default_tile,
    upper_tiles,
)

# Rows pass a panel in chunks of this share of the rows that fit. One is at work while the next is read, which is there
# as it was given, in float64 and as it is compared: as much as eight chunks in float32.
_CHUNK_SHARE = 32
_CHUNKS_HELD = 8
_FEWEST_ROWS = 64
# Chunks per rank that shares the work, so that all ranks are done at about the same time.
_CHUNKS_PER_RANK = 8


class SquaredNormOverflow(BadTensor):
    """Rows whose squared norm overflows in the precision asked for."""


@dataclass(frozen=True)
class PanelPlan:
    """How many rows a panel and a passing chunk have."""

    panel_rows: int
    chunk_rows: int


@dataclass(frozen=True)
class StreamedSums:
    """Sums per kernel, and what their error bound needs.

    Attributes:
        sums: as of `engine.accumulate` over the pooled rows, or over the pairs.
        norm: root mean square of ‖x‖² over the rows as they were compared.
        plan: what was held at once.
        rows_read: rows that were read from the streams in all, by this rank.
    """

    sums: list[Sums]
    norm: float
    plan: PanelPlan
    rows_read: int


def accumulate(
    x: RowStream,
    y: RowStream,
    kernels: Sequence[Kernel],
    layout: Layout,
    *,
    memory_bytes: int,
    affine: Affine,
    precision: PrecisionName = "float32",
    device: torch.device | None = None,
    tile_shape: tuple[int, int] | None = None,
    context: WorkContext = UNLIMITED,
    squares: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> StreamedSums:
    """All sums over the pooled rows [x; y], or over pairs where the layout has one block.

    Args:
        x: first sample.
        y: second sample.
        kernels: evaluated on the same distances.
        layout: blocks, groups and permutations; rows in the streams' order.
        memory_bytes: for everything this needs beside the arguments.
        affine: applied to the rows as they are read.
        precision: of kernel values.
        device: where they are formed.
        tile_shape: largest tile, rows × columns; None for what suits the device.
        context: checked before every tile.
        squares: whether to sum k² as well.
        shard: (index, count): only the tiles of one part, for ranks that add their sums up.

    Raises:
        BadTensor: streams that do not fit together; SquaredNormOverflow.
        Exhausted: the memory allowed does not even hold two blocks of rows; says what would.
    """
    paired = len(layout.block_sizes) == 1
    check_compatible(x, y, paired=paired)
    device = device or torch.device("cpu")
    shape = tile_shape or default_tile(device)
    planned = plan(x.channels, layout, len(kernels), memory_bytes, precision=precision, shape=shape, parts=shard[1])
    window = _Window(x, y, planned, affine, precision=precision, device=device, paired=paired)
    accumulator = Accumulator(layout, kernels, window.matrix)
    noted = [0.0] * len(kernels) if squares else []
    with products.matrix_units(precision, window.matrix.device):
        for here, there, blocks in window.tiles(layout.block_sizes, shape, shard):
            context.checkpoint()
            before = noted.copy()
            for kernel, tile_IJ in enumerate(window.matrix.tile(*there, kernels, noted)):
                accumulator.add(kernel, accumulator.reduce(tile_IJ, *here), *here, blocks)
            if here[0] != here[1]:
                noted = [2.0 * after - first for after, first in zip(noted, before, strict=True)]
    return StreamedSums(accumulator.sums(noted), window.norm, planned, window.rows_read)


def plan(
    channels: int,
    layout: Layout,
    kernels: int,
    memory_bytes: int,
    *,
    precision: PrecisionName,
    shape: tuple[int, int],
    parts: int = 1,
) -> PanelPlan:
    """Rows of panels and chunks within the memory; of the layout only its sizes count.

    Raises:
        Exhausted: too little memory for the smallest.
    """
    per_row = _row_bytes(channels, layout, precision)
    fixed = _fixed_bytes(layout, kernels, precision, shape)
    fitting = (memory_bytes - fixed) // per_row
    rows = sum(layout.block_sizes)
    if fitting < _smallest(layout):
        needed = fixed + _smallest(layout) * per_row
        error = Exhausted(
            f"two blocks of {min(_FEWEST_ROWS, rows)} rows and the sums of {rows} rows need {needed / 2**20:.1f} MiB, "
            f"and {memory_bytes / 2**20:.1f} MiB are allowed",
            subject="memory",
            remedy=f"allow {-(-needed // 2**20)} MiB, ask for fewer permutations, or take an estimator of one pass",
            reason="TOO_LARGE",
        )
        error.retry_after_s = None
        raise error
    chunk_rows = max(min(_FEWEST_ROWS, rows), min(fitting // _CHUNK_SHARE, rows))
    if parts > 1:
        chunk_rows = min(chunk_rows, max(1, -(-rows // (_CHUNKS_PER_RANK * parts))))
    return PanelPlan(min(rows, fitting - _CHUNKS_HELD * chunk_rows), chunk_rows)


def _smallest(layout: Layout) -> int:
    """Rows that must fit at least: one panel and the chunks, all as small as can be."""
    return (1 + _CHUNKS_HELD) * min(_FEWEST_ROWS, sum(layout.block_sizes))


def _row_bytes(channels: int, layout: Layout, precision: PrecisionName) -> int:
    """A row, or pair, with its norm."""
    streams = 2 if len(layout.block_sizes) == 1 else 1
    return streams * (channels + 1) * _item_bytes(precision)


def _fixed_bytes(layout: Layout, kernels: int, precision: PrecisionName, shape: tuple[int, int]) -> int:
    """Sums per row and group, weights, and tiles at work."""
    rows, (groups, permutations) = sum(layout.block_sizes), layout.weights_GB.shape
    height, width = (min(side, rows) for side in shape)
    sums = 8 * kernels * (rows * (len(layout.block_sizes) + 1) + (groups if groups < rows else 0) + permutations)
    at_once = min(permutations, 2048)
    tiles = (2 + kernels + (len(layout.block_sizes) == 1) * kernels) * height * width
    products_and_weights = (2 * height + width) * at_once
    working = _item_bytes(precision) * (tiles + products_and_weights)
    return int(sums + 8 * rows + groups * permutations + working)


def _item_bytes(precision: PrecisionName) -> int:
    return 8 if precision == "float64" else 4


class _Window:
    """A panel and the chunk that passes it, side by side in one memory that a matrix is over."""

    def __init__(
        self,
        x: RowStream,
        y: RowStream,
        plan: PanelPlan,
        affine: Affine,
        *,
        precision: PrecisionName,
        device: torch.device,
        paired: bool,
    ) -> None:
        self._x, self._y, self._plan, self._affine = x, y, plan, affine
        self._precision, self._paired = precision, paired
        kept = x.channels if affine.channel_mask_C is None else int(affine.channel_mask_C.sum())
        capacity = plan.panel_rows + plan.chunk_rows
        self._held = [Rows.empty(capacity, kept, precision, device) for _ in range(2 if paired else 1)]
        self.matrix: Matrix = PairedMatrix(*self._held) if paired else PooledMatrix(*self._held)
        self.rows_read = 0
        self._fourth, self._counted = 0.0, 0

    @property
    def norm(self) -> float:
        """Root mean square of ‖x‖² over the rows that were in panels."""
        return float((self._fourth / max(self._counted, 1)) ** 0.5)

    def tiles(
        self, block_sizes: tuple[int, ...], shape: tuple[int, int], shard: tuple[int, int]
    ) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], tuple[int, int]]]:
        """Rows and columns of each tile among all rows, the same within the window, and their blocks."""
        height, width = shape
        part, parts = shard
        number = 0
        for block_I, panel in _spans(block_sizes, 0, self._plan.panel_rows):
            for _, some in _spans((panel.stop,), panel.start, self._plan.chunk_rows):
                self._put(some.start - panel.start, self._read(some), some)
            self._note_norms(panel.stop - panel.start)
            for rows, columns, _ in upper_tiles((panel.stop - panel.start,), height, width):
                number += 1
                if number % parts == part:
                    here = _moved(rows, panel.start), _moved(columns, panel.start)
                    yield here, (rows, columns), (block_I, block_I)
            mine = []
            for block_J, chunk in _spans(block_sizes, panel.stop, self._plan.chunk_rows):
                number += 1
                if number % parts == part:
                    mine.append((block_J, chunk))
            coming = read_ahead(self._read(chunk) for _, chunk in mine)
            for (block_J, chunk), blocks in zip(mine, coming, strict=True):
                offset = panel.stop - panel.start
                self._put(offset, blocks, chunk)
                for _, columns in _spans((chunk.stop - chunk.start,), 0, width):
                    for _, rows in _spans((offset,), 0, height):
                        here = _moved(rows, panel.start), _moved(columns, chunk.start)
                        yield here, (rows, _moved(columns, offset)), (block_I, block_J)

    def _read(self, span: slice) -> list[Rows]:
        """Some rows, ready to be put beside the others; x and y of pairs after each other."""
        self.rows_read += (2 if self._paired else 1) * (span.stop - span.start)
        if self._paired:
            given = [self._x.read(span.start, span.stop), self._y.read(span.start, span.stop)]
        elif span.stop <= self._x.rows:
            given = [self._x.read(span.start, span.stop)]
        else:
            given = [self._y.read(span.start - self._x.rows, span.stop - self._x.rows)]
        return [self._prepared(block_IC) for block_IC in given]

    def _prepared(self, block_IC: Tensor) -> Rows:
        """Moved, scaled and in the precision of the products."""
        return Rows.from_features(self._affine.apply(block_IC).to(self.matrix.device), self._precision)

    def _put(self, at: int, blocks: list[Rows], span: slice) -> None:
        """Writes rows into the window.

        Raises:
            SquaredNormOverflow: that.
        """
        into = slice(at, at + span.stop - span.start)
        for held, block in zip(self._held, blocks, strict=True):
            if not float(block.norms_N.max()) <= LARGEST_SQUARED_NORM[self._precision]:
                raise SquaredNormOverflow(
                    "holds rows that are too large to square", field="x", remedy="scale them down"
                )
            held[into].copy_(block)

    def _note_norms(self, rows: int) -> None:
        """Adds the norms of a panel to their mean."""
        for held in self._held:
            self._fourth += float(held.norms_N[:rows].double().square().sum())
            self._counted += rows


def _spans(block_sizes: Sequence[int], first: int, size: int) -> Iterator[tuple[int, slice]]:
    """Ranges of at most `size` rows from row `first` on, none of them across two blocks, each with its block."""
    begin = 0
    for block, rows in enumerate(block_sizes):
        end = begin + rows
        for start in range(max(begin, first), end, size):
            yield block, slice(start, min(start + size, end))
        begin = end


def _moved(span: slice, by: int) -> slice:
    return slice(span.start + by, span.stop + by)
