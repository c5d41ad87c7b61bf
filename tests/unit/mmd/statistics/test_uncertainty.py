"""Swaps, permutations, max-T and the jackknife against brute force, and the size and power of the tests."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from tests.mmd_options import make_options

from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.statistics import permutations, uncertainty
from vfmalign.mmd.statistics.uncertainty import max_t_p_values, p_value

PINNED_SWAPS = [
    [-1, -1, -1, -1, -1, 1, -1, -1, 1, -1, 1, 1, 1],
    [-1, -1, -1, -1, 1, -1, 1, 1, 1, -1, -1, -1, 1],
    [1, -1, 1, 1, -1, -1, 1, 1, -1, 1, -1, -1, 1],
]
PINNED_PERMUTATIONS = [[0, 1, 0, 0, 0, 1], [0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 1]]


def swapped(x, y, labels, flips):
    """x and y with the rows of the flipped groups exchanged."""
    flip = np.isin(labels, flips)[:, None]
    return np.where(flip, y, x), np.where(flip, x, y)


@pytest.mark.parametrize("estimator", ["biased", "unbiased_paired"])
@pytest.mark.parametrize("tile_rows", [3, 100])
def test_enumerated_swaps_equal_itertools(brute, rng, grouped, estimator, tile_rows):
    labels = grouped(rng, 19, 8)
    x = rng.normal(size=(19, 3))
    y = x + 0.6 * rng.normal(size=(19, 3)) + 0.25
    formula = brute.estimators[estimator]
    observed = formula(x, y, 1.5)
    names = np.unique(labels)
    values = [
        formula(*swapped(x, y, labels, names[np.array(bits, dtype=bool)]), 1.5) for bits in product((0, 1), repeat=8)
    ]
    expected = np.mean(np.array(values) >= observed - 1e-13)
    shift = brute.compare(
        x, y, groups_x=labels, groups_y=labels, estimator=estimator, permutations=10, tile_rows=tile_rows
    ).raw
    assert shift.p_value.value == expected
    assert 2 / 256 <= expected < 0.6
    assert (shift.permutations, shift.enumerated) == (256, True)


def test_random_swaps_equal_explicit_ones(brute, rng, grouped):
    labels = grouped(rng, 40, 14)
    x = rng.normal(size=(40, 2))
    y = x + rng.normal(size=(40, 2)) * 0.8 + 0.15
    signs_GB = permutations.draw_swaps(14, 99, seed=5).weights_GB
    names = np.unique(labels)
    formula = brute.estimators["unbiased_paired"]
    values = [formula(*swapped(x, y, labels, names[signs_GB[:, b] < 0]), 1.5) for b in range(99)]
    at_least = int((np.array(values) >= formula(x, y, 1.5) - 1e-13).sum())
    shift = brute.compare(x, y, groups_x=labels, groups_y=labels, permutations=99, seed=5, tile_rows=9).raw
    assert shift.p_value.value == (1 + at_least) / 100
    assert (shift.permutations, shift.enumerated) == (99, False)


@pytest.mark.parametrize("estimator", ["biased", "unbiased_independent"])
def test_permutations_equal_explicit_ones_with_uneven_groups(brute, rng, grouped, estimator):
    labels_x, labels_y = grouped(rng, 23, 9), grouped(rng, 31, 11, prefix="h")
    x, y = rng.normal(size=(23, 2)), rng.normal(size=(31, 2)) * 1.2 + 0.2
    chosen_GB = permutations.draw_permutations(9, 11, 80, seed=3).weights_GB
    pooled, labels = np.concatenate([x, y]), np.concatenate([labels_x, labels_y])
    names = np.concatenate([np.unique(labels_x), np.unique(labels_y)])
    formula = brute.estimators[estimator]
    values = []
    for b in range(80):
        of_x = np.isin(labels, names[chosen_GB[:, b] == 1])
        values.append(formula(pooled[of_x], pooled[~of_x], 1.5))
    at_least = int((np.array(values) >= formula(x, y, 1.5) - 1e-13).sum())
    shift = brute.compare(
        x,
        y,
        groups_x=labels_x,
        groups_y=labels_y,
        pairing="independent",
        estimator=estimator,
        permutations=80,
        seed=3,
        tile_rows=8,
    ).raw
    assert shift.p_value.value == (1 + at_least) / 81


def test_permutations_depend_on_seed_and_groups_alone():
    long, short = permutations.draw_swaps(70, 500, seed=9), permutations.draw_swaps(70, 30, seed=9)
    np.testing.assert_array_equal(long.weights_GB[:, :30], short.weights_GB)
    assert (permutations.draw_swaps(70, 30, seed=10).weights_GB != short.weights_GB).any()
    assert set(np.unique(long.weights_GB)) == {-1, 1}
    assert abs(long.weights_GB.mean()) < 0.03
    long, short = permutations.draw_permutations(5, 8, 400, seed=9), permutations.draw_permutations(5, 8, 50, seed=9)
    np.testing.assert_array_equal(long.weights_GB[:, :50], short.weights_GB)
    assert (long.weights_GB.sum(axis=0) == 5).all()
    np.testing.assert_allclose(long.weights_GB.mean(axis=1), 5 / 13, atol=0.1)


def test_generator_is_pinned():
    """A change of these bits would change every published p-value."""
    assert permutations.draw_swaps(13, 3, seed=1).weights_GB.T.tolist() == PINNED_SWAPS
    assert permutations.draw_permutations(2, 4, 3, seed=1).weights_GB.T.tolist() == PINNED_PERMUTATIONS


def test_the_drawing_of_permutations_can_be_stopped():
    """Drawing takes several threads a few steps here; checking the context changes nothing unless it raises."""
    calls = []
    drawn = permutations.draw_permutations(3_000, 5_000, 400, 1, WorkContext(is_cancelled=lambda: calls.append(None)))
    assert calls
    assert np.array_equal(drawn.weights_GB[:, :7], permutations.draw_permutations(3_000, 5_000, 7, 1).weights_GB)

    def stop():
        raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"):
        permutations.draw_permutations(3_000, 5_000, 400, 1, WorkContext(is_cancelled=stop))


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_results_do_not_depend_on_the_tile(brute, rng, grouped, pairing):
    labels = grouped(rng, 37, 15)
    x, y = rng.normal(size=(37, 6)), rng.normal(size=(37, 6)) + 0.2
    other = labels if pairing == "paired" else [f"other-{label}" for label in labels]
    shifts = [
        brute.compare(x, y, pairing=pairing, groups_x=labels, groups_y=other, permutations=150, tile_rows=rows).raw
        for rows in (2, 5, 16, 37, 64)
    ]
    for shift in shifts[1:]:
        assert shift.p_value == shifts[0].p_value
        assert shift.mmd2.value == pytest.approx(shifts[0].mmd2.value, abs=1e-14)
        assert shift.mmd2.interval.lower == pytest.approx(shifts[0].mmd2.interval.lower, abs=1e-13)


def test_results_do_not_depend_on_the_order_of_cases(brute, rng, grouped):
    labels = grouped(rng, 37, 15)
    x, y = rng.normal(size=(37, 6)), rng.normal(size=(37, 6)) + 0.2
    order = rng.permutation(37)
    first = brute.compare(x, y, groups_x=labels, groups_y=labels, permutations=150).raw
    second = brute.compare(x[order], y[order], groups_x=labels[order], groups_y=labels[order], permutations=150).raw
    assert second.p_value == first.p_value
    assert second.mmd2.value == pytest.approx(first.mmd2.value, abs=1e-14)
    assert second.mmd2.interval.upper == pytest.approx(first.mmd2.interval.upper, abs=1e-13)


def test_paired_jackknife_equals_explicit_recomputation(brute, rng, grouped, monkeypatch):
    monkeypatch.setattr(uncertainty, "LARGEST_BIAS", np.inf)
    labels = grouped(rng, 26, 10)
    x = rng.normal(size=(26, 3))
    y = x + 0.5 * rng.normal(size=(26, 3)) + 1.0
    formula = brute.estimators["unbiased_paired"]
    left_out = np.array([formula(x[labels != g], y[labels != g], 1.5) for g in np.unique(labels)])
    se = np.sqrt(9 / 10 * ((left_out - left_out.mean()) ** 2).sum())
    half = stats.t.ppf(0.95, 9) * se
    shift = brute.compare(x, y, groups_x=labels, groups_y=labels, interval_level=0.9, tile_rows=6, permutations=50).raw
    interval = shift.mmd2.interval
    assert interval.upper - shift.mmd2.value == pytest.approx(half, rel=1e-10)
    assert shift.mmd2.value - interval.lower == pytest.approx(half, rel=1e-10)
    assert (interval.level, interval.method) == (0.9, "delete-one-group jackknife")
    assert not interval.degenerate


def test_independent_jackknife_equals_explicit_recomputation(brute, rng, grouped, monkeypatch):
    monkeypatch.setattr(uncertainty, "LARGEST_BIAS", np.inf)
    labels_x, labels_y = grouped(rng, 21, 8), grouped(rng, 28, 12, prefix="h")
    x, y = rng.normal(size=(21, 3)), rng.normal(size=(28, 3)) + 0.8
    formula = brute.estimators["unbiased_independent"]
    without_x = np.array([formula(x[labels_x != g], y, 1.5) for g in np.unique(labels_x)])
    without_y = np.array([formula(x, y[labels_y != g], 1.5) for g in np.unique(labels_y)])
    variance = (
        7 / 8 * ((without_x - without_x.mean()) ** 2).sum() + 11 / 12 * ((without_y - without_y.mean()) ** 2).sum()
    )
    half = stats.t.ppf(0.975, 7) * np.sqrt(variance)
    shift = brute.compare(x, y, groups_x=labels_x, groups_y=labels_y, pairing="independent", tile_rows=5).raw
    assert shift.mmd2.interval.upper - shift.mmd2.value == pytest.approx(half, rel=1e-10)


@pytest.mark.parametrize("estimator", ["unbiased_paired", "random_fourier"])
def test_interval_is_flagged_where_the_test_does_not_reject(brute, rng, estimator):
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    shift = brute.compare(x, y, permutations=300, estimator=estimator).raw
    assert shift.p_value.value > 0.05
    assert shift.mmd2.interval.degenerate
    untested = brute.compare(x, y, permutations=0, estimator=estimator).raw
    assert untested.p_value.value is None
    assert not untested.mmd2.interval.degenerate, "no test was made, so nothing says that it is degenerate"


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_an_interval_of_rounding_errors_alone_is_flagged(brute, pairing):
    x, y = np.full((20, 4), 1.0), np.full((20, 4), 2.0)
    interval = brute.compare(x, y, pairing=pairing, permutations=300).raw.mmd2.interval
    assert interval.upper - interval.lower < 1e-12
    assert interval.degenerate


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_a_biased_estimate_has_a_test_and_no_interval(brute, rng, pairing):
    x, y = rng.normal(size=(25, 6)), rng.normal(size=(25, 6)) + 0.5
    shift = brute.compare(x, y, pairing=pairing, estimator="biased", permutations=99).raw
    assert shift.mmd2.value == pytest.approx(brute.estimators["biased"](x, y, 1.5), abs=1e-14)
    assert shift.mmd2.interval is None
    assert "use an unbiased estimator" in shift.mmd2.absent_reason
    assert shift.p_value.value is not None
    assert brute.compare(x, y, pairing=pairing).raw.mmd2.interval is not None


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_an_interval_is_withheld_where_rows_of_a_group_bias_the_estimate(brute, rng, pairing):
    """Eight copies of each row: pairs of copies stay in the mean, and are no independent pairs."""
    x, y = (np.repeat(rng.normal(size=(12, 20)), 8, axis=0) + offset for offset in (0.0, 0.3))
    labels = np.repeat([f"g{i:02d}" for i in range(12)], 8)
    groups = {"groups_x": labels, "groups_y": labels if pairing == "paired" else [f"h{one}" for one in labels]}
    shift = brute.compare(x, y, pairing=pairing, fixed_sigma=6.0, permutations=99, **groups).raw
    other = labels[:, None] != labels[None]
    within = sum(brute.gram(one, one, 6.0)[other].mean() for one in (x, y))
    cross = brute.gram(x, y, 6.0)
    between = within - 2.0 * (cross[other].mean() if pairing == "paired" else cross.mean())
    assert f"bias it by {shift.mmd2.value - between:.2g}," in shift.mmd2.absent_reason
    assert shift.mmd2.interval is None
    one_each = brute.compare(x[::8], y[::8], pairing=pairing, fixed_sigma=6.0).raw
    assert one_each.mmd2.interval is not None
    assert one_each.mmd2.value == pytest.approx(between, rel=1e-10)


def test_too_few_groups_give_reasons(brute, rng):
    x, y = rng.normal(size=(21, 3)), rng.normal(size=(21, 3))
    labels = np.repeat([f"g{i}" for i in range(7)], 3)
    shift = brute.compare(x, y, groups_x=labels, groups_y=labels, permutations=100).raw
    assert shift.mmd2.value is not None
    assert shift.mmd2.interval is None
    assert "7 groups are too few" in shift.mmd2.absent_reason
    assert shift.p_value.value is None
    assert "7 groups are too few" in shift.p_value.absent_reason
    assert shift.p_value_max_t.value is None
    few = brute.compare(x[:3], y[:4], pairing="independent", permutations=100).raw
    assert "7 groups" in few.p_value.absent_reason
    assert "too few for an interval" in few.mmd2.absent_reason
    enough = brute.compare(x[:4], y[:4], pairing="independent", permutations=100).raw
    assert enough.p_value.value is not None
    assert enough.mmd2.interval is None
    one = brute.compare(x, y[:1].repeat(2, 0), pairing="independent", groups_y=["a", "a"], permutations=100).raw
    assert "one group" in one.p_value.absent_reason


def test_no_test_is_made_unasked(brute, rng):
    shift = brute.compare(rng.normal(size=(20, 3)), rng.normal(size=(20, 3))).raw
    assert shift.p_value.value is None
    assert "no test was requested" in shift.p_value.absent_reason
    assert shift.permutations == 0


def test_ties_within_the_bound_count():
    some = permutations.Permutations(np.zeros((1, 4), np.int8), 4, False)
    values = np.array([1.0, 1.0 - 1e-12, 0.5, 2.0])
    assert p_value(1.0, values, 1e-11, some).value == 4 / 5
    assert p_value(1.0, values, 0.0, some).value == 3 / 5


def _layers(rng, n):
    x = {name: rng.normal(size=(n, 3)) for name in ("a", "b", "c")}
    y = {name: x[name] + 0.6 * rng.normal(size=(n, 3)) for name in x}
    y["b"] = y["b"] + 0.9
    return x, y


def test_max_t_equals_brute_force_over_shared_swaps(brute, rng):
    x, y = _layers(rng, 9)
    options = make_options("paired", fixed_sigma=1.5, permutations=10, primary_layer="c")
    result = compare(Sample("x", x), Sample("y", y), None, options, ComputeConfig(tile_shape=(4, 7)))
    assert [one.layer for one in result.layers] == ["c", "a", "b"]
    formula, labels = brute.estimators["unbiased_paired"], np.arange(9)
    table = np.array(
        [
            [
                formula(*swapped(x[k], y[k], labels, labels[np.array(bits, bool)]), 1.5)
                for bits in product((0, 1), repeat=9)
            ]
            for k in ("c", "a", "b")
        ]
    )
    scaled = (table - table.mean(1, keepdims=True)) / table.std(1, keepdims=True)
    largest = scaled.max(axis=0)
    for row, one in enumerate(result.layers):
        expected = np.mean(largest >= scaled[row, 0] - 1e-9)
        assert one.raw.p_value_max_t.value == pytest.approx(expected, abs=1e-12)
        assert one.raw.p_value_max_t.value >= one.raw.p_value.value
    assert result.layers[2].raw.p_value.value < 0.05


def test_max_t_of_an_unchanged_layer_is_one_and_does_not_disturb_the_others(rng):
    x, y = _layers(rng, 20)
    y["a"] = x["a"].copy()
    options = make_options("paired", fixed_sigma=1.5, permutations=400)
    result = compare(Sample("x", x), Sample("y", y), None, options, ComputeConfig())
    alone = compare(
        Sample("x", {k: x[k] for k in "bc"}), Sample("y", {k: y[k] for k in "bc"}), None, options, ComputeConfig()
    )
    by_name = {one.layer: one.raw for one in result.layers}
    assert by_name["a"].p_value.value == by_name["a"].p_value_max_t.value == 1.0
    for one in alone.layers:
        assert by_name[one.layer].p_value_max_t == one.raw.p_value_max_t


def test_one_layer_needs_no_adjustment(brute, rng):
    shift = brute.compare(rng.normal(size=(20, 3)), rng.normal(size=(20, 3)) + 0.3, permutations=300).raw
    assert shift.p_value == shift.p_value_max_t


def test_max_t_counts_the_observed_statistics_once():
    some = permutations.Permutations(np.zeros((1, 3), np.int8), 3, False)
    got = max_t_p_values(np.array([5.0, 0.0]), np.array([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]]), np.zeros(2), some)
    assert [one.value for one in got] == [1 / 4, 1.0]


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_a_shift_is_found(brute, pairing):
    rng, rejected = np.random.default_rng(13), 0
    for seed in range(50):
        x = rng.normal(size=(20, 3))
        y = (x if pairing == "paired" else 0) + rng.normal(size=(20, 3)) + 0.9
        rejected += brute.compare(x, y, pairing=pairing, permutations=199, seed=seed).raw.p_value.value <= 0.05
    assert rejected >= 45
