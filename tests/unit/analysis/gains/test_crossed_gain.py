"""Gain over a baseline where both networks were trained with several seeds."""

import numpy as np
import pytest

from vfmalign.analysis.gains.crossed import SKEWED_METHOD, analyse_crossed
from vfmalign.analysis.gains.crossed_gain import estimate_crossed_gain
from vfmalign.analysis.gains.paired_scores import pair_scores, pair_seeds
from vfmalign.core.domain.errors import CaseOrderMismatch
from vfmalign.core.domain.jobs import CaseScore, MetricSpec

DICE = MetricSpec(name="dice", unit="", higher_is_better=True, floor=0.05)
AUROC = MetricSpec(name="auroc", unit="", higher_is_better=True, floor=0.05, of_set="auroc")


def scores(values, name="dice", positives=None, groups=None):
    """Scores of one training: one case per patient unless groups are given."""
    return [
        CaseScore(
            case=f"case-{i:02}", group=groups[i] if groups else f"patient-{i:02}", values={name: value},
            positive=None if positives is None else bool(positives[i]),
        )
        for i, value in enumerate(values)
    ]  # fmt: skip


def draw(mean, rng, patients=12, seeds=3):
    values = mean + rng.normal(0, 0.02, (seeds, 1)) + rng.normal(0, 0.01, (seeds, patients))
    return values + rng.normal(0, 0.1, patients)


def estimate(network, baseline, metric=DICE, level=0.95, *, another_draw=False, **fields):
    every = [[scores(row, metric.name, **fields) for row in rows] for rows in (network, baseline)]
    pairs = pair_seeds(*every, metric)
    return estimate_crossed_gain(pairs, metric, level=level, another_draw=another_draw)


def test_the_difference_has_the_crossed_interval_of_the_paired_networks():
    rng = np.random.default_rng(1)
    network, baseline = draw(0.6, rng), draw(0.5, rng)
    gain = estimate(network, baseline)
    expected = analyse_crossed([network, -baseline], correct_skewness=True)
    assert gain.score == pytest.approx(network.mean())
    assert gain.baseline == pytest.approx(baseline.mean())
    assert gain.absolute.value == pytest.approx(network.mean() - baseline.mean())
    wide, narrow = (expected.get_interval(gain.absolute.value, level) for level in (0.95, 0.9))
    assert (gain.absolute.interval.lower, gain.absolute.interval.upper) == pytest.approx((wide.lower, wide.upper))
    assert gain.absolute.interval.method == SKEWED_METHOD
    assert (gain.equivalence_interval.lower, gain.equivalence_interval.upper) == pytest.approx(
        (narrow.lower, narrow.upper)
    )
    assert gain.equivalence_interval.level == pytest.approx(0.9)
    variance = gain.variance
    assert (variance.seeds, gain.groups, gain.cases) == (3, 12, 12)
    assert variance.difference.residual == pytest.approx(variance.network.residual + variance.baseline.residual)
    assert variance.standard_error == pytest.approx(expected.standard_error)
    assert variance.degrees_of_freedom == pytest.approx(expected.degrees)


def test_more_seeds_that_scatter_widen_the_interval_of_patients_alone():
    rng = np.random.default_rng(2)
    baseline = draw(0.5, rng)
    steady = baseline + 0.1 + rng.normal(0, 0.01, baseline.shape)
    scattered = steady + np.array([[-0.1], [0.0], [0.1]])

    def width(gain):
        return gain.absolute.interval.upper - gain.absolute.interval.lower

    first, second = estimate(steady, baseline), estimate(scattered, baseline)
    assert first.absolute.value == pytest.approx(second.absolute.value)
    assert width(second) > 2 * width(first)
    assert second.variance.network.seed > first.variance.network.seed


