"""Without drift, the martingale's mean is exactly 1 and its bound holds: over every order of up to six rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest

from vfmalign.monitoring.sequential.betting import (
    CHANNEL_THETAS,
    CONSTANT_SHARES,
    THETAS,
    Martingale,
    ShiryaevRoberts,
    get_bets,
    get_shares,
)
from vfmalign.monitoring.sequential.ranks import Cell, SortedScores, get_cell

BETS = 2 * len(THETAS)
BAGS = [
    (1.0, 2.0),
    (1.0, 2.0, 3.0, 4.0, 5.0),
    (1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
    (1.0, 1.0, 2.0),
    (1.0, 1.0, 1.0, 2.0, 2.0, 3.0),
]
Path = tuple[float, list[Cell]]


def get_paths(bag: tuple[float, ...], calibration: int) -> Iterator[Path]:
    """Yields the probability and the cells of every order of a bag and of every order of equal scores."""
    orders = sorted(set(permutations(bag)))
    for order in orders:
        paths: list[Path] = [(1 / len(orders), [])]
        stored = SortedScores(np.array(order[:calibration]))
        for score in order[calibration:]:
            greater, equal = stored.count(score)
            paths = [
                (weight / (equal + 1), [*cells, get_cell(greater, equal, len(stored), (place + 0.5) / (equal + 1))])
                for weight, cells in paths
                for place in range(equal + 1)
            ]
            stored.add(score)
        yield from paths


def get_wide_paths(bag: tuple[float, ...], calibration: int) -> Iterator[Path]:
    """Yields the same, where a cell is as wide as all equal scores."""
    orders = sorted(set(permutations(bag)))
    for order in orders:
        stored, cells = SortedScores(np.array(order[:calibration])), []
        for score in order[calibration:]:
            greater, equal = stored.count(score)
            cells.append(Cell(greater / (len(stored) + 1), (greater + equal + 1) / (len(stored) + 1)))
            stored.add(score)
        yield 1 / len(orders), cells


def get_values(cells: list[Cell]) -> list[float]:
    martingale, values = Martingale(BETS), [1.0]
    for cell in cells:
        martingale.update(get_bets(*cell, mirrored=True))
        values.append(math.exp(martingale.log_value))
    return values


def get_excess(paths: Iterator[Path], get_path_values: Callable[[list[Cell]], list[float]]) -> float:
    """Returns the largest P(max ≥ c)·c over all c: at most 1 if Ville's inequality holds."""
    largest = [(max(get_path_values(cells)), weight) for weight, cells in paths]
    return max(sum(weight for value, weight in largest if value >= level) * level for level, _ in largest)


