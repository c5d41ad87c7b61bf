"""The verdict depends on the two intervals of the difference and the smallest relevant difference only."""

import re

import numpy as np
import pytest

from vfmalign.analysis.checks.verdict import SCRATCH, decide_verdict, explain_precision
from vfmalign.analysis.gains.crossed_gain import estimate_crossed_gain
from vfmalign.analysis.gains.paired_scores import CrossedScores
from vfmalign.client.messages.checks import Gain
from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.client.recipes import TrainingBudget
from vfmalign.core.domain.jobs import MetricSpec

DICE = MetricSpec(name="lesion_dice", unit="", higher_is_better=True, floor=0.05, smallest_difference=0.01)
HD95 = MetricSpec(name="lesion_hd95", unit="mm", higher_is_better=False, floor=0.5, smallest_difference=1.0)


def interval(lower, upper, level):
    return Interval(lower=lower, upper=upper, level=level, method="m")


def gain(wide, narrow=None, *, value=0.013, groups=20, score=0.648, baseline=0.635):
    """A gain whose difference has the given intervals at 95 and at 90 %."""
    return Gain(
        relative_percent=absent("the baseline is under the floor"),
        absolute=Estimate(value=value, interval=interval(*wide, 0.95)),
        equivalence_interval=None if narrow is None else interval(*narrow, 0.90),
        score=score,
        baseline=baseline,
        cases=groups,
        groups=groups,
    )


@pytest.mark.parametrize(
    ("wide", "narrow", "label"),
    [
        ((0.002, 0.030), (0.004, 0.028), "gain"),
        ((-0.030, -0.002), (-0.028, -0.004), "harm"),
        ((-0.012, 0.008), (-0.009, 0.006), "equivalent"),  # 95 % exceeds the bound, 90 % does not
        ((-0.025, 0.050), (-0.020, 0.045), "inconclusive"),
        ((-0.011, 0.013), (-0.008, 0.011), "inconclusive"),
        ((0.001, 0.009), (0.002, 0.008), "equivalent"),  # proven to differ from 0, and proven to be irrelevant
        ((-0.009, -0.001), (-0.008, -0.002), "equivalent"),
        ((0.004, 0.020), (0.012, 0.018), "gain"),
    ],
)
def test_five_labels(wide, narrow, label):
    assert decide_verdict(gain(wide, narrow), DICE, held_out=True, seeds=3).label == label


@pytest.mark.parametrize(
    ("wide", "narrow", "label"),
    [
        ((-0.02, 0.02), (-0.010, 0.009), "inconclusive"),
        ((-0.02, 0.02), (-0.009, 0.010), "inconclusive"),
        ((0.0, 0.03), (0.002, 0.028), "inconclusive"),
        ((-0.03, 0.0), (-0.028, -0.002), "inconclusive"),
        ((0.02, 0.02), (0.02, 0.02), "gain"),
    ],
)
def test_an_end_on_a_bound_is_not_beyond_it(wide, narrow, label):
    assert decide_verdict(gain(wide, narrow), DICE, held_out=True, seeds=3).label == label


def test_smallest_difference_of_the_metric_decides_between_equivalent_and_harm():
    """The rehearsal's loss of 0.05 dB is harm only for those to whom it matters."""
    loss = gain((-0.07, -0.03), (-0.066, -0.034), value=-0.05, score=24.25, baseline=24.30)
    psnr = MetricSpec(name="psnr", unit="dB", higher_is_better=True, floor=1.0, smallest_difference=0.1)
    assert decide_verdict(loss, psnr, held_out=True, seeds=3).label == "equivalent"
    strict = psnr.model_copy(update={"smallest_difference": 0.02})
    assert decide_verdict(loss, strict, held_out=True, seeds=3).label == "harm"


