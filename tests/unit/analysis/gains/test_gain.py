"""Gain against closed forms."""

import numpy as np
import pytest
from scipy import optimize, stats

from vfmalign.analysis.checks.verdict import decide_verdict
from vfmalign.analysis.gains.crossed_gain import estimate_crossed_gain
from vfmalign.analysis.gains.gain import estimate_gain
from vfmalign.analysis.gains.paired_scores import CrossedScores, PairedScores, pair_scores
from vfmalign.core.domain.errors import CaseOrderMismatch, InvalidInput
from vfmalign.core.domain.jobs import CaseScore, MetricSpec

DICE = MetricSpec(name="dice", unit="", higher_is_better=True, floor=0.05, smallest_difference=0.01)
ERROR = MetricSpec(name="error", unit="mm", higher_is_better=False, floor=0.05)


AUROC = MetricSpec(name="auroc", unit="", higher_is_better=True, floor=0.05, of_set="auroc")


def pairs(score, baseline, groups=None, positive=None) -> PairedScores:
    groups = groups or [f"p{i:03d}" for i in range(len(score))]
    truth = np.zeros(len(score), bool) if positive is None else np.asarray(positive, bool)
    return PairedScores(np.asarray(score, float), np.asarray(baseline, float), tuple(groups), 0, truth)


def case(name, value, group=None):
    return CaseScore(case=name, group=group or name, values={"dice": value})


def test_value_is_the_papers_formula():
    result = estimate_gain(pairs([0.6] * 10, [0.5] * 10), DICE, seed=1)
    assert result.relative_percent.value == pytest.approx(20.0)
    assert result.absolute.value == pytest.approx(0.1)


@pytest.mark.parametrize("metric", [DICE, AUROC])
@pytest.mark.parametrize("change", [0.0, 0.1])
def test_patients_without_variation_have_no_interval(metric, change):
    """An interval [0, 0] would promise that no other patient differs."""
    positive = np.arange(24) < 12
    baseline = np.where(positive, 0.8, 0.1)
    result = estimate_gain(pairs(baseline + change, baseline, positive=positive), metric, seed=1)
    for estimate in (result.absolute, result.relative_percent):
        assert estimate.value is not None
        assert estimate.interval is None
        assert "the same for all test patients" in estimate.absent_reason
    assert result.equivalence_interval.degenerate == (metric is DICE)
    verdict = decide_verdict(result, metric.model_copy(update={"smallest_difference": 0.2}), held_out=True, seeds=3)
    assert verdict.label == "inconclusive"
    assert "the same for all test patients" in verdict.reason


def test_lower_is_better_turns_the_sign():
    result = estimate_gain(pairs([4.0] * 10, [5.0] * 10), ERROR, seed=1)
    assert result.relative_percent.value == pytest.approx(20.0)
    assert result.absolute.value == pytest.approx(1.0)


def test_interval_agrees_with_students_t_for_a_constant_baseline():
    """With a constant baseline RPG is linear in the scores, and those of this sample are hardly skewed."""
    rng = np.random.default_rng(3)
    score = rng.normal(0.6, 0.1, 400)
    result = estimate_gain(pairs(score, np.full(400, 0.5)), DICE, seed=1)
    rpg = 100 * (score - 0.5) / 0.5
    lower, upper = stats.t.interval(0.95, 399, rpg.mean(), stats.sem(rpg))
    tolerance = 0.02 * (upper - lower)
    assert result.relative_percent.interval.lower == pytest.approx(lower, abs=tolerance)
    assert result.relative_percent.interval.upper == pytest.approx(upper, abs=tolerance)


def test_small_samples_are_widened_as_students_t():
    rng = np.random.default_rng(5)
    score = rng.normal(0.6, 0.1, 9)
    result = estimate_gain(pairs(score, np.full(9, 0.5)), DICE, seed=1)
    width = result.absolute.interval.upper - result.absolute.interval.lower
    t_width = 2 * stats.t.ppf(0.975, 8) * stats.sem(score)
    normal_width = 2 * stats.norm.ppf(0.975) * np.std(score) / np.sqrt(9)
    assert width == pytest.approx(t_width, rel=0.15)
    assert width > 1.15 * normal_width


def test_pairing_cancels_what_both_networks_share():
    difficulty = np.linspace(0.2, 0.8, 20)
    change = np.where(np.arange(20) % 2, 0.11, 0.09)
    result = estimate_gain(pairs(difficulty + change, difficulty), DICE, seed=1)
    half = stats.t.ppf(0.975, 19) * stats.sem(change)
    assert result.absolute.interval.lower == pytest.approx(0.1 - half)
    assert result.absolute.interval.upper == pytest.approx(0.1 + half)


