"""Which tiles the Triton program takes, in which order and how large. Knows sizes only: no rows, no kernels.

Rows form panels, columns form tiles; neither lies across two blocks. A chunk is a run of panels whose partial sums fit
in memory; its tiles are taken eight panels at a time, column by column, so that those panels stay in the cache.

Legend: I, J rows and columns of one tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfmalign.mmd.engine.rows import IntArray

_PANELS_AT_ONCE = 8
_MOST_STAGES = 3
_RESERVED_BYTES = 16 * 2**10


@dataclass(frozen=True)
class TileConfig:
    """Sides of a tile and how a device works on it.

    Attributes:
        rows, columns, channels: of the tile and of one step of its product, powers of two.
        permutations: taken at once.
        warps, stages: of 32 threads, and steps of the product that are under way together.
    """

    rows: int
    columns: int
    channels: int
    permutations: int = 64
    warps: int = 8
    stages: int = 1


def choose_tile_config(shared_bytes: int, *, parts: int, paired: bool) -> TileConfig:
    """The tile for a CUDA device: what its registers hold, with as many stages as its shared memory holds.

    Chosen by what the compiler says (no register of one kernel's program is spilled), not by measured times.

    Args:
        shared_bytes: that one program may use.
        parts: bfloat16 parts of a number.
        paired: whether four tiles of distances are held at once instead of one.
    """
    rows, columns = 128, 64 if paired else 128
    channels = 64 if parts == 1 else 32
    stage_bytes = 2 * parts * (rows + columns) * channels
    stages = max(1, min(_MOST_STAGES, (shared_bytes - _RESERVED_BYTES) // stage_bytes))
    return TileConfig(rows, columns, channels, stages=stages)


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows of one block."""

    start: int
    stop: int
    block: int


@dataclass(frozen=True)
class PanelChunk:
    """Panels whose partial sums are kept together.

    Attributes:
        panels, columns: the panels, and all tiles' columns from the first one that any panel needs.
        tiles: one row per tile: first row and end, first column and end, panel and column tile within the chunk, and
            the slot of sums within groups, or −1 where no group reaches from the tile's rows to its columns.
        within_slots: slots that are needed.
    """

    panels: tuple[RowRange, ...]
    columns: tuple[RowRange, ...]
    tiles: NDArray[np.int32]
    within_slots: int

    @property
    def first_row(self) -> int:
        """Where the panels start."""
        return self.panels[0].start

    @property
    def rows(self) -> int:
        """Rows of all panels."""
        return self.panels[-1].stop - self.panels[0].start


def plan_chunks(
    block_sizes: Sequence[int],
    group_of_N: IntArray,
    shape: TileConfig,
    *,
    grouped: bool,
    most_tiles: int,
    most_sums: int,
) -> Iterator[PanelChunk]:
    """Chunks that cover all entries right of the diagonal once.

    Args:
        block_sizes: rows of each block.
        group_of_N: ascending group of each row.
        shape: of a tile.
        grouped: whether sums within groups are wanted.
        most_tiles: about how many tiles a chunk has.
        most_sums: about how many partial sums of rows and columns it has.
    """
    panels, columns = list(_spans(block_sizes, shape.rows)), list(_spans(block_sizes, shape.columns))
    stops = np.array([span.stop for span in columns])
    all_rows, at = sum(block_sizes), 0
    while at < len(panels):
        first_column = int(np.searchsorted(stops, panels[at].start, side="right"))
        widest = len(columns) - first_column
        sums_per_panel = shape.rows * widest + all_rows - panels[at].start
        count = min(most_tiles // widest, most_sums // sums_per_panel)
        count = max(1, count // _PANELS_AT_ONCE * _PANELS_AT_ONCE or count)
        taken = tuple(panels[at : at + count])
        yield _chunk(taken, tuple(columns[first_column:]), group_of_N if grouped else None)
        at += count


def _spans(block_sizes: Sequence[int], side: int) -> Iterator[RowRange]:
    """Ranges of rows, none longer than a side and none across two blocks."""
    end = 0
    for block, size in enumerate(block_sizes):
        start, end = end, end + size
        for at in range(start, end, side):
            yield RowRange(at, min(at + side, end), block)


def _chunk(panels: tuple[RowRange, ...], columns: tuple[RowRange, ...], group_of_N: IntArray | None) -> PanelChunk:
    """The tiles of some panels."""
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
        reaches = group_of_N[starts[panel_T, 1] - 1] >= group_of_N[column_starts[column_T, 0]]
        slot_T = np.where(reaches, column_T - first_column[panel_T], -1)
    tiles = np.column_stack([starts[panel_T], column_starts[column_T], panel_T, column_T, slot_T])
    return PanelChunk(panels, columns, tiles.astype(np.int32), int(slot_T.max()) + 1)