@pytest.mark.parametrize("unknown", [DICE.model_copy(update={"smallest_difference": 0.0}), DICE])
def test_without_bound_or_equivalence_interval_nothing_is_equivalent(unknown):
    narrow = None if unknown is DICE else (0.0, 0.0)
    assert decide_verdict(gain((0.0, 0.0), narrow), unknown, held_out=True, seeds=3).label == "inconclusive"
    assert decide_verdict(gain((0.1, 0.2), narrow and (0.12, 0.18)), unknown, held_out=True, seeds=3).label == "gain"


def test_too_few_patients_no_held_out_case_or_no_interval_is_insufficient():
    proven = ((0.1, 0.2), (0.12, 0.18))
    assert decide_verdict(gain(*proven, groups=7), DICE, held_out=True, seeds=3).label == "insufficient_data"
    assert decide_verdict(gain(*proven), DICE, held_out=False, seeds=3).label == "insufficient_data"
    missing = gain(*proven).model_copy(
        update={
            "absolute": Estimate(value=0.1, absent_reason="3 patients of one class"), "equivalence_interval": None,
        }
    )  # fmt: skip
    verdict = decide_verdict(missing, DICE, held_out=True, seeds=3)
    assert verdict.label == "insufficient_data"
    assert verdict.reason == "3 patients of one class"


def test_an_absent_relative_gain_does_not_matter():
    assert gain((0.1, 0.2), (0.12, 0.18)).relative_percent.value is None
    assert decide_verdict(gain((0.1, 0.2), (0.12, 0.18)), DICE, held_out=True, seeds=3).label == "gain"


def test_the_reason_has_scores_difference_intervals_and_bound():
    assert decide_verdict(gain((-0.025, 0.05), (-0.02, 0.045)), DICE, held_out=True, seeds=3).reason == (
        "test lesion Dice 0.648 against 0.635 of the specialised network: difference +0.013 (95 % interval −0.025 to "
        "+0.050), smallest relevant difference 0.01: the interval includes zero, and the 90 % interval −0.020 to "
        "+0.045 exceeds ±0.01"
    )
    worse = gain((-0.4, 0.5), (-0.3, 0.4), value=0.1, score=4.1, baseline=4.2)
    assert decide_verdict(worse, HD95, held_out=True, seeds=3).reason == (
        "test lesion HD95 4.1 mm against 4.2 mm of the specialised network: difference +0.1 mm (positive is better; "
        "95 % interval −0.4 to +0.5 mm), smallest relevant difference 1 mm: the 90 % interval −0.3 to +0.4 mm lies "
        "within ±1 mm; with 20 test patients, the chance that none of them belongs to a subgroup of one patient in ten "
        "is 12 %, and no interval allows for differences that none of them shows"
    )


@pytest.mark.parametrize(
    ("wide", "narrow"), [((0.1, 0.2), (0.12, 0.18)), ((-0.2, -0.1), (-0.18, -0.12)), ((-0.01, 0.01), (-0.008, 0.008))]
)
@pytest.mark.parametrize(("groups", "chance"), [(8, "43 %"), (16, "19 %"), (17, "17 %"), (64, "0.12 %")])
def test_every_claim_states_how_often_a_subgroup_of_one_in_ten_is_missing(wide, narrow, groups, chance):
    verdict = decide_verdict(gain(wide, narrow, groups=groups), DICE, held_out=True, seeds=3)
    assert f"the chance that none of them belongs to a subgroup of one patient in ten is {chance}" in verdict.reason
    assert (verdict.label == "inconclusive") == (groups < 17)
    assert ("which needs at least 17" in verdict.reason) == (groups < 17)


def test_a_verdict_that_claims_nothing_needs_no_such_sentence():
    assert "chance" not in decide_verdict(gain((-0.025, 0.05), (-0.02, 0.045)), DICE, held_out=True, seeds=3).reason
    many = decide_verdict(gain((0.1, 0.2), (0.12, 0.18), groups=120), DICE, held_out=True, seeds=3)
    assert "one patient in ten is below 0.1 %" in many.reason


