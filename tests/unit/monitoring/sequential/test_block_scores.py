"""Scores of blocks by brute force, which rows form a block, and ranks over every order of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, permutations, product
from typing import Any

import numpy as np
import pytest

from vfmalign.monitoring.sequential import block_scores
from vfmalign.monitoring.sequential.block_scores import SPACINGS, BlockRanks, Pool, get_block
from vfmalign.monitoring.sequential.draws import Draws, Purpose
from vfmalign.monitoring.sequential.references import make_scorer
from vfmalign.monitoring.sequential.row_scores import RowScorer

THETA = 0.05
DRAWS = Draws(3, 1)
FIRST_END = 2
"""The row that ends the first of the blocks of 2 rows in 2 lanes: (0, 2), (3, 5), (4, 6)."""


def make(rows: int, channels: int = 3, seed: int = 0) -> tuple[RowScorer, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scorer = make_scorer(rng.normal(size=(20, channels)))
    z = np.stack([scorer.standardise(row) for row in rng.normal(size=(rows, channels))])
    return scorer, z, np.array([scorer.score(row)[1] for row in z])


def make_pool(scorer: RowScorer, z: np.ndarray, sums: np.ndarray, order: np.ndarray) -> Pool:
    """Makes a pool of all rows in this order: all but the last 16 at once, then blocks of 4."""
    pool = Pool.empty(len(z), z.shape[1])
    for rows in (order[:-16], *order[-16:].reshape(-1, 4)):
        pool.add(scorer, rows, z[rows], sums[rows])
    return pool


def get_kernel(scorer: RowScorer, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    kernel: np.ndarray = np.exp(-np.square(a[:, None] - b[None]).sum(axis=-1) / scorer.bandwidth)
    return kernel


def list_blocks(rows: int, width: int, spacing: int) -> dict[int, list[int]]:
    """Returns the blocks by the row that completes them."""
    blocks = {row: get_block(row, width, spacing) for row in range(rows)}
    return {row: block.tolist() for row, block in blocks.items() if block is not None}


@pytest.mark.parametrize(("width", "spacing"), [*SPACINGS.items(), (2, 2), (3, 1), (2, 3), (6, 4), (1, 1)])
def test_blocks_are_disjoint_and_their_rows_lie_apart(width: int, spacing: int) -> None:
    blocks = list_blocks(1500, width, spacing)
    members = [row for block in blocks.values() for row in block]
    assert len(members) == len(set(members))
    assert all(block == list(range(last - (width - 1) * spacing, last + 1, spacing)) for last, block in blocks.items())
    assert set(range(width * spacing, 1500 - width * spacing)) <= set(members)


@pytest.mark.parametrize(
    ("width", "first"), [(Purpose.BLOCKS_OF_4, [48, 52, 56, 60, 65, 69]), (Purpose.BLOCKS_OF_16, [120, 137, 154, 171])]
)
def test_blocks_end_one_after_the_other(width: Purpose, first: list[int]) -> None:
    """On average a block ends after as many rows as it has, and no two lanes end their blocks side by side for long."""
    ends = list(list_blocks(4000, width, SPACINGS[width]))
    assert ends[: len(first)] == first
    gaps = [later - earlier for earlier, later in pairwise(ends)]
    assert np.mean(gaps) == pytest.approx(width, rel=0.02)
    assert max(gaps) <= width + 1
    assert min(first + second for first, second in pairwise(gaps)) > width


@pytest.mark.parametrize("width", [4, 16])
def test_scores_equal_their_formula(width: int) -> None:
    scorer, z, sums = make(76)
    pool = make_pool(scorer, z, sums, np.arange(76))
    subsets = np.array([np.random.default_rng(seed).permutation(76)[:width] for seed in range(50)]).T
    everything = np.concatenate([scorer.scoring_SD, z])
    expected = [
        get_kernel(scorer, z[subset], z[subset]).mean() - 2 * get_kernel(scorer, z[subset], everything).mean()
        for subset in subsets.T
    ]
    np.testing.assert_allclose(pool.score(subsets, len(scorer.scoring_SD)), expected, atol=3e-6)


def test_scores_do_not_depend_on_the_order_of_rows() -> None:
    scorer, z, sums = make(76, channels=40)

    def get_score(order: np.ndarray) -> float:
        places = np.argsort(order)[60:, None]
        return float(make_pool(scorer, z, sums, order).score(places, len(scorer.scoring_SD))[0])

    rng = np.random.default_rng(1)
    assert {get_score(rng.permutation(76)) for _ in range(20)} == {get_score(np.arange(76))}


def test_a_pool_takes_a_random_part_of_a_large_bag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_scores, "SPACINGS", {Purpose.BLOCKS_OF_4: 1})
    monkeypatch.setattr(block_scores, "SUBSETS", 1)
    monkeypatch.setattr(block_scores, "POOL_ROWS", 10)
    scorer, z, sums = make(44)
    chosen: list[int] = []
    for number in range(400):
        ranks = BlockRanks(scorer, z[:40], sums[:40])
        for row in range(40, 44):
            ranks.add(z[row], sums[row], DRAWS, number)
        pool = ranks.pools[Purpose.BLOCKS_OF_4]
        assert pool.row_P[10 : pool.size].tolist() == [40, 41, 42, 43]
        chosen += pool.row_P[:10].tolist()
    counts = np.bincount(chosen, minlength=40)
    assert abs(counts - 100).max() < 40  # binomial SD 8.7


def test_a_pool_never_holds_a_row_of_a_block_that_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_scores, "POOL_ROWS", 100)
    monkeypatch.setattr(block_scores, "SUBSETS", 9)
    scorer, z, sums = make(600)
    ranks = BlockRanks(scorer, z[:50], sums[:50])
    ended = {width: list_blocks(550, width, spacing) for width, spacing in SPACINGS.items()}
    for row in range(550):
        cells = ranks.add(z[50 + row], sums[50 + row], DRAWS, row + 1)
        assert sorted(cells) == [width for width, blocks in ended.items() if row in blocks]
        for width, pool in ranks.pools.items():
            allowed = {50 + one for last, block in ended[width].items() if last <= row for one in block}
            held = pool.row_P[: pool.size].tolist()
            assert len(set(held)) == pool.size <= pool.room <= 100 + block_scores.NEW_POOL_ROWS
            assert set(held) <= {*range(50)} | allowed
            np.testing.assert_array_equal(pool.z_PD[: pool.size], z[held])


class ChosenDraws:
    """Draws of which the test chooses all: the second pool, and the order of equal scores of each block."""

    def __init__(self, pool: Any, orders: Sequence[float]) -> None:
        self.pool, self.orders = pool, orders

    def draw_uniforms(self, purpose: int, number: int, count: int) -> np.ndarray:
        if purpose > Purpose.POOL:
            uniforms = np.ones(count)
            uniforms[list(self.pool) if number > FIRST_END else 0] = 0.0
            return uniforms
        return np.full(count, self.orders[number > FIRST_END])


@pytest.mark.parametrize(("has_ties", "unused", "new_rows"), [(False, (5, 6), 2), (True, (2, 3), 4)])
def test_ranks_of_blocks_keep_the_bound_over_every_order(
    monkeypatch: pytest.MonkeyPatch, has_ties: bool, unused: tuple[int, int], new_rows: int
) -> None:
    """A calibration row and two blocks of two rows in two lanes.

    The second pool is two of the three rows before; with room for more new rows, the first pool goes on. Rows
    1 and 4 of the stream belong to no block that has ended: they stay where they are while the others take every order,
    and would spoil the mean as members of a pool.
    """
    monkeypatch.setattr(block_scores, "SPACINGS", {Purpose.TIES: 2})  # blocks of 2 rows
    for name, value in (("SUBSETS", 1), ("POOL_ROWS", 2), ("NEW_POOL_ROWS", new_rows)):
        monkeypatch.setattr(block_scores, name, value)
    scorer, z, sums = make(7, channels=1, seed=4)
    if has_ties:
        z[1], sums[1], z[4], sums[4] = z[0], sums[0], z[6], sums[6]
    used = [row for row in range(7) if row not in unused]
    pools = list(combinations(range(3), 2)) if new_rows == 2 else [()]
    second = range(4 if new_rows == 2 else 5)
    subsets = list(product(combinations(range(3), 2), combinations(second, 2)))

    def get_paths() -> Iterator[list[float]]:
        orders = [order for order in permutations(used) if order[1] < order[2] and order[3] < order[4]]
        for order, pool, pairs, ties in product(orders, pools, subsets, product((0.25, 0.75), repeat=2)):
            first, a, b, c, d = order
            ranks = BlockRanks(scorer, z[[first]], sums[[first]])
            chosen = iter(np.array(pair)[:, None] for pair in pairs)
            monkeypatch.setattr(block_scores, "choose_subsets", lambda *_, chosen=chosen: next(chosen))
            draws: Any = ChosenDraws(pool, ties)
            values = [1.0]
            for number, row in enumerate((a, unused[0], b, c, unused[1], d)):
                for cell in ranks.add(z[row], sums[row], draws, number).values():
                    bet = (cell.upper**THETA - cell.lower**THETA) / (cell.upper - cell.lower)
                    values.append(values[-1] * bet)
            yield values

    values_PT = np.array(list(get_paths()))
    np.testing.assert_allclose(values_PT.mean(axis=0), 1.0, rtol=0, atol=1e-12)
    largest = values_PT.max(axis=1)
    assert max((largest >= level).mean() * level for level in np.unique(largest)) <= 1 + 1e-12
    assert len(np.unique(largest)) > 2


def test_a_cell_is_small_for_a_block_that_lies_apart() -> None:
    scorer, z, sums = make(161)
    ranks = BlockRanks(scorer, z[:40], sums[:40])
    moved = [scorer.standardise(row + 2.0) for row in z[40:]]
    cells = [ranks.add(row, scorer.score(row)[1], DRAWS, number) for number, row in enumerate(moved)]
    assert cells[48][Purpose.BLOCKS_OF_4].upper <= 0.01
    assert cells[120][Purpose.BLOCKS_OF_16].upper == pytest.approx(1 / 1000)
    assert math.isclose(cells[120][Purpose.BLOCKS_OF_16].lower, 0.0)
