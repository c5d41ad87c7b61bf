"""Size and order of the tiles for the Triton program.

A panel is a range of rows in one block, and a tile is a range of columns in one block. A chunk consists of consecutive
panels whose partial sums fit into memory together. The tiles of a chunk are visited column by column for eight panels
at a time, so that these panels stay in the L2 cache.

Legend: I rows and J columns of one tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfmalign.mmd.engine.rows import IntArray

_PANELS_AT_ONCE = 8
_MAX_STAGES = 3
_RESERVED_BYTES = 16 * 2**10


@dataclass(frozen=True)
class TileConfig:
    """Size of a tile, and launch options of the Triton program.

    Attributes:
        rows, columns, channels: rows and columns of the tile, and channels in one step of its product. All are powers
            of two.
        permutations: number of permutations in one product with the tile.
        warps: number of warps of 32 threads.
        stages: number of steps of the product that are loaded ahead (software pipelining).
    """

    rows: int
    columns: int
    channels: int
    permutations: int = 64
    warps: int = 8
    stages: int = 1


def choose_tile_config(shared_bytes: int, *, components: int, paired: bool) -> TileConfig:
    """Chooses the largest tile that the registers of a CUDA device allow, and as many stages as shared memory allows.

    With these sizes, the compiler does not spill registers if the program has one kernel. The sizes were not tuned for
    speed.

    Args:
        shared_bytes: shared memory that one program may use.
        components: number of bfloat16 components of one feature value.
        paired: whether the program needs four tiles of distances at the same time instead of one.
    """
    rows, columns = 128, 64 if paired else 128
    channels = 64 if components == 1 else 32
    stage_bytes = 2 * components * (rows + columns) * channels
    stages = max(1, min(_MAX_STAGES, (shared_bytes - _RESERVED_BYTES) // stage_bytes))
    return TileConfig(rows, columns, channels, stages=stages)


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows of one block."""

    start: int
    stop: int
    block: int


@dataclass(frozen=True)
class PanelChunk:
    """Consecutive panels. Their partial sums are in memory at the same time.

    Attributes:
        panels: row ranges of the panels.
        columns: column ranges of all tiles, starting with the first range that any panel needs.
        tiles: one row per tile. It contains the first row and end, the first column and end, the panel and column tile
            within the chunk, and the slot of the sums within groups. The slot is −1 if no group has both rows and
            columns in the tile.
        within_slots: number of slots for sums within groups.
    """

    panels: tuple[RowRange, ...]
    columns: tuple[RowRange, ...]
    tiles: NDArray[np.int32]
    within_slots: int

    @property
    def first_row(self) -> int:
        """First row of the first panel."""
        return self.panels[0].start

    @property
    def rows(self) -> int:
        """Total number of rows of all panels."""
        return self.panels[-1].stop - self.panels[0].start


def plan_chunks(
    block_sizes: Sequence[int],
    group_of_N: IntArray,
    config: TileConfig,
    *,
    grouped: bool,
    max_tiles: int,
    max_sums: int,
) -> Iterator[PanelChunk]:
    """Yields chunks. Together, they cover every entry to the right of the diagonal once.

    Args:
        block_sizes: rows of each block.
        group_of_N: group of each row, in ascending order.
        config: size of a tile.
        grouped: whether the plan includes sums within groups.
        max_tiles: maximum number of tiles of a chunk. A chunk of one panel may exceed this maximum.
        max_sums: maximum number of partial row and column sums of a chunk. A chunk of one panel may exceed this
            maximum.
    """
    panels, columns = list(_spans(block_sizes, config.rows)), list(_spans(block_sizes, config.columns))
    stops = np.array([span.stop for span in columns])
    all_rows, first = sum(block_sizes), 0
    while first < len(panels):
        first_column = int(np.searchsorted(stops, panels[first].start, side="right"))
        widest = len(columns) - first_column
        sums_per_panel = config.rows * widest + all_rows - panels[first].start
        count = min(max_tiles // widest, max_sums // sums_per_panel)
        count = max(1, count // _PANELS_AT_ONCE * _PANELS_AT_ONCE or count)
        yield _chunk(
            tuple(panels[first : first + count]), tuple(columns[first_column:]), group_of_N if grouped else None
        )
        first += count


def _spans(block_sizes: Sequence[int], side: int) -> Iterator[RowRange]:
    """Yields ranges of at most `side` rows. No range spans two blocks."""
    end = 0
    for block, size in enumerate(block_sizes):
        start, end = end, end + size
        for at in range(start, end, side):
            yield RowRange(at, min(at + side, end), block)


def _chunk(panels: tuple[RowRange, ...], columns: tuple[RowRange, ...], group_of_N: IntArray | None) -> PanelChunk:
    """Creates a chunk from consecutive panels."""
    starts = np.array([[span.start, span.stop] for span in panels])
    column_starts = np.array([[span.start, span.stop] for span in columns])
    first_column = np.searchsorted(column_starts[:, 1], starts[:, 0], side="right")
    order = []
    for first in range(0, len(panels), _PANELS_AT_ONCE):
        panel = np.arange(first, min(first + _PANELS_AT_ONCE, len(panels)))
        column_pair, panel_pair = np.meshgrid(np.arange(len(columns)), panel, indexing="ij")
        needed = column_pair >= first_column[panel_pair]
        order.append(np.stack([panel_pair[needed], column_pair[needed]], axis=1))
    panel_T, column_T = np.concatenate(order).T
    slot_T = np.full(panel_T.size, -1)
    if group_of_N is not None:
        shared = group_of_N[starts[panel_T, 1] - 1] >= group_of_N[column_starts[column_T, 0]]
        slot_T = np.where(shared, column_T - first_column[panel_T], -1)
    tiles = np.column_stack([starts[panel_T], column_starts[column_T], panel_T, column_T, slot_T])
    return PanelChunk(panels, columns, tiles.astype(np.int32), int(slot_T.max()) + 1)