def test_a_marked_interval_shows_no_equivalence():
    """Every patient has equal scores, or nearly: the interval is a point, but the next patient may be another."""
    point = interval(0.0, 0.0, 0.90).model_copy(update={"degenerate": True})
    verdict = decide_verdict(
        gain((0.0, 0.0), value=0.0).model_copy(update={"equivalence_interval": point}), DICE, held_out=True, seeds=3
    )
    assert verdict.label == "inconclusive"
    assert verdict.reason.endswith(
        "the interval includes zero, and the scores of fewer than 8 patients differ, too few to show equivalence"
    )
    better = gain((0.002, 0.004), value=0.003).model_copy(update={"equivalence_interval": point})
    assert decide_verdict(better, DICE, held_out=True, seeds=3).label == "gain"


def test_no_verdict_calls_a_model_aligned_or_safe():
    for wide in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1), (-0.001, 0.001)):
        verdict = decide_verdict(gain(wide, wide), DICE, held_out=True, seeds=3)
        assert "aligned" not in f"{verdict.label} {verdict.reason}".lower()
        assert "safe" not in f"{verdict.label} {verdict.reason}".lower()


REHEARSAL = TrainingBudget(network="pretrained", steps=4, preset_steps=10_000)


@pytest.mark.parametrize(("groups", "held_out"), [(20, True), (5, True), (20, False)])
def test_a_rehearsal_has_no_verdict_whatever_it_scored(groups, held_out):
    harm = gain((-0.3, -0.1), (-0.28, -0.12), groups=groups)
    verdict = decide_verdict(harm, DICE, held_out=held_out, seeds=3, shortest=REHEARSAL)
    assert verdict.label == "insufficient_training"
    assert verdict.reason == (
        "the pretrained network was trained for 4 of the recipe's 10,000 steps; a verdict needs at least 25 %"
    )


def test_a_quarter_of_the_steps_has_the_verdict_of_all():
    harm = gain((-0.3, -0.1), (-0.28, -0.12))
    for steps in (2_500, 9_999):
        shortest = TrainingBudget(network="scratch", steps=steps, preset_steps=10_000)
        assert decide_verdict(harm, DICE, held_out=True, seeds=3, shortest=shortest).label == "harm"


@pytest.mark.parametrize(
    ("wide", "narrow", "label"),
    [
        ((0.1, 0.2), (0.12, 0.18), "gain"),
        ((-0.2, -0.1), (-0.18, -0.12), "harm"),
        ((-0.01, 0.01), (-0.008, 0.008), "equivalent"),
    ],
)
def test_below_three_seeds_nothing_is_claimed(wide, narrow, label):
    for seeds, trainings in ((1, "1 training"), (2, "2 trainings")):
        verdict = decide_verdict(gain(wide, narrow), DICE, held_out=True, seeds=seeds)
        assert verdict.label == "inconclusive"
        assert "difference +0.013 (95 % interval" in verdict.reason, "it says what was seen"
        assert verdict.reason.endswith(
            f"; with {trainings} of each network, the verdict is `inconclusive`: `gain`, `equivalent` and `harm` need "
            "3 training seeds"
        )
    verdict = decide_verdict(gain(wide, narrow), DICE, held_out=True, seeds=3)
    assert verdict.label == label
    assert "seeds" not in verdict.reason


def test_one_seed_changes_no_reason_why_there_is_no_verdict():
    few = gain((0.1, 0.2), (0.12, 0.18), groups=7)
    assert decide_verdict(few, DICE, held_out=True, seeds=1).label == "insufficient_data"
    assert decide_verdict(few, DICE, held_out=True, seeds=1, shortest=REHEARSAL).label == "insufficient_training"


def test_the_answer_on_pretraining_names_its_baseline():
    verdict = decide_verdict(gain((0.1, 0.2), (0.12, 0.18)), DICE, held_out=True, seeds=3, baseline=SCRATCH)
    assert verdict.label == "gain"
    assert verdict.reason.startswith("test lesion Dice 0.648 against 0.635 of the same network without pretraining: ")


