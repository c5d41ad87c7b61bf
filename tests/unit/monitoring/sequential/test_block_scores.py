"""Scores of blocks by brute force, and their ranks over every order of five rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, permutations, product
from typing import Any

import numpy as np
import pytest

from vfmalign.monitoring.sequential import block_scores
from vfmalign.monitoring.sequential.block_scores import BlockRanks, Pool
from vfmalign.monitoring.sequential.draws import Draws, Purpose
from vfmalign.monitoring.sequential.references import make_scorer
from vfmalign.monitoring.sequential.row_scores import RowScorer

THETA = 0.05
DRAWS = Draws(3, 1)


def make(rows: int, channels: int = 3, seed: int = 0) -> tuple[RowScorer, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scorer = make_scorer(rng.normal(size=(20, channels)))
    z = np.stack([scorer.standardise(row) for row in rng.normal(size=(rows, channels))])
    return scorer, z, np.array([scorer.score(row)[1] for row in z])


def get_kernel(scorer: RowScorer, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.exp(-np.square(a[:, None] - b[None]).sum(axis=-1) / scorer.bandwidth)


@pytest.mark.parametrize("width", [4, 16])
def test_scores_equal_their_formula(width: int) -> None:
    scorer, z, sums = make(80)
    pool = Pool.of_bag(scorer, z[:60], sums[:60], DRAWS, 0)
    for start in range(60, 76, 4):
        pool.add(scorer, z[start : start + 4], sums[start : start + 4])
    subsets = np.array([np.random.default_rng(seed).permutation(76)[:width] for seed in range(50)]).T
    everything = np.concatenate([scorer.scoring_SD, z[:76]])
    expected = [
        get_kernel(scorer, z[subset], z[subset]).mean() - 2 * get_kernel(scorer, z[subset], everything).mean()
        for subset in subsets.T
    ]
    np.testing.assert_allclose(pool.score(subsets, len(scorer.scoring_SD)), expected, atol=3e-6)


def test_scores_do_not_depend_on_the_order_of_rows() -> None:
    scorer, z, sums = make(76, channels=40)
    subset = np.arange(60, 76)[:, None]

    def get_score(order: np.ndarray) -> float:
        pool = Pool.of_bag(scorer, z[order[:60]], sums[order[:60]], DRAWS, 0)
        for start in range(60, 76, 4):
            pool.add(scorer, z[order[start : start + 4]], sums[order[start : start + 4]])
        places = np.argsort(order)[subset]
        return float(pool.score(places, len(scorer.scoring_SD))[0])

    rng = np.random.default_rng(1)
    assert {get_score(rng.permutation(76)) for _ in range(20)} == {get_score(np.arange(76))}


def test_a_pool_takes_a_random_part_of_a_large_bag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_scores, "POOL_ROWS", 10)
    scorer, z, sums = make(40)
    chosen = []
    for group in range(400):
        pool = Pool.of_bag(scorer, z, sums, DRAWS, group)
        assert pool.size == 10
        chosen += [int(np.flatnonzero((z == row).all(axis=1))[0]) for row in pool.z_PD[:10]]
    counts = np.bincount(chosen, minlength=40)
    assert abs(counts - 100).max() < 40  # binomial SD 8.7


class ChosenDraws:
    """Draws of which the test chooses all: the pool, the subset of each block, and the order of equal scores."""

    def __init__(self, pools: Any, subsets: Any, orders: tuple[float, float]) -> None:
        self.pools, self.subsets, self.orders = pools, subsets, orders

    def draw_uniforms(self, purpose: int, number: int, count: int) -> np.ndarray:
        if purpose == Purpose.POOL:
            uniforms = np.ones(count)
            uniforms[list(self.pools[number])] = 0.0
            return uniforms
        return np.full(count, self.orders[number - 1])


@pytest.mark.parametrize("has_ties", [False, True])
def test_ranks_of_blocks_keep_the_bound_over_every_order(monkeypatch: pytest.MonkeyPatch, has_ties: bool) -> None:
    """A calibration row and two blocks of two rows; the second pool is two of the three rows before its block."""
    monkeypatch.setattr(block_scores, "WIDTHS", (Purpose.TIES,))  # blocks of 2 rows
    monkeypatch.setattr(block_scores, "SUBSETS", 1)
    monkeypatch.setattr(block_scores, "POOL_ROWS", 2)
    scorer, z, sums = make(5, channels=1, seed=4)
    if has_ties:
        z[1], sums[1], z[4], sums[4] = z[0], sums[0], z[2], sums[2]

    def get_paths() -> Iterator[list[float]]:
        orders = [order for order in permutations(range(5)) if order[1] < order[2] and order[3] < order[4]]
        pools = list(combinations(range(3), 2))
        subsets = list(product(combinations(range(3), 2), combinations(range(4), 2)))
        for order, pool, pair, ties in product(orders, pools, subsets, product((0.25, 0.75), repeat=2)):
            ranks = BlockRanks(scorer, z[list(order[:1])], sums[list(order[:1])])
            draws: Any = ChosenDraws([(0,), pool], pair, ties)
            values = [1.0]
            for row in order[1:]:
                chosen = np.array(pair[ranks.rows // 2])[:, None]
                monkeypatch.setattr(block_scores, "choose_subsets", lambda *_, chosen=chosen: chosen)
                for cell in ranks.add(z[row], sums[row], draws).values():
                    bet = (cell.upper**THETA - cell.lower**THETA) / (cell.upper - cell.lower)
                    values.append(values[-1] * bet)
            yield values

    values_PT = np.array(list(get_paths()))
    np.testing.assert_allclose(values_PT.mean(axis=0), 1.0, rtol=0, atol=1e-12)
    largest = values_PT.max(axis=1)
    assert max((largest >= level).mean() * level for level in np.unique(largest)) <= 1 + 1e-12
    assert len(np.unique(largest)) > 2


def test_cells_come_at_every_fourth_and_sixteenth_row_until_blocks_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_scores, "LAST_ROW", 32)
    scorer, z, sums = make(100)
    ranks = BlockRanks(scorer, z[:50], sums[:50])
    completed = [sorted(ranks.add(row, total, DRAWS)) for row, total in zip(z[50:], sums[50:], strict=True)]
    expected = [
        [width for width in (4, 16) if row % width == 0] if row <= 32 else [] for row in range(1, len(completed) + 1)
    ]
    assert completed == expected
    assert not ranks.is_active
    assert len(ranks.bag[0]) == 0


def test_a_cell_is_small_for_a_block_that_lies_apart() -> None:
    scorer, z, sums = make(60)
    ranks = BlockRanks(scorer, z[:40], sums[:40])
    moved = [scorer.standardise(row + 2.0) for row in z[40:56]]
    cells = [ranks.add(row, scorer.score(row)[1], DRAWS) for row in moved]
    assert cells[15][Purpose.BLOCKS_OF_16].upper == pytest.approx(1 / 1000)
    assert math.isclose(cells[15][Purpose.BLOCKS_OF_16].lower, 0.0)