def test_another_draw_widens_every_interval_and_is_stated():
    rng = np.random.default_rng(12)
    network, random = draw(0.6, rng), draw(0.5, rng, seeds=6)
    narrow, wide = (estimate(network, random, another_draw=another) for another in (False, True))
    assert (wide.variance.seeds, wide.variance.baseline_seeds) == (3, 6)
    assert wide.baseline == pytest.approx(random.mean())
    assert wide.absolute.value == narrow.absolute.value
    assert wide.variance.another_draw == pytest.approx(np.var(random.mean(axis=1), ddof=1))
    added = wide.variance.standard_error**2 - narrow.variance.standard_error**2
    assert added == pytest.approx(wide.variance.another_draw)
    assert narrow.variance.another_draw == 0.0
    expected = analyse_crossed([network, -random], correct_skewness=True, another_draw=True)
    interval = expected.get_interval(wide.absolute.value, 0.95)
    assert (wide.absolute.interval.lower, wide.absolute.interval.upper) == pytest.approx(
        (interval.lower, interval.upper)
    )
    for inner, outer in (
        (narrow.equivalence_interval, wide.equivalence_interval),
        (narrow.relative_percent.interval, wide.relative_percent.interval),
    ):
        assert outer.lower < inner.lower
        assert inner.upper < outer.upper


def test_another_draw_widens_the_equivalence_interval_of_two_classes():
    rng = np.random.default_rng(13)
    positives = np.arange(40) < 15
    seeds = [np.array([[-0.2], [0.0], [0.2]]) * positives, 0.0]  # the random weights differ between seeds
    random, network = (0.5 + 0.2 * positives + seed + rng.normal(0, 0.15, (3, 40)) for seed in seeds)
    narrow, wide = (
        estimate(network, random, AUROC, positives=positives, another_draw=another).equivalence_interval
        for another in (False, True)
    )
    assert wide.upper - wide.lower > 1.2 * (narrow.upper - narrow.lower)


def test_the_relative_gain_has_the_interval_of_the_delta_method():
    rng = np.random.default_rng(3)
    network, baseline = draw(0.6, rng), draw(0.5, rng)
    gain = estimate(network, baseline)
    score, base = network.mean(), baseline.mean()
    assert gain.relative_percent.value == pytest.approx(100 * (score - base) / base)
    spread = analyse_crossed([100 * network / base, -100 * score / base**2 * baseline], correct_skewness=True)
    expected = spread.get_interval(gain.relative_percent.value, 0.95)
    assert gain.relative_percent.interval.upper == pytest.approx(expected.upper)


def test_lower_is_better_turns_the_sign_alone():
    rng = np.random.default_rng(4)
    network, baseline = draw(0.6, rng), draw(0.5, rng)
    up = estimate(network, baseline)
    down = estimate(network, baseline, DICE.model_copy(update={"higher_is_better": False}))
    assert down.absolute.value == -up.absolute.value
    assert down.absolute.interval.lower == pytest.approx(-up.absolute.interval.upper)
    assert down.relative_percent.interval.upper == pytest.approx(-up.relative_percent.interval.lower)
    assert down.variance == up.variance


def test_a_case_that_one_seed_leaves_undefined_is_left_out_of_all():
    rng = np.random.default_rng(5)
    network, baseline = draw(0.6, rng), draw(0.5, rng)
    with_gap = [list(row) for row in network]
    with_gap[1][4] = None
    gain = estimate(with_gap, baseline)
    without = estimate(np.delete(network, 4, axis=1), np.delete(baseline, 4, axis=1))
    assert (gain.cases, gain.groups, gain.cases_left_out) == (11, 11, 1)
    assert gain.absolute.value == pytest.approx(without.absolute.value)
    assert gain.absolute.interval.lower == pytest.approx(without.absolute.interval.lower)
    assert gain.variance.difference.residual == pytest.approx(without.variance.difference.residual)