AUROC = MetricSpec(
    name="auroc", unit="", higher_is_better=True, floor=0.05, smallest_difference=0.01, of_set="auroc"
)  # fmt: skip


def crossed_gain(rng, *, seeds=3, patients=24, sd_seed=0.01, sd_patient=0.03, metric=DICE, another_draw=False):
    """The gain of two equal networks; a third of the patients are of the positive class."""
    positive = np.arange(patients) % 3 == 0
    level = 0.5 + 0.05 * positive + rng.normal(0, 0.05, patients)
    score, baseline = (
        level + rng.normal(0, sd_patient, patients) + positive * rng.normal(0, sd_seed, (seeds, 1))
        + rng.normal(0, sd_seed, (seeds, 1)) + rng.normal(0, 0.02, (seeds, patients))
        for _ in range(2)
    )  # fmt: skip
    groups = tuple(f"{number:03d}" for number in range(patients))
    pairs = CrossedScores(score, baseline, groups, 0, positive)
    return estimate_crossed_gain(pairs, metric, level=0.95, another_draw=another_draw)


def read_half_widths(gain, metric=DICE):
    """Half-widths that the sentence states: now, with twice the seeds and with twice the patients."""
    return [float(half) for half in re.findall(r"±([\d.]+)", explain_precision(gain, metric))]


def get_half_width(gain):
    return (gain.absolute.interval.upper - gain.absolute.interval.lower) / 2


def test_an_inconclusive_verdict_says_how_wide_its_interval_is():
    result = crossed_gain(np.random.default_rng(1))
    verdict = decide_verdict(result, DICE, held_out=True, seeds=3)
    assert verdict.label == "inconclusive"
    half, more_seeds, more_patients = read_half_widths(result)
    assert half == pytest.approx(get_half_width(result), abs=5e-5)
    assert verdict.reason.endswith(
        f"; the interval is ±{half:.4f} wide, with twice the seeds about ±{more_seeds:.4f}, with twice the patients "
        f"about ±{more_patients:.4f}"
    )
    assert "with twice the seeds" in decide_verdict(result, DICE, held_out=True, seeds=2).reason
    assert "twice" not in decide_verdict(gain((-0.02, 0.05)), DICE, held_out=True, seeds=3).reason, "no components"


def test_what_varies_most_is_what_more_of_would_narrow_the_interval_most():
    half, more_seeds, more_patients = read_half_widths(crossed_gain(np.random.default_rng(2), sd_seed=0.05))
    assert more_seeds < 0.75 * half
    assert more_patients > 0.9 * half
    half, more_seeds, more_patients = read_half_widths(crossed_gain(np.random.default_rng(2), sd_seed=0.001))
    assert more_seeds > 0.9 * half
    assert more_patients < 0.75 * half


@pytest.mark.parametrize(
    ("metric", "another_draw", "sd_seed"), [(DICE, False, 0.01), (DICE, True, 0.03), (AUROC, False, 0.02)]
)
def test_the_projected_half_widths_are_those_of_more_seeds_and_patients(metric, another_draw, sd_seed):
    """Medians of 100 datasets, as the width of a single one varies by a factor of two with three seeds."""
    rng = np.random.default_rng(3)
    fields = {"metric": metric, "another_draw": another_draw, "sd_seed": sd_seed}
    projected, measured = [], []
    for _ in range(100):
        projected.append(read_half_widths(crossed_gain(rng, patients=36, **fields), metric)[1:])
        shapes = ((6, 36), (3, 72))
        measured.append(
            [get_half_width(crossed_gain(rng, seeds=seeds, patients=patients, **fields)) for seeds, patients in shapes]
        )
    assert np.median(projected, axis=0) == pytest.approx(np.median(measured, axis=0), rel=0.12)