def test_patients_resample_whole():
    """Two identical examinations per patient hold no more information than one."""
    rng = np.random.default_rng(7)
    score, base = rng.normal(0.6, 0.1, 12), rng.normal(0.5, 0.1, 12)
    names = [f"p{i:02d}" for i in range(12)]
    once = estimate_gain(pairs(score, base, names), DICE, seed=1)
    twice = estimate_gain(pairs(np.tile(score, 2), np.tile(base, 2), names * 2), DICE, seed=1)
    assert twice.cases == 24
    assert twice.groups == 12
    assert twice.relative_percent.interval.lower == pytest.approx(once.relative_percent.interval.lower)
    assert twice.relative_percent.interval.upper == pytest.approx(once.relative_percent.interval.upper)


def test_seed_fixes_the_interval_and_row_order_does_not_matter():
    rng = np.random.default_rng(11)
    score, base = rng.normal(0.6, 0.1, 40), rng.normal(0.5, 0.1, 40)
    names, positive = [f"p{i:02}" for i in range(40)], np.arange(40) < 20
    one = estimate_gain(pairs(score, base, names, positive), AUROC, seed=1)
    turned = estimate_gain(pairs(score[::-1], base[::-1], names[::-1], positive[::-1]), AUROC, seed=1)
    other = estimate_gain(pairs(score, base, names, positive), AUROC, seed=2)
    assert one.relative_percent.interval == turned.relative_percent.interval
    assert one.relative_percent.interval != other.relative_percent.interval


def test_under_the_floor_the_ratio_is_absent_and_the_difference_stays():
    result = estimate_gain(pairs([0.4, 0.6] * 5, [0.01] * 10), DICE, seed=1)
    assert result.relative_percent.value is None
    assert "floor" in result.relative_percent.absent_reason
    assert result.absolute.value == pytest.approx(0.49)
    assert result.absolute.interval is not None


@pytest.mark.parametrize("seed", range(5))
def test_a_baseline_whose_interval_reaches_the_floor_leaves_the_interval_absent(seed):
    """The baseline's interval is Student's: 0.1 − 2.262 · 0.0667 = −0.0508."""
    baseline = [0.0] * 8 + [0.5] * 2
    result = estimate_gain(pairs([0.5] * 10, baseline), DICE, seed=seed)
    assert result.relative_percent.value is not None
    assert result.relative_percent.interval is None
    assert "begins at -0.05081, under the floor of 0.05" in result.relative_percent.absent_reason
    assert result.absolute.interval is not None


LOW_BASELINE = [0.13, 0.26, 0.06, 0.08, 0.07, 0.13, 0.0, 0.34, 0.05, 0.13, 0.03, 0.18, 0.03, 0.21, 0.18, 0.03]
BETTER_SCORE = [0.21, 0.31, 0.27, 0.12, 0.1, 0.38, 0.16, 0.43, 0.13, 0.14, 0.24, 0.32, 0.23, 0.43, 0.26, 0.25]


def test_the_seed_of_the_resampling_does_not_change_a_mean():
    """One of 2,000 resamples below the floor once removed the verdict for 13 of these 30 seeds."""
    gains = [estimate_gain(pairs(BETTER_SCORE * 2, LOW_BASELINE * 2), DICE, seed=seed) for seed in range(30)]
    assert {decide_verdict(gain, DICE, held_out=True, seeds=3).label for gain in gains} == {"gain"}
    assert len({gain.relative_percent.interval for gain in gains}) == 1


def test_a_long_tail_of_losses_moves_the_interval_towards_it():
    """Against Hall's transformation, inverted by bisection: ((1 + λT/3)³ − 1)/λ + λ/6 is Student's quantile."""
    change = np.array([0.02] * 18 + [-0.15, -0.1])
    interval = estimate_gain(pairs(0.6 + change, np.full(20, 0.6)), DICE, seed=1).absolute.interval
    skewness = ((change - change.mean()) ** 3).sum() / 20**3 / stats.sem(change) ** 3
    ends = [
        optimize.brentq(lambda t, q=q: ((1 + skewness * t / 3) ** 3 - 1) / skewness + skewness / 6 - q, -20, 20)
        for q in stats.t.ppf([0.975, 0.025], 19)
    ]
    assert skewness < -0.4
    assert (interval.lower, interval.upper) == pytest.approx(tuple(change.mean() - t * stats.sem(change) for t in ends))
    mirrored = estimate_gain(pairs(0.6 + change, np.full(20, 0.6)), ERROR, seed=1).absolute.interval
    assert (mirrored.lower, mirrored.upper) == pytest.approx((-interval.upper, -interval.lower))


