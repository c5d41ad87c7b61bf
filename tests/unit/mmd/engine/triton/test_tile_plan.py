"""The tiles of the Triton program cover what is right of the diagonal once, whatever the sizes."""

import numpy as np
import pytest

from vfmalign.mmd.engine.triton.tile_plan import TileConfig, choose_tile_config, plan_chunks


@pytest.mark.parametrize("block_sizes", [(1,), (2, 1), (45, 38), (64, 32), (7, 130), (200,)])
@pytest.mark.parametrize("sides", [(16, 16), (16, 32), (32, 16)])
@pytest.mark.parametrize("max_tiles", [1, 13, 10_000])
def test_tiles_cover_the_upper_triangle_once(block_sizes, sides, max_tiles):
    rows = sum(block_sizes)
    block_of = np.repeat(np.arange(len(block_sizes)), block_sizes)
    group_of = np.arange(rows) // 3
    covered, same_group = np.zeros((rows, rows), int), np.zeros((rows, rows), int)
    panels_seen = []
    for chunk in plan_chunks(
        block_sizes, group_of, TileConfig(*sides, 16), grouped=True, max_tiles=max_tiles, max_sums=10_000
    ):
        panels_seen += chunk.panels
        slots = set()
        for row, row_end, column, column_end, panel, column_tile, slot in chunk.tiles:
            assert (row, row_end) == (chunk.panels[panel].start, chunk.panels[panel].stop)
            assert (column, column_end) == (chunk.columns[column_tile].start, chunk.columns[column_tile].stop)
            assert 0 < row_end - row <= sides[0]
            assert 0 < column_end - column <= sides[1]
            assert len(set(block_of[row:row_end])) == len(set(block_of[column:column_end])) == 1
            at_I, at_J = np.arange(row, row_end)[:, None], np.arange(column, column_end)[None, :]
            covered[row:row_end, column:column_end] += at_J > at_I
            if slot >= 0:
                assert slot < chunk.within_slots
                assert (panel, slot) not in slots
                slots.add((panel, slot))
                same_group[row:row_end, column:column_end] += group_of[at_I] == group_of[at_J]
    upper = np.triu(np.ones((rows, rows), int), 1)
    np.testing.assert_array_equal(covered, upper)
    np.testing.assert_array_equal(same_group * upper, (group_of[:, None] == group_of[None, :]) * upper)
    assert [span.start for span in panels_seen] == sorted({span.start for span in panels_seen})


def test_chunks_keep_to_their_limits():
    block_sizes, group_of = (4_000, 3_000), np.arange(7_000)
    found = list(
        plan_chunks(block_sizes, group_of, TileConfig(128, 128, 32), grouped=False, max_tiles=500, max_sums=200_000)
    )
    assert len(found) > 5
    for chunk in found:
        assert len(chunk.tiles) <= 500
        assert len(chunk.panels) * (7_000 - chunk.first_row) <= 200_000
        assert chunk.within_slots == 0


@pytest.mark.parametrize(("shared_kib", "least_stages"), [(99, 1), (163, 3), (227, 3)])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("paired", [False, True])
def test_stages_fit_the_shared_memory(shared_kib, least_stages, parts, paired):
    shape = choose_tile_config(shared_kib * 1024, components=parts, paired=paired)
    assert 2 * parts * (shape.rows + shape.columns) * shape.channels * shape.stages < shared_kib * 1024
    assert shape.stages >= least_stages
