"""Ranks within a stratum: channels by brute force, and whole epochs over every order of rows within strata."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest

from vfmalign.monitoring.sequential import SEQUENTIAL, Component, EpochStart, block_scores, epoch
from vfmalign.monitoring.sequential.betting import CHANNEL_THETAS, THETAS, Martingale, get_bets
from vfmalign.monitoring.sequential.block_scores import SPACINGS, get_block
from vfmalign.monitoring.sequential.draws import Draws, Purpose
from vfmalign.monitoring.sequential.epoch import MOST_STRATA, UNKNOWN, Epoch, make_statistic
from vfmalign.monitoring.sequential.references import Reference, make_scorer
from vfmalign.monitoring.sequential.row_scores import RowScorer
from vfmalign.monitoring.sequential.strata import Stratum

BINNED_BAGS = [(0, 1, 2, 3, 4), (0, 0, 1, 2), (5, 5, 5, 1, 1), (31, 31, 31, 31)]


def make_line_scorer(channels: int = 1) -> RowScorer:
    """Returns a scorer whose bins are those of 97 values at equal distances."""
    return make_scorer(np.repeat(np.arange(97.0)[:, None], channels, axis=1))


class ChosenPlaces:
    """Draws that a test chooses for channel 0 of each row."""

    def __init__(self, uniforms: Sequence[float]) -> None:
        self.uniforms = uniforms

    def draw_uniforms(self, purpose: int, number: int, count: int) -> np.ndarray:
        return np.array([self.uniforms[number], *np.linspace(0.0, 0.99, count - 1)])


@pytest.mark.parametrize("bag", BINNED_BAGS)
@pytest.mark.parametrize("calibration", [0, 1])
def test_ranks_of_a_channel_are_uniform_and_independent_over_every_order(
    bag: tuple[int, ...], calibration: int
) -> None:
    """Each sequence of ranks has the same probability: 1 of the product of the numbers of rows so far."""
    scorer = make_line_scorer(channels=2)
    value_T = [scorer.edges_DT[0, 1] - 0.1, *scorer.edges_DT[0, 1:]]
    probabilities: dict[tuple[int, ...], float] = {}
    orders = sorted(set(permutations(bag)))
    for order in orders:
        equal = [order[:place].count(order[place]) for place in range(calibration, len(order))]
        ways = list(product(*(range(count + 1) for count in equal)))
        for way in ways:
            draws: Any = ChosenPlaces([(place + 0.5) / (count + 1) for place, count in zip(way, equal, strict=True)])
            rows = np.array([[value_T[bin_number], -0.5] for bin_number in order])
            stratum = Stratum.of_calibration(scorer, rows[:calibration])
            ranks = []
            for number, z in enumerate(rows[calibration:]):
                stratum.rank_row(0.0, Draws(0, 1), number)
                lower_D, upper_D = stratum.rank_channels(z, draws, number)
                size = calibration + number + 1
                assert upper_D[0] - lower_D[0] == pytest.approx(1 / size, abs=1e-15)
                ranks.append(round(lower_D[0] * size))
            key = tuple(ranks)
            probabilities[key] = probabilities.get(key, 0.0) + 1 / (len(orders) * len(ways))
    sizes = range(calibration + 1, len(bag) + 1)
    assert set(probabilities) == set(product(*(range(size) for size in sizes)))
    assert list(probabilities.values()) == pytest.approx([1 / math.prod(sizes)] * len(probabilities), rel=1e-12)


def test_a_channel_is_ranked_by_its_bin_from_both_tails() -> None:
    scorer = make_line_scorer(channels=3)
    stratum = Stratum.of_calibration(scorer, scorer.scoring_SD[::4])
    high, low, edge = 1e4, -1e4, float(scorer.edges_DT[2, 20])
    others = len(stratum.row_scores)
    stratum.rank_row(0.0, Draws(0, 1), 1)
    lower_D, upper_D = stratum.rank_channels(np.array([high, low, edge]), Draws(0, 1), 1)
    in_last, in_first = (int((scorer.scoring_SD[::4, 0] >= one).sum()) for one in scorer.edges_DT[0, [31, 1]])
    assert upper_D[0] <= (in_last + 1) / (others + 1)
    assert lower_D[1] >= in_first / (others + 1)
    above = int((scorer.scoring_SD[::4, 2] >= scorer.edges_DT[2, 21]).sum())
    within = int((scorer.scoring_SD[::4, 2] >= edge).sum()) - above
    assert above / (others + 1) <= lower_D[2] < upper_D[2] <= (above + within + 1) / (others + 1)
    bets_SK = get_bets(lower_D, upper_D, mirrored=True, thetas=CHANNEL_THETAS)
    thetas = len(CHANNEL_THETAS)
    assert bets_SK[:thetas, 0].min() > 1.0 > bets_SK[thetas:, 0].max()
    assert bets_SK[thetas:, 1].min() > 1.0 > bets_SK[:thetas, 1].max()


def test_equal_bins_are_ordered_by_the_draws_of_each_channel() -> None:
    scorer = make_line_scorer(channels=200)
    stratum = Stratum.of_calibration(scorer, np.zeros((99, 200)))
    stratum.rank_row(0.0, Draws(0, 1), 1)
    lower_D, _ = stratum.rank_channels(np.zeros(200), Draws(0, 1), 1)
    assert len(set(lower_D.tolist())) > 50
    assert np.mean(lower_D) == pytest.approx(0.5, abs=0.1)  # its standard deviation is 0.02


def test_a_constant_channel_is_ranked_at_random() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 2))
    rows[:, 1] = 7.0
    scorer = make_scorer(rows[:20])
    stratum = Stratum.of_calibration(scorer, np.stack([scorer.standardise(row) for row in rows[20:]]))
    places = set()
    for number in range(100):
        stratum.rank_row(0.0, Draws(0, 1), number)
        lower_D, _ = stratum.rank_channels(scorer.standardise(np.array([0.0, 7.0])), Draws(0, 1), number)
        places.add(int(lower_D[1] * 10))
    assert places == set(range(10))


def make_epoch(calibration: np.ndarray, strata: Sequence[str], *, by_run_length: bool = False, seed: int = 0) -> Epoch:
    """Makes an epoch of standardised calibration rows and fixed scoring rows."""
    scorer = make_line_scorer(channels=calibration.shape[1])
    reference = Reference(scorer, calibration, frozenset(), tuple(strata))
    return Epoch(Draws(seed, 1), EpochStart.FIXED, reference, by_run_length=by_run_length)


def to_row(scorer: RowScorer, z: np.ndarray) -> np.ndarray:
    """Returns the row with standardised values."""
    row: np.ndarray = z * scorer.scale_D + scorer.mean_D
    return row


def get_orders_within(strata: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """Yields every order of rows that leaves the sequence of strata as it is."""
    places = {name: [place for place, one in enumerate(strata) if one == name] for name in dict.fromkeys(strata)}
    for arranged in product(*(permutations(rows) for rows in places.values())):
        order = [0] * len(strata)
        for rows, chosen in zip(places.values(), arranged, strict=True):
            for place, row in zip(rows, chosen, strict=True):
                order[place] = row
        yield tuple(order)


class Recorder:
    """The ends of all cells, and the product of their bets with θ = 0.05 or 0.2, by number of bets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cells: list[tuple[list[float], list[float]]] = []
        self.products: dict[int, float] = {}
        monkeypatch.setattr(epoch, "get_bets", self._get_bets)

    def _get_bets(self, lower: Any, upper: Any, **named: Any) -> np.ndarray:
        self.cells.append((np.atleast_1d(lower).tolist(), np.atleast_1d(upper).tolist()))
        bets_SK = get_bets(lower, upper, **named)
        self.products[len(bets_SK)] = self.products.get(len(bets_SK), 1.0) * float(bets_SK[0, 0])
        return bets_SK