def test_the_interval_of_the_relative_gain_agrees_with_fiellers():
    """100 · (x/y − 1) over paired means: Fieller's bounds solve (x − ρy)² = t² · var(x − ρy)."""
    rng = np.random.default_rng(13)
    base = rng.normal(0.3, 0.1, 200)
    score = base + rng.normal(0.05, 0.1, 200)
    interval = estimate_gain(pairs(score, base), DICE, seed=1, resamples=10_000).relative_percent.interval
    x, y, t = score.mean(), base.mean(), stats.t.ppf(0.975, 199)
    (xx, xy), (_, yy) = np.cov(score, base) / 200
    bounds = np.roots([y * y - t * t * yy, -2 * (x * y - t * t * xy), x * x - t * t * xx])
    lower, upper = sorted(100 * (bounds - 1))
    assert (interval.lower, interval.upper) == pytest.approx((lower, upper), abs=0.05 * (upper - lower))


def test_the_equivalence_interval_has_the_level_of_two_one_sided_tests():
    rng = np.random.default_rng(17)
    difference = rng.normal(0.0, 0.1, 400)
    result = estimate_gain(pairs(0.5 + difference, np.full(400, 0.5)), DICE, seed=1, resamples=10_000)
    narrow = result.equivalence_interval
    lower, upper = stats.t.interval(0.90, 399, difference.mean(), stats.sem(difference))
    assert narrow.level == 0.9
    assert (narrow.lower, narrow.upper) == pytest.approx((lower, upper), abs=0.03 * (upper - lower))
    assert result.absolute.interval.lower < narrow.lower < narrow.upper < result.absolute.interval.upper


@pytest.mark.parametrize(("level", "narrow"), [(0.99, 0.98), (0.8, 0.6), (0.5, None), (0.3, None)])
def test_the_equivalence_interval_follows_the_requested_level(level, narrow):
    rng = np.random.default_rng(19)
    result = estimate_gain(pairs(rng.normal(0.6, 0.1, 12), rng.normal(0.5, 0.1, 12)), DICE, seed=1, level=level)
    assert result.absolute.interval.level == level
    assert (result.equivalence_interval and result.equivalence_interval.level) == narrow


def test_below_eight_patients_there_is_no_interval():
    result = estimate_gain(pairs([0.6] * 14, [0.5] * 14, [f"p{i // 2}" for i in range(14)]), DICE, seed=1)
    assert result.groups == 7
    assert result.relative_percent.value == pytest.approx(20.0)
    assert result.relative_percent.interval is None
    assert result.equivalence_interval is None
    assert "8" in result.relative_percent.absent_reason


def test_undefined_cases_are_left_out_of_both_and_counted():
    scores = [case(f"c{i}", None if i == 0 else 0.6) for i in range(10)]
    baseline = [case(f"c{i}", None if i == 1 else 0.5) for i in range(10)]
    paired = pair_scores(scores, baseline, DICE)
    assert paired.left_out == 2
    assert estimate_gain(paired, DICE, seed=1).cases == 8


def test_no_defined_case_gives_no_number():
    paired = pair_scores([case("a", None)], [case("a", 0.5)], DICE)
    result = estimate_gain(paired, DICE, seed=1)
    assert result.relative_percent.value is None
    assert result.score is None


def test_other_case_order_and_missing_metric_are_refused():
    a, b = case("a", 0.1), case("b", 0.2)
    with pytest.raises(CaseOrderMismatch):
        pair_scores([a, b], [b, a], DICE)
    with pytest.raises(InvalidInput, match="hausdorff"):
        pair_scores([a], [a], DICE.model_copy(update={"name": "hausdorff"}))


# --- numbers of a set -------------------------------------------------------------------------------------------------


def separated(n, shift, seed):
    """Scores of n cases, half of them positive and higher by `shift` standard deviations; AUROC is Φ(shift / √2)."""
    positive = np.arange(n) % 2 == 0
    return np.random.default_rng(seed).normal(shift * positive, 1.0), positive


def test_auroc_is_formed_of_the_set_and_compared_there():
    good, positive = separated(40, 2.0, 1)
    result = estimate_gain(pairs(good, -good, positive=positive), AUROC, seed=1)
    assert result.score == pytest.approx(1 - result.baseline)
    assert result.absolute.value == pytest.approx(result.score - result.baseline)
    assert result.relative_percent.value == pytest.approx(100 * (result.score - result.baseline) / result.baseline)
    assert result.absolute.interval.lower < result.absolute.value < result.absolute.interval.upper
    assert "of each class" in result.absolute.interval.method


