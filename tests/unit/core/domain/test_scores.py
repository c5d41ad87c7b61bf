"""Numbers of a set against MONAI's, scikit-learn's and themselves."""

import numpy as np
import pytest
import torch
from monai.metrics.rocauc import compute_roc_auc
from pydantic import ValidationError
from scipy.stats import pearsonr
from sklearn.metrics import cohen_kappa_score, r2_score

from vfmalign.core.domain.jobs import CaseScore, MetricSpec
from vfmalign.core.domain.scores import aggregate, aggregate_resamples, aggregate_scores


def metric(of_set):
    return MetricSpec(name="m", unit="", higher_is_better=True, floor=0.05, of_set=of_set)


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_is_monai_s(ties):
    rng = np.random.default_rng(1)
    for _ in range(5):
        positive = rng.random(30) < 0.4
        value = np.round(rng.random(30) + 0.3 * positive, 1 if ties else 8)
        expected = compute_roc_auc(torch.from_numpy(value), torch.from_numpy(positive.astype(int)))
        assert aggregate(metric("auroc"), value.tolist(), positive.tolist()) == pytest.approx(expected, abs=1e-12)


def test_balanced_accuracy_is_the_mean_of_both_rates():
    values = [0.9, 0.5, 0.2, 0.1, 0.6]
    assert aggregate(metric("balanced_accuracy"), values, [True, True, True, False, False]) == pytest.approx(
        (2 / 3 + 1 / 2) / 2
    )


@pytest.mark.parametrize("of_set", ["mean", "auroc", "balanced_accuracy"])
def test_a_weight_is_a_repetition(of_set):
    """What a bootstrap relies on: a case that counts twice is a case that is there twice."""
    rng = np.random.default_rng(2)
    value_N, positive_N = rng.random(12), np.arange(12) % 3 == 0
    weight_RN = rng.integers(0, 3, (6, 12)).astype(float)
    found_R = aggregate_resamples(metric(of_set), value_N, positive_N, weight_RN)
    for weight_N, found in zip(weight_RN, found_R, strict=True):
        drawn = np.repeat(np.arange(12), weight_N.astype(int))
        assert found == pytest.approx(aggregate(metric(of_set), value_N[drawn].tolist(), positive_N[drawn].tolist()))


def test_cases_without_a_value_are_left_out_and_a_class_without_cases_gives_none():
    assert aggregate(metric("mean"), [1.0, None, 3.0], [None] * 3) == 2.0
    assert aggregate(metric("mean"), [None], [None]) is None
    for of_set in ("auroc", "balanced_accuracy"):
        assert aggregate(metric(of_set), [0.2, 0.7], [True, True]) is None
        assert aggregate(metric(of_set), [0.2, 0.7], [False, False]) is None
    scores = [CaseScore(case=f"c{i}", group="p", values={"m": v}, positive=v > 0.4) for i, v in enumerate((0.3, 0.5))]
    assert aggregate_scores(metric("auroc"), scores) == 1.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_of_a_case_is_finite_or_undefined(value):
    """A NaN would pass as a score of all cases: the sum, its gain and the bounds of its interval would be NaN too."""
    with pytest.raises(ValidationError, match="finite"):
        CaseScore(case="a", group="p", values={"m": value})
    assert CaseScore(case="a", group="p", values={"m": None}).values == {"m": None}


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_metrics_of_grades_and_numbers_are_scikit_learn_s(offset):
    rng = np.random.default_rng(2)
    for n in (3, 40):
        truth, value = rng.integers(0, 5, n), rng.integers(0, 5, n)
        kappa = cohen_kappa_score(truth, value, labels=range(16), weights="quadratic")
        assert aggregate(metric("quadratic_kappa"), value.tolist(), truth.tolist()) == pytest.approx(kappa, abs=1e-9)
        number = rng.normal(offset, 3.0, n)
        predicted = number + rng.normal(0.0, 1.0, n)
        for of_set, expected in (("r2", r2_score(number, predicted)), ("pearson", pearsonr(number, predicted)[0])):
            assert aggregate(metric(of_set), predicted.tolist(), number.tolist()) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("of_set", ["quadratic_kappa", "r2", "pearson"])
def test_a_resample_of_numbers_is_the_aggregate_of_its_cases(of_set):
    rng = np.random.default_rng(3)
    truth_N = rng.integers(0, 4, 15).astype(float)
    value_N = np.clip(truth_N + rng.integers(-1, 2, 15), 0, 3)
    drawn_RN = rng.integers(0, 15, (6, 15))
    weight_RN = np.array([np.bincount(drawn, minlength=15) for drawn in drawn_RN], float)
    found_R = aggregate_resamples(metric(of_set), value_N, truth_N, weight_RN)
    for drawn, found in zip(drawn_RN, found_R, strict=True):
        assert found == pytest.approx(aggregate(metric(of_set), value_N[drawn].tolist(), truth_N[drawn].tolist()))


def test_equal_predictions_or_truths():
    """A constant grade has no agreement beyond chance. R² needs different truths, the correlation both."""
    for grade in (0.1, 2.0):
        assert aggregate(metric("quadratic_kappa"), [2.0] * 3, [grade] * 3) == 0.0
    assert aggregate(metric("quadratic_kappa"), [2.0] * 3, [0.0, 2.0, 3.0]) == pytest.approx(0.0)
    assert aggregate(metric("r2"), [0.1, 0.2, 0.4], [0.1] * 3) is None
    assert aggregate(metric("r2"), [0.1] * 3, [0.1, 0.2, 0.4]) < 0
    for values, truths in (([0.1] * 3, [0.1, 0.2, 0.4]), ([0.1, 0.2, 0.4], [0.1] * 3), ([], [])):
        assert aggregate(metric("pearson"), values, truths) is None


def test_a_score_has_the_truth_that_its_metric_compares_with():
    scores = [
        CaseScore(case=f"c{i}", group="g", values={"m": float(i)}, positive=i > 1, truth=float(i)) for i in range(4)
    ]
    for of_set in ("auroc", "quadratic_kappa", "r2", "pearson"):
        assert aggregate_scores(metric(of_set), scores) == 1.0
    assert "truth" not in CaseScore(case="c", group="g", values={}).model_dump(), "as in earlier versions"
