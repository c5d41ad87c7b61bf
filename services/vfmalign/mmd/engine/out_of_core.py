"""Exact sums over streams that are larger than memory: a panel of rows stays in memory while all later rows pass it.

Every pair of rows is visited once, in the same tiles as in memory, so that permutations and several kernels cost no
more than there. Panels are as large as the memory allows, because the rows after a panel are read once for each panel:
N rows in panels of P are read (N/P + 1)/2 times. Sums per row and per group, and the weights of the permutations, are
not split.

Legend: N rows of both streams (or pairs), C channels of the input, I rows of one block, G groups, B permutations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from vfmalign.core.domain.errors import BadTensor, TooLarge
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine import products
from vfmalign.mmd.engine.kernels import BoundKernel
from vfmalign.mmd.engine.precision import Magnitudes, PrecisionName
from vfmalign.mmd.engine.row_streams import RowStream, check_compatible, read_ahead
from vfmalign.mmd.engine.rows import LARGEST_SQUARED_NORM, Affine, Rows
from vfmalign.mmd.engine.tiles import (
    Accumulator,
    Layout,
    Matrix,
    PairedMatrix,
    PooledMatrix,
    Sums,
    default_tile_shape,
    upper_tiles,
)

# Rows pass a panel in chunks of this fraction of the rows that fit: small, so that most of the memory is for the panel.
_CHUNK_FRACTION = 32
# While one chunk is compared, the next one is in memory as it was read, in float64 and in the precision of products.
# Together they take at most as much as eight chunks in float32.
_RESERVED_CHUNKS = 8
_MIN_ROWS = 64
_ENTRIES_AT_ONCE = 2**23
"""Features that are read between two checks of the context."""
# Several chunks per process, so that all processes finish at about the same time.
_CHUNKS_PER_PROCESS = 8


class SquaredNormOverflow(BadTensor):
    """A squared norm of a row overflows in the requested precision."""


@dataclass(frozen=True)
class PanelPlan:
    """Numbers of rows of a panel and of a chunk that passes it."""

    panel_rows: int
    chunk_rows: int


@dataclass(frozen=True)
class StreamedSums:
    """Sums per kernel, and the magnitudes that their error bound needs.

    Attributes:
        sums: as from `tiles.accumulate`, over the pooled rows or over the pairs.
        magnitudes: of the first kernel over the standardised rows.
        plan: numbers of rows that were in memory at once.
        rows_read: rows that this process read from the streams.
    """

    sums: list[Sums]
    magnitudes: Magnitudes
    plan: PanelPlan
    rows_read: int


def accumulate(
    x: RowStream,
    y: RowStream,
    kernels: Sequence[BoundKernel],
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
    """Sums the matrix over the pooled rows [x; y], or over pairs where the layout has one block.

    Args:
        x: first sample.
        y: second sample.
        kernels: evaluated on the same distances.
        layout: blocks, groups and permutations of the rows in the order of the streams.
        memory_bytes: limit of all memory beside the arguments.
        affine: applied to the rows as they are read.
        precision: of kernel values.
        device: where kernels are evaluated.
        tile_shape: largest tile, rows × columns; None for what suits the device.
        context: checked before every few thousand permutations of a tile, and before some rows are read.
        squares: whether to sum k² as well.
        shard: (index, count): only the tiles with number % count = index, for processes that all-reduce their sums.

    Raises:
        BadTensor: the streams cannot be compared; `SquaredNormOverflow` where rows are too large to square.
        TooLarge: the memory allowed does not even hold two blocks of rows; says what would.
    """
    paired = len(layout.block_sizes) == 1
    check_compatible(x, y, paired=paired)
    device = device or torch.device("cpu")
    shape = tile_shape or default_tile_shape(device)
    panel_plan = plan_panels(
        x.channels, layout, len(kernels), memory_bytes, precision=precision, shape=shape, processes=shard[1]
    )
    magnitudes = Magnitudes(kernels[0])
    window = _Window(
        x, y, panel_plan, affine, magnitudes, precision=precision, device=device, paired=paired, context=context
    )
    accumulator = Accumulator(layout, kernels, window.matrix)
    square_sums = [0.0] * len(kernels) if squares else []
    with products.matrix_units(precision, window.matrix.device):
        for in_matrix, in_window, blocks in window.tiles(layout.block_sizes, shape, shard):
            before = square_sums.copy()
            for kernel, tile_IJ in enumerate(window.matrix.tile(*in_window, kernels, square_sums, context)):
                accumulator.add(kernel, accumulator.reduce(tile_IJ, *in_matrix, context), *in_matrix, blocks)
            if in_matrix[0] != in_matrix[1]:  # count the mirror image of the tile as well
                square_sums = [2.0 * after - first for after, first in zip(square_sums, before, strict=True)]
    return StreamedSums(accumulator.sums(square_sums), magnitudes, panel_plan, window.rows_read)


def plan_panels(
    channels: int,
    layout: Layout,
    kernels: int,
    memory_bytes: int,
    *,
    precision: PrecisionName,
    shape: tuple[int, int],
    processes: int = 1,
) -> PanelPlan:
    """Chooses the rows of panels and chunks that fit into memory. Only the sizes of the layout matter.

    Raises:
        TooLarge: too little memory for the smallest.
    """
    per_row = _row_bytes(channels, layout, precision)
    fixed = _fixed_bytes(layout, kernels, precision, shape)
    fitting = (memory_bytes - fixed) // per_row
    rows = sum(layout.block_sizes)
    if fitting < _min_resident_rows(layout):
        needed = fixed + _min_resident_rows(layout) * per_row
        raise TooLarge(
            f"two blocks of {min(_MIN_ROWS, rows)} rows and the sums of {rows} rows need {needed / 2**20:.1f} MiB, "
            f"and {memory_bytes / 2**20:.1f} MiB are allowed",
            subject="memory",
            remedy=f"allow {-(-needed // 2**20)} MiB, ask for fewer permutations, or choose `random_fourier`",
        )
    chunk_rows = max(min(_MIN_ROWS, rows), min(fitting // _CHUNK_FRACTION, rows))
    if processes > 1:
        chunk_rows = min(chunk_rows, max(1, -(-rows // (_CHUNKS_PER_PROCESS * processes))))
    return PanelPlan(min(rows, fitting - _RESERVED_CHUNKS * chunk_rows), chunk_rows)


def _min_resident_rows(layout: Layout) -> int:
    """Returns the rows that must fit: one panel and the reserved chunks, all of the smallest size."""
    return (1 + _RESERVED_CHUNKS) * min(_MIN_ROWS, sum(layout.block_sizes))


def _row_bytes(channels: int, layout: Layout, precision: PrecisionName) -> int:
    """Returns the bytes of a row, or pair, with its norm."""
    streams = 2 if len(layout.block_sizes) == 1 else 1
    return streams * (channels + 1) * _item_bytes(precision)


def _fixed_bytes(layout: Layout, kernels: int, precision: PrecisionName, shape: tuple[int, int]) -> int:
    """Returns the bytes of the sums per row and group, of the weights, and of the tiles being computed."""
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
    """Memory for a panel and, behind it, the chunk that passes it; `matrix` is over the rows of both."""

    def __init__(
        self,
        x: RowStream,
        y: RowStream,
        plan: PanelPlan,
        affine: Affine,
        magnitudes: Magnitudes,
        *,
        precision: PrecisionName,
        device: torch.device,
        paired: bool,
        context: WorkContext,
    ) -> None:
        self._x, self._y, self._plan, self._affine = x, y, plan, affine
        self._precision, self._paired, self._context = precision, paired, context
        self._magnitudes = magnitudes
        channels = self._channels = x.channels if affine.channel_mask_C is None else int(affine.channel_mask_C.sum())
        capacity = plan.panel_rows + plan.chunk_rows
        self._rows = [Rows.empty(capacity, channels, precision, device) for _ in range(2 if paired else 1)]
        self.matrix: Matrix = PairedMatrix(*self._rows) if paired else PooledMatrix(*self._rows)
        self.rows_read = 0

    def tiles(
        self, block_sizes: tuple[int, ...], shape: tuple[int, int], shard: tuple[int, int]
    ) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], tuple[int, int]]]:
        """Yields each tile of a shard: its rows and columns in the whole matrix and in the window, and their blocks.

        The window holds the rows of a tile until the next one is requested. All processes number tiles of panels and
        chunks in the same way and read every panel, but only the chunks of their own shard.
        """
        height, width = shape
        index, count = shard
        number = 0
        for block_I, panel in _spans(block_sizes, 0, self._plan.panel_rows):
            for _, chunk in _spans((panel.stop,), panel.start, self._plan.chunk_rows):
                self._store(chunk.start - panel.start, self._read(chunk), chunk)
            for rows_of_sample in self._rows:
                self._magnitudes.add(rows_of_sample.norms_N[: panel.stop - panel.start])
            for rows, columns, _ in upper_tiles((panel.stop - panel.start,), height, width):
                number += 1
                if number % count == index:
                    in_matrix = _shifted(rows, panel.start), _shifted(columns, panel.start)
                    yield in_matrix, (rows, columns), (block_I, block_I)
            own_chunks = []
            for block_J, chunk in _spans(block_sizes, panel.stop, self._plan.chunk_rows):
                number += 1
                if number % count == index:
                    own_chunks.append((block_J, chunk))
            upcoming = read_ahead(self._read(chunk) for _, chunk in own_chunks)
            for (block_J, chunk), samples in zip(own_chunks, upcoming, strict=True):
                offset = panel.stop - panel.start
                self._store(offset, samples, chunk)
                for _, columns in _spans((chunk.stop - chunk.start,), 0, width):
                    for _, rows in _spans((offset,), 0, height):
                        in_matrix = _shifted(rows, panel.start), _shifted(columns, chunk.start)
                        yield in_matrix, (rows, _shifted(columns, offset)), (block_I, block_J)

    def _read(self, span: slice) -> list[Rows]:
        """Reads and prepares some rows; of pairs, those of x and those of y."""
        self.rows_read += (2 if self._paired else 1) * (span.stop - span.start)
        if self._paired:
            return [self._prepare(stream, span.start, span.stop) for stream in (self._x, self._y)]
        if span.stop <= self._x.rows:
            return [self._prepare(self._x, span.start, span.stop)]
        return [self._prepare(self._y, span.start - self._x.rows, span.stop - self._x.rows)]

    def _prepare(self, stream: RowStream, first: int, stop: int) -> Rows:
        """Reads, standardises and rounds some rows, a few at a time."""
        rows = Rows.empty(stop - first, self._channels, self._precision, self.matrix.device)
        step = max(1, _ENTRIES_AT_ONCE // stream.channels)
        for start in range(first, stop, step):
            self._context.checkpoint()
            end = min(start + step, stop)
            rows[start - first : end - first].assign(self._affine.apply(stream.read(start, end)).to(self.matrix.device))
        return rows

    def _store(self, start: int, samples: list[Rows], span: slice) -> None:
        """Writes rows into the window from row `start` on.

        Raises:
            SquaredNormOverflow: a row is too large to square.
        """
        stored = slice(start, start + span.stop - span.start)
        for rows, block in zip(self._rows, samples, strict=True):
            if not float(block.norms_N.max()) <= LARGEST_SQUARED_NORM[self._precision]:
                raise SquaredNormOverflow(
                    "holds rows that are too large to square", field="x", remedy="scale them down"
                )
            rows[stored].copy_(block)


def _spans(block_sizes: Sequence[int], first: int, size: int) -> Iterator[tuple[int, slice]]:
    """Yields ranges of at most `size` rows from row `first` on with their blocks; none spans two blocks."""
    block_start = 0
    for block, rows in enumerate(block_sizes):
        block_stop = block_start + rows
        for start in range(max(block_start, first), block_stop, size):
            yield block, slice(start, min(start + size, block_stop))
        block_start = block_stop


def _shifted(span: slice, offset: int) -> slice:
    return slice(span.start + offset, span.stop + offset)