@pytest.mark.parametrize("bag", BAGS)
@pytest.mark.parametrize("calibration", [0, 1, 2])
def test_the_mean_is_one(bag: tuple[float, ...], calibration: int) -> None:
    means = sum(weight * np.array(get_values(cells)) for weight, cells in get_paths(bag, min(calibration, len(bag))))
    np.testing.assert_allclose(means, 1.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bag", BAGS)
def test_the_mean_of_shiryaev_roberts_is_the_number_of_rows(bag: tuple[float, ...]) -> None:
    def get_sums(cells: list[Cell]) -> list[float]:
        statistic, values = ShiryaevRoberts(BETS, rows=1), []
        for cell in cells:
            statistic.update(get_bets(*cell, mirrored=True))
            values.append(math.exp(statistic.log_value))
        return values

    means = sum(weight * np.array(get_sums(cells)) for weight, cells in get_paths(bag, 1))
    np.testing.assert_allclose(means, np.arange(1, len(bag)), rtol=1e-12)


def get_products(cells: list[Cell]) -> list[float]:
    """Returns the product of the bets of the smallest θ, which ties endanger most."""
    return [1.0, *np.cumprod([get_bets(*cell, mirrored=False)[0, 0] for cell in cells])]


@pytest.mark.parametrize("bag", BAGS)
@pytest.mark.parametrize("get_path_values", [get_products, get_values])
def test_the_bound_holds_for_every_level(bag: tuple[float, ...], get_path_values: Any) -> None:
    assert get_excess(get_paths(bag, 1), get_path_values) <= 1 + 1e-12


def test_cells_as_wide_as_the_ties_would_break_the_bound() -> None:
    assert get_excess(get_wide_paths((1.0, 1.0, 2.0), 1), get_products) > 1.2
    assert get_excess(get_paths((1.0, 1.0, 2.0), 1), get_products) <= 1 + 1e-12


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("thetas", [THETAS, CHANNEL_THETAS])
@pytest.mark.parametrize("cells", [1, 7, 135])
def test_bets_average_to_one_over_all_cells(cells: int, thetas: np.ndarray, mirrored: bool) -> None:
    ends = np.arange(cells + 1) / cells
    bets_SK = get_bets(ends[:-1], ends[1:], mirrored=mirrored, thetas=thetas)
    assert bets_SK.shape == (len(thetas) * (2 if mirrored else 1), cells)
    np.testing.assert_allclose(bets_SK.mean(axis=1), 1.0, rtol=1e-12)
    alone = [get_bets(*pair, mirrored=mirrored, thetas=thetas) for pair in pairwise(ends)]
    np.testing.assert_array_equal(np.concatenate(alone, axis=1), bets_SK)


def test_mirrored_bets_are_those_of_the_mirrored_cell() -> None:
    bets_SK = get_bets(0.125, 0.25, mirrored=True)
    np.testing.assert_array_equal(bets_SK[len(THETAS) :], get_bets(0.75, 0.875, mirrored=False))


def test_a_cell_that_is_the_whole_interval_changes_nothing() -> None:
    assert get_bets(0.0, 1.0, mirrored=True).tolist() == [[1.0]] * BETS


def test_mixtures_have_their_closed_form() -> None:
    bet, cells = 1.7, 40
    martingale = Martingale(1)
    for _ in range(cells):
        martingale.update(np.array([[bet]]))
    shares_CE = np.array([get_shares(cell) for cell in range(cells)])
    expected = 0.0
    for schedule in range(len(CONSTANT_SHARES) + 1):
        reserve = 1.0
        for cell in range(cells):
            expected += reserve * shares_CE[cell, schedule] * bet ** (cells - cell)
            reserve *= 1.0 - shares_CE[cell, schedule]
        expected += reserve
    assert martingale.log_value == pytest.approx(math.log(expected / (len(CONSTANT_SHARES) + 1)), rel=1e-12)
    statistic = ShiryaevRoberts(1, rows=4)
    for _ in range(cells):
        statistic.update(np.array([[bet]]))
    assert statistic.log_value == pytest.approx(math.log(4 * sum(bet**k for k in range(1, cells + 1))), rel=1e-12)


def test_the_slow_schedule_keeps_a_reserve_for_late_changes() -> None:
    martingale = Martingale(1)
    for _ in range(50_000):
        martingale.update(np.array([[0.5]]))
    assert martingale.reserve_E[:3].max() < 1e-40
    assert martingale.reserve_E[3] == pytest.approx((1 + 50_000 / 500) ** -0.5, rel=1e-9)


def test_evidence_beyond_float64_stays_finite_and_returns() -> None:
    martingale = Martingale(1)
    for bet, cells in ((50.0, 400), (0.01, 400)):
        for _ in range(cells):
            martingale.update(np.array([[bet]]))
        assert np.isfinite(martingale.log_value)
        assert martingale.exponent > 1500 or bet < 1.0
    assert martingale.log_value < 0.0


@pytest.mark.parametrize("make", [Martingale, lambda bets, streams=1: ShiryaevRoberts(bets, 4, streams)])
def test_the_largest_of_several_streams_is_reported(make: Any) -> None:
    bets, cells, streams = 3, 60, 5
    bets_NSK = np.random.default_rng(0).uniform(0.5, 1.6, (cells, bets, streams))
    together, alone = make(bets, streams), [make(bets) for _ in range(streams)]
    largest = set()
    for bets_SK in bets_NSK:
        together.update(bets_SK)
        for stream, one in enumerate(alone):
            one.update(bets_SK[:, [stream]])
        values = [one.log_value for one in alone]
        largest.add(int(np.argmax(values)))
        assert together.log_value == pytest.approx(max(values), rel=1e-12)
    assert len(largest) > 2


def test_a_stream_beyond_the_largest_exponent_leaves_the_others_exact() -> None:
    together, alone = Martingale(1, 3), [Martingale(1) for _ in range(3)]
    exponents = set()
    for cell in range(900):
        bets_1K = np.array([[4.0 if cell < 300 else 0.25, 1.0, 1.2 if cell < 500 else 1.0]])
        together.update(bets_1K)
        for stream, one in enumerate(alone):
            one.update(bets_1K[:, [stream]])
        exponents.add(together.exponent)
        assert together.log_value == pytest.approx(max(one.log_value for one in alone), rel=1e-9)
    assert max(exponents) > 500
    assert together.exponent < 300
    assert alone[2].log_value > alone[1].log_value > alone[0].log_value


def test_several_streams_beyond_float64_stay_finite() -> None:
    martingale = Martingale(1, 2)
    for bet, cells in ((50.0, 400), (0.01, 800)):
        for _ in range(cells):
            martingale.update(np.array([[bet, 1.0]]))
        assert np.isfinite(martingale.log_value)
    assert martingale.log_value < 0.0