def test_one_seed_and_several_leave_out_the_same_cases():
    rng = np.random.default_rng(5)
    network, baseline = ([list(row) for row in draw(mean, rng, seeds=1)] for mean in (0.6, 0.5))
    network[0][4], baseline[0][7] = None, None
    one = pair_scores(scores(network[0]), scores(baseline[0]), DICE)
    several = pair_seeds([scores(network[0])] * 2, [scores(baseline[0])] * 2, DICE)
    assert (one.groups, one.left_out) == (several.groups, several.left_out)
    assert one.left_out == 2
    np.testing.assert_array_equal(one.score_N, several.score_SN[1])


def test_the_order_of_cases_changes_no_digit():
    rng = np.random.default_rng(6)
    network, baseline = draw(0.6, rng), draw(0.5, rng)
    first = pair_seeds([scores(row) for row in network], [scores(row) for row in baseline], DICE)
    turned = pair_seeds([scores(row)[::-1] for row in network], [scores(row)[::-1] for row in baseline], DICE)
    assert estimate_crossed_gain(first, DICE, level=0.95) == estimate_crossed_gain(turned, DICE, level=0.95)


def test_networks_that_were_scored_on_other_cases_are_refused():
    rows = draw(0.6, np.random.default_rng(0))
    with pytest.raises(CaseOrderMismatch):
        pair_seeds([scores(row) for row in rows], [scores(row)[::-1] for row in rows], DICE)


def test_few_patients_have_no_interval_and_no_components():
    rng = np.random.default_rng(7)
    gain = estimate(draw(0.6, rng, patients=5), draw(0.5, rng, patients=5))
    assert gain.absolute.value is not None
    assert gain.absolute.absent_reason == "5 patients: an interval needs at least 8"
    assert (gain.absolute.interval, gain.relative_percent.interval, gain.variance) == (None, None, None)
    assert gain.relative_percent.absent_reason == gain.absolute.absent_reason


def test_a_baseline_under_the_floor_or_near_it_has_no_relative_interval():
    rng = np.random.default_rng(8)
    below = estimate(draw(0.6, rng), np.abs(draw(0.0, rng)) / 10)
    assert below.relative_percent.value is None
    assert "under the floor" in below.relative_percent.absent_reason
    around = draw(0.0, rng)
    near = estimate(draw(0.6, rng), around - around.mean() + 0.08)
    assert near.relative_percent.value is not None
    assert "the relative gain has no bounds" in near.relative_percent.absent_reason
    assert near.absolute.interval is not None


def test_an_auroc_is_resolved_by_pseudo_values_of_patients():
    rng = np.random.default_rng(9)
    positives = np.arange(40) < 15
    network = 0.5 + 0.3 * positives + rng.normal(0, 0.15, (3, 40))
    baseline = 0.5 + 0.1 * positives + rng.normal(0, 0.15, (3, 40))
    gain = estimate(network, baseline, AUROC, positives=positives)
    ordered = [(row[:15][:, None] > row[15:][None]).mean() for row in network]
    assert gain.score == pytest.approx(np.mean(ordered))
    assert gain.absolute.interval.lower < gain.absolute.value < gain.absolute.interval.upper
    assert gain.variance.degrees_of_freedom > 0


def test_few_patients_of_a_class_have_no_interval():
    rng = np.random.default_rng(10)
    positives = np.arange(12) < 3
    gain = estimate(draw(0.6, rng), draw(0.5, rng), AUROC, positives=positives)
    assert gain.absolute.absent_reason == "3 patients of one class: an interval needs at least 10 of each"
    one_class = estimate(draw(0.6, rng), draw(0.5, rng), AUROC, positives=np.zeros(12, bool))
    assert "of one class" in one_class.absolute.absent_reason
    assert one_class.score is None


def test_a_naive_baseline_without_seeds_contributes_no_variance():
    rng = np.random.default_rng(11)
    network = draw(0.6, rng)
    naive = np.repeat(network.mean(axis=0, keepdims=True) - 0.2, 3, axis=0)
    gain = estimate(network, naive)
    assert gain.variance.baseline.residual == pytest.approx(0, abs=1e-20)
    assert gain.variance.difference.residual == pytest.approx(gain.variance.network.residual)