MIXES = ["a" + "".join(one) for one in product("ab", repeat=3)] + ["acca", "cbca", "ccc"]
"""Sequences of the strata of a stream: all of four rows of two strata, up to the names of these, and some with c."""


@pytest.mark.parametrize("stream", MIXES)
def test_the_mean_is_one_over_every_order_within_strata(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration row of each stratum but the new one, c; strata lie apart, and their rows in bins of their own."""
    strata = "ab" + stream
    rng = np.random.default_rng(len(MIXES) + MIXES.index(stream))
    offsets = {"a": -1.6, "b": 0.1, "c": 0.9}
    z = np.array([[offsets[name] + step] for name, step in zip(strata, 0.12 * rng.permutation(6), strict=False)])
    values, products, sums = [], [], []
    for order in get_orders_within(strata):
        recorder = Recorder(monkeypatch)
        one, other = make_epoch(z[[*order[:2]]], "ab"), make_epoch(z[[*order[:2]]], "ab", by_run_length=True)
        for name, row in zip(stream, order[2:], strict=True):
            row_D = to_row(one.reference.scorer, z[row])
            one.add(row_D, "", name)
        values.append([one.evidence[name].log_value for name in (Component.ROWS, Component.CHANNELS)])
        products.append(list(recorder.products.values()))
        for name, row in zip(stream, order[2:], strict=True):
            other.add(to_row(one.reference.scorer, z[row]), "", name)
        sums.append([other.evidence[name].log_value for name in (Component.ROWS, Component.CHANNELS)])
    np.testing.assert_allclose(np.exp(values).mean(axis=0), 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.mean(products, axis=0), 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.exp(sums).mean(axis=0), len(stream), rtol=1e-12)
    assert np.ptp(products, axis=0).min() > 0.5


def test_an_offset_of_one_stratum_changes_no_rank_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_scores, "SUBSETS", 49)
    rng = np.random.default_rng(1)
    strata, stream = rng.choice([*"abc"], 90).tolist(), rng.choice([*"abcd"], 400).tolist()
    calibration, rows = rng.normal(size=(90, 3)), rng.normal(size=(400, 3))

    def get_cells(offset: float) -> dict[str, list[Any]]:
        moved = [
            (z + offset * (np.array(names) == "b")[:, None]) for z, names in ((calibration, strata), (rows, stream))
        ]
        one = make_epoch(moved[0], strata)
        cells: dict[str, list[Any]] = {name: [] for name in "abcd"}
        for name, z in zip(stream, moved[1], strict=True):
            recorder = Recorder(monkeypatch)
            cells[name] += [one.add(to_row(one.reference.scorer, z), "", name), recorder.cells]
        assert sum(len(recorded) for recorded in cells["a"][1::2]) > 2 * stream.count("a") + 10  # blocks too
        return cells

    still, moved = get_cells(0.0), get_cells(1.5)
    assert {name for name in "abcd" if still[name] == moved[name]} == {*"acd"}


def test_sessions_of_a_stratum_that_lies_apart_are_not_seen() -> None:
    """Rows of a stratum are ranked among those of the same one, whatever comes between."""
    rng = np.random.default_rng(2)
    calibration, rows = rng.normal(size=(60, 3)), rng.normal(size=(200, 3))
    alone = make_epoch(calibration, "a" * 60)
    between = make_epoch(np.concatenate([calibration, calibration + 2.0]), "a" * 60 + "b" * 60)
    for z in rows:
        p_value = alone.add(to_row(alone.reference.scorer, z), "", "a")
        assert between.add(to_row(alone.reference.scorer, z), "", "a") == p_value
        between.add(to_row(alone.reference.scorer, z + 2.0), "", "b")


@pytest.mark.parametrize("by_run_length", [False, True])
def test_a_new_stratum_is_ranked_among_its_own_rows(monkeypatch: pytest.MonkeyPatch, by_run_length: bool) -> None:
    rng = np.random.default_rng(3)
    calibration = rng.normal(size=(60, 3))
    one = make_epoch(calibration, "a" * 60, by_run_length=by_run_length)
    for z in calibration[:5]:
        one.add(to_row(one.reference.scorer, z + 0.1), "", "a")
    before = {name: statistic.log_value for name, statistic in one.evidence.items()}
    recorder = Recorder(monkeypatch)
    assert one.add(to_row(one.reference.scorer, np.full(3, 50.0)), "", "new") == 1.0
    assert recorder.cells == [([0.0], [1.0]), ([0.0] * 3, [1.0] * 3)]
    for name, value in before.items():
        grows = by_run_length and name in {Component.ROWS, Component.CHANNELS}  # R ← (1 + R)·1
        assert one.evidence[name].log_value == pytest.approx(np.logaddexp(value, 0.0) if grows else value, abs=1e-12)
    p_values = [one.add(to_row(one.reference.scorer, z + 50.0), "", "new") for z in rng.normal(size=(40, 3))]
    assert p_values[0] in {0.5, 1.0}
    assert max(p_values[20:]) > 0.8
    assert one.count_strata() == ({"a": 60}, {"a": 5, "new": 41})
    assert one.strata["new"].blocks is not None
    assert one.strata["new"].blocks.calibration == 0


def test_blocks_of_a_new_stratum_find_its_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_scores, "SUBSETS", 99)
    rng = np.random.default_rng(4)
    one = make_epoch(rng.normal(size=(60, 3)), "a" * 60)
    for z in rng.normal(size=(200, 3)):
        one.add(to_row(one.reference.scorer, z + 0.6), "", "new")
    before = one.evidence[Component.BLOCKS_OF_4].log_value
    assert before < 4.0
    for z in rng.normal(size=(200, 3)):
        one.add(to_row(one.reference.scorer, z - 0.6), "", "new")
    assert one.evidence[Component.BLOCKS_OF_4].log_value > before + 6.0


def test_strata_are_ignored_where_the_reference_has_none() -> None:
    rng = np.random.default_rng(5)
    calibration, rows = rng.normal(size=(60, 3)), rng.normal(size=(150, 3))
    named, unnamed = make_epoch(calibration, [""] * 60), make_epoch(calibration, [""] * 60)
    for number, z in enumerate(rows):
        row_D = to_row(named.reference.scorer, z)
        assert named.add(row_D, "", f"scanner-{number % 70}") == unnamed.add(row_D, "", "")
    assert [one.log_value for one in named.evidence.values()] == [one.log_value for one in unnamed.evidence.values()]
    assert list(named.strata) == [UNKNOWN]
    assert named.count_strata() == ({}, {})


def test_an_unknown_stratum_is_one_of_its_own() -> None:
    calibration = np.random.default_rng(6).normal(size=(60, 3))
    one = make_epoch(calibration, ["a"] * 30 + [""] * 30)
    for name in ("a", "", "", "b"):
        one.add(to_row(one.reference.scorer, calibration[0]), "", name)
    assert one.count_strata() == ({"a": 30, "": 30}, {"": 2, "a": 1, "b": 1})


@pytest.mark.parametrize("knows_unknown", [False, True])
def test_further_strata_count_as_unknown(knows_unknown: bool) -> None:
    rng = np.random.default_rng(7)
    calibration = rng.normal(size=(60, 2))
    one = make_epoch(calibration, ["a"] * 30 + ["" if knows_unknown else "a"] * 30)
    new = MOST_STRATA - len(one.strata)
    firsts = new + (not knows_unknown)
    p_values = [
        one.add(to_row(one.reference.scorer, z), "", f"new-{number}")
        for number, z in enumerate(rng.normal(size=(new + 10, 2)))
    ]
    assert p_values[:firsts] == [1.0] * firsts
    assert min(p_values[firsts:]) < 1.0
    for name in ("new-0", f"new-{new + 9}", "a"):
        one.add(to_row(one.reference.scorer, calibration[0]), "", name)
    _, stream = one.count_strata()
    assert len(stream) == MOST_STRATA + (not knows_unknown)
    assert (stream["new-0"], stream["a"], stream[UNKNOWN]) == (2, 1, 11)


def test_rows_of_a_block_are_those_of_one_stratum() -> None:
    """Two strata that alternate complete the blocks of each by its own count."""
    rng = np.random.default_rng(8)
    one = make_epoch(rng.normal(size=(40, 2)), "ab" * 20)
    evidence: Any = one.evidence
    cells = []
    for number, z in enumerate(rng.normal(size=(280, 2))):
        before = {name: evidence[name].cells for name in SEQUENTIAL}
        one.add(to_row(one.reference.scorer, z), "", "ab"[number % 2])
        cells.append({name for name in SEQUENTIAL if evidence[name].cells > before[name]})
    for width, component in zip(SPACINGS, (Component.BLOCKS_OF_4, Component.BLOCKS_OF_16), strict=True):
        ends = [get_block(number // 2, width, SPACINGS[width]) is not None for number in range(280)]
        assert [component in done for done in cells] == ends
        assert any(ends)


def test_evidence_follows_from_the_cells_of_each_component(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    one, recorder = make_epoch(rng.normal(size=(40, 3)), "ab" * 20), Recorder(monkeypatch)
    for number, z in enumerate(rng.normal(size=(30, 3))):  # no block ends
        one.add(to_row(one.reference.scorer, z), "", "ab"[number % 2])
    rows, channels = Martingale(2 * len(THETAS)), Martingale(2 * len(CHANNEL_THETAS), 3)
    for cell, ends in zip(recorder.cells[::2], recorder.cells[1::2], strict=True):
        rows.update(get_bets(*cell, mirrored=True))
        channels.update(get_bets(*ends, mirrored=True, thetas=CHANNEL_THETAS))
    assert one.evidence[Component.ROWS].log_value == rows.log_value
    assert one.evidence[Component.CHANNELS].log_value == channels.log_value
    assert one.evidence[Component.BLOCKS_OF_4].log_value == one.evidence[Component.BLOCKS_OF_16].log_value == 0.0


@pytest.mark.parametrize(
    ("component", "bets", "streams", "rows"),
    [
        (Component.ROWS, 14, 1, 1),
        (Component.BLOCKS_OF_4, 7, 1, 4),
        (Component.BLOCKS_OF_16, 7, 1, 16),
        (Component.CHANNELS, 8, 5, 1),
    ],
)
def test_a_run_length_counts_the_rows_of_a_cell(component: Component, bets: int, streams: int, rows: int) -> None:
    statistic = make_statistic(component, 5, by_run_length=True)
    for cells in (1, 2, 3):
        statistic.update(np.ones((bets, streams)))
        assert statistic.log_value == pytest.approx(math.log(cells * rows))
    martingale = make_statistic(component, 5, by_run_length=False)
    assert isinstance(martingale, Martingale)
    assert martingale.stakes_ESK.shape[1:] == (bets, streams)


@pytest.mark.parametrize("strata", ["a", "ab"])
def test_no_numbers_are_drawn_twice(monkeypatch: pytest.MonkeyPatch, strata: str) -> None:
    """The order of ties and the subsets of one row or block would otherwise tell those of another."""
    monkeypatch.setattr(block_scores, "SUBSETS", 9)
    rng = np.random.default_rng(10)
    one = make_epoch(rng.normal(size=(40, 2)), strata * (40 // len(strata)))
    drawn: list[tuple[int, int]] = []
    draw_uniforms = Draws.draw_uniforms

    def draw(self: Draws, purpose: int, number: int, count: int) -> np.ndarray:
        drawn.append((purpose, number))
        return draw_uniforms(self, purpose, number, count)

    monkeypatch.setattr(Draws, "draw_uniforms", draw)
    rows = rng.normal(size=(300, 2))
    rows[::3] = rows[0]
    for number, z in enumerate(rows):
        one.add(to_row(one.reference.scorer, z), "", strata[number % len(strata)])
    assert len(drawn) == len(set(drawn))
    pools = {Purpose.POOL + width for width in SPACINGS}
    assert {purpose for purpose, _ in drawn} == {Purpose.TIES, Purpose.CHANNELS, *SPACINGS, *pools}
