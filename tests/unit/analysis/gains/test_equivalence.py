"""The equivalence interval of networks that hardly differ.

Against closed forms, and in a fast part of `python -m bench.statistics --only equivalence`.
"""

import numpy as np
import pytest
from bench.statistics.equivalence import AUROC, BALANCED_ACCURACY, DICE, SCENARIOS, get_equivalent_share
from scipy import stats

from vfmalign.analysis.checks.verdict import decide_verdict
from vfmalign.analysis.gains.crossed_gain import estimate_crossed_gain
from vfmalign.analysis.gains.equivalence import TWO_CLASS_METHOD, count_patients_for_equivalence
from vfmalign.analysis.gains.gain import estimate_gain
from vfmalign.analysis.gains.paired_scores import CrossedScores, PairedScores


def estimate(metric, score, baseline, positive=None, *, seeds=1):
    """The gain of networks whose scores are equal for every seed."""
    groups = tuple(f"p{place:04d}" for place in range(len(score)))
    truth = np.zeros(len(score), bool) if positive is None else positive
    if seeds == 1:
        return estimate_gain(PairedScores(score, baseline, groups, 0, truth), metric, seed=1)
    rows = (np.tile(values, (seeds, 1)) for values in (score, baseline))
    return estimate_crossed_gain(CrossedScores(*rows, groups, 0, truth), metric, level=0.95)


def perfect(patients):
    """Probabilities of a network that is always right, and the classes, `patients` of each."""
    positive = np.arange(2 * patients) < patients
    return np.where(positive, 0.9, 0.1), positive


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("patients", [10, 30])
def test_balanced_accuracies_without_errors_have_the_interval_of_the_added_patients(patients, seeds):
    """Without one of the added patients the difference is ±1/(2(n + 1)), and 0 without any other of the 2n + 4."""
    right, positive = perfect(patients)
    interval = estimate(BALANCED_ACCURACY, right, right, positive, seeds=seeds).equivalence_interval
    error = np.sqrt((2 * patients + 3) / (2 * patients + 4)) / (patients + 1)
    half = stats.t.ppf(0.95, patients - 1) * error
    assert (interval.lower, interval.upper) == pytest.approx((-half, half))
    assert (interval.level, interval.method) == (0.9, TWO_CLASS_METHOD)


def test_with_many_patients_the_added_ones_hardly_matter():
    """The error of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), without the added patients."""
    rng = np.random.default_rng(1)
    positive = np.arange(1200) < 600
    common = rng.normal(1.2 * positive, 0.6)
    score, baseline = (1 / (1 + np.exp(-(common + rng.normal(0, 0.8, 1200)))) for _ in range(2))
    interval = estimate(AUROC, score, baseline, positive).equivalence_interval
    ordered = [values[positive][:, None] > values[~positive][None] for values in (score, baseline)]
    difference = ordered[0].astype(float) - ordered[1]
    error = np.sqrt(difference.mean(1).var(ddof=1) / 600 + difference.mean(0).var(ddof=1) / 600)
    assert (interval.lower + interval.upper) / 2 == pytest.approx(difference.mean())
    assert interval.upper - interval.lower == pytest.approx(2 * stats.t.ppf(0.95, 599) * error, rel=0.05)


@pytest.mark.parametrize("metric", [BALANCED_ACCURACY, AUROC])
def test_networks_without_errors_are_equivalent_from_so_many_patients_on(metric):
    """At δ = 0.05 about z/δ = 33 of each class for a balanced accuracy, where a patient counts for half, else 66."""
    fewest = 33 if metric is BALANCED_ACCURACY else 66
    labels = []
    for patients in (9, 10, fewest - 3, fewest + 3):
        right, positive = perfect(patients)
        labels.append(decide_verdict(estimate(metric, right, right, positive), metric, held_out=True, seeds=3).label)
    assert labels == ["insufficient_data", "inconclusive", "inconclusive", "equivalent"]


@pytest.mark.parametrize(("metric", "needed"), [(BALANCED_ACCURACY, 33), (AUROC, 66)])
def test_equivalence_is_possible_from_the_stated_number_of_patients_on(metric, needed):
    """The narrowest interval is that of networks that agree on every patient, here by estimation."""
    count = count_patients_for_equivalence(metric, 0.9)
    assert abs(count - needed) <= 1
    for patients, fits in ((count - 1, False), (count, True)):
        right, positive = perfect(patients)
        interval = estimate(metric, right, right, positive).equivalence_interval
        assert (interval.upper < metric.smallest_difference) == fits
    assert count_patients_for_equivalence(DICE, 0.9) == 0
    strict = AUROC.model_copy(update={"smallest_difference": 0.01})
    assert 325 <= count_patients_for_equivalence(strict, 0.9) <= 335


@pytest.mark.parametrize("patients", [10, 40])
def test_a_verdict_says_how_many_patients_equivalence_needs(patients):
    right, positive = perfect(patients)
    worse = np.where(np.arange(2 * patients) % 4, right, 0.5)
    for metric in (AUROC, BALANCED_ACCURACY):
        needed = count_patients_for_equivalence(metric, 0.9)
        for baseline in (right, worse):
            verdict = decide_verdict(estimate(metric, right, baseline, positive), metric, held_out=True, seeds=3)
            sentence = f"`equivalent` within ±0.05 needs about {needed} patients of each of two equal classes"
            assert (sentence in verdict.reason) == (patients < needed and verdict.label == "inconclusive")


def test_the_reason_says_why_the_interval_is_wide():
    right, positive = perfect(12)
    reason = decide_verdict(estimate(AUROC, right, right, positive), AUROC, held_out=True, seeds=3).reason
    assert "which allows for errors that no test patient shows, exceeds ±0.05" in reason


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(("different", "label"), [(0, "inconclusive"), (7, "inconclusive"), (8, "equivalent")])
def test_a_mean_is_equivalent_only_where_eight_patients_have_different_scores(different, label, seeds):
    baseline = np.linspace(0.5, 0.7, 40)
    change = np.where(np.arange(40) < different, np.where(np.arange(40) % 2, 0.001, -0.001), 0.0)
    gain = estimate(DICE, baseline + change, baseline, seeds=seeds)
    assert gain.equivalence_interval.degenerate == (different < 8)
    assert decide_verdict(gain, DICE, held_out=True, seeds=3).label == label


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("title", "patients"),
    [
        ("balanced accuracy, rare errors", 4),
        ("balanced accuracy, rare errors", 10),
        ("AUROC, overlapping classes", 4),
        ("AUROC, overlapping classes", 8),
        ("Dice, equal in nine of ten patients", 8),
    ],
)
def test_few_patients_are_not_called_equivalent_where_the_difference_is_relevant(title, patients, seeds):
    """Without the allowance, 10 to 60 % were: many of the test sets show no error of either network."""
    scenario = next(one for one in SCENARIOS if one.title == title)
    assert get_equivalent_share(scenario, patients, seeds, 60, [3, patients]) <= 0.05


@pytest.mark.parametrize(
    ("title", "patients", "seeds"), [("Dice, normal differences", 40, 3), ("balanced accuracy, rare errors", 60, 1)]
)
def test_the_level_of_equivalence_is_held(title, patients, seeds):
    """5 %, at the smallest relevant difference; one of 1,000 simulations of 200 datasets would give above 10.5 %."""
    scenario = next(one for one in SCENARIOS if one.title == title)
    assert get_equivalent_share(scenario, patients, seeds, 200, [4, patients]) <= 0.105