def test_the_interval_of_auroc_agrees_with_its_known_error():
    """Against Hanley and McNeil's (Radiology 143, 1982) standard error, over a baseline that always says the same.

    Tolerance: theirs supposes exponential scores; the two agree within some per cent for normal ones.
    """
    score, positive = separated(400, 1.2, 2)
    result = estimate_gain(pairs(score, np.full(400, 0.5), positive=positive), AUROC, seed=1)
    a = result.score
    assert result.baseline == 0.5
    assert a == pytest.approx(stats.norm.cdf(1.2 / np.sqrt(2)), abs=0.05)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = np.sqrt((a * (1 - a) + 199 * (q1 - a * a) + 199 * (q2 - a * a)) / 200**2)
    width = result.absolute.interval.upper - result.absolute.interval.lower
    assert width == pytest.approx(2 * 1.96 * error, rel=0.12)


def test_no_resample_lacks_a_class_and_patients_stay_whole():
    """Ten negatives of sixty: patients of either class are drawn separately."""
    score, _ = separated(60, 1.0, 3)
    positive = np.arange(60) >= 10
    once = estimate_gain(pairs(score, -score, positive=positive), AUROC, seed=1)
    assert once.absolute.interval is not None
    names = [f"p{i:03d}" for i in range(60)]
    twice = estimate_gain(pairs(np.tile(score, 2), -np.tile(score, 2), names * 2, np.tile(positive, 2)), AUROC, seed=1)
    assert twice.groups == 60
    assert twice.absolute.interval.lower == pytest.approx(once.absolute.interval.lower)


def test_few_of_one_class_have_no_interval_and_none_no_number():
    score, _ = separated(20, 1.0, 4)
    few = estimate_gain(pairs(score, -score, positive=np.arange(20) >= 9), AUROC, seed=1)
    assert few.absolute.value is not None
    assert few.absolute.interval is None
    assert "at least 10 of each" in few.absolute.absent_reason
    none = estimate_gain(pairs(score, -score, positive=np.ones(20, bool)), AUROC, seed=1)
    assert none.score is None
    assert "needs both classes" in none.relative_percent.absent_reason


# --- grades and numbers -----------------------------------------------------------------------------------------------

KAPPA = MetricSpec(name="quadratic_kappa", unit="", higher_is_better=True, floor=0.05, of_set="quadratic_kappa")


def graded(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True grades of patients, close predictions and random ones."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, n).astype(float)
    return truth, np.clip(truth + rng.integers(-1, 2, n), 0, 3), rng.integers(0, 4, n).astype(float)


@pytest.mark.parametrize("patients", [7, 40])
def test_a_difference_of_kappas_is_bootstrapped_over_all_patients(patients):
    truth, close, random = graded(patients)
    result = estimate_gain(
        PairedScores(close, random, tuple(f"p{i:03d}" for i in range(patients)), 0, truth), KAPPA, seed=1
    )
    assert result.score - result.baseline == pytest.approx(result.absolute.value)
    assert result.smaller_class == 0, "no patient is of a class"
    if patients < 8:
        assert (result.absolute.interval, result.absolute.absent_reason) == (
            None,
            "7 patients: an interval needs at least 8",
        )
        return
    interval = result.absolute.interval
    assert interval.method == "case-paired bootstrap over patients, expanded percentile"
    assert 0 < interval.lower < result.absolute.value < interval.upper < 2
    jackknife = estimate_crossed_gain(
        CrossedScores(np.stack([close] * 3), np.stack([random] * 3), tuple(f"p{i:03d}" for i in range(40)), 0, truth),
        KAPPA,
        level=0.95,
    )
    width = jackknife.absolute.interval.upper - jackknife.absolute.interval.lower
    assert width == pytest.approx(interval.upper - interval.lower, rel=0.25)
    assert not jackknife.equivalence_interval.degenerate


def test_equal_grades_show_no_equivalence():
    truth, close, _ = graded(40)
    result = estimate_gain(PairedScores(close, close, tuple(f"p{i:03d}" for i in range(40)), 0, truth), KAPPA, seed=1)
    assert result.absolute.interval is None
    assert result.equivalence_interval.degenerate


@pytest.mark.parametrize(("of_set", "title"), [("r2", "R²"), ("pearson", "Pearson's r")])
def test_metrics_for_display_have_a_value_and_a_reason_for_no_interval(of_set, title):
    metric = MetricSpec(name=of_set, unit="", higher_is_better=True, floor=0.05, of_set=of_set)
    truth, close, random = graded(40)
    groups = tuple(f"p{i:03d}" for i in range(40))
    result = estimate_gain(PairedScores(close, random, groups, 0, truth), metric, seed=1)
    assert result.absolute.value > 0
    assert result.absolute.interval is None
    assert result.absolute.absent_reason.startswith(f"{title} is shown beside the mean absolute error")
    constant = estimate_gain(PairedScores(close, np.full(40, 0.1), groups, 0, truth), metric, seed=1)
    if of_set == "pearson":
        assert constant.absolute.value is None
        assert "not defined if all true or all predicted numbers are equal" in constant.absolute.absent_reason
