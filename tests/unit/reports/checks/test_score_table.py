"""Scores of all networks: mean, median and worst case, and where no network would be better."""

import pytest
from tests.prostate import SPECS

from vfmalign.core.domain.jobs import CaseScore
from vfmalign.reports.checks.score_table import list_score_rows

METRIC = SPECS["segmentation"].primary_metric


@pytest.fixture
def scores():
    """Three cases: the naive baseline is worse than the fine-tuned model in its median, and better in its worst."""
    values = {"pretrained": (0.5, 0.6, 0.7), "specialised": (0.4, 0.5, 0.6), "naive": (0.52, 0.55, 0.9)}
    return {
        name: [CaseScore(case=f"c{i}", group="g", values={METRIC.name: value}) for i, value in enumerate(row)]
        for name, row in values.items()
    }


def test_median_and_worst_case_stand_below_the_mean(make_report, scores):
    rows = list_score_rows(make_report().result, METRIC, scores)
    assert [row.name for row in rows] == ["mean lesion Dice", "median case", "worst case (fine-tuned: c0)"]
    assert [row.values for row in rows[1:]] == [("0.600", "0.500", "–", "0.550"), ("0.500", "0.400", "–", "0.520")]
    assert rows[0].values[3] == "0.070"
    assert [row.worse for row in rows] == [False, False, True]
    assert rows[2].compare_with_naive() == "worst case (fine-tuned: c0) 0.500 against 0.520"


def test_without_case_scores_there_is_the_mean_alone(make_report):
    assert [row.name for row in list_score_rows(make_report().result, METRIC, {})] == ["mean lesion Dice"]


def test_a_mean_over_structures_is_called_mean_once(make_report):
    metric = METRIC.model_copy(update={"name": "mean_dice"})
    assert list_score_rows(make_report().result, metric, {})[0].name == "mean Dice"


def test_other_metrics_have_a_row_where_they_are_worse_than_the_naive_baseline(make_report):
    result = make_report().result
    means = {METRIC.name: 0.9, "gland_dice": 0.9, "lesion_hd95": 3.57}
    networks = tuple(
        one.model_copy(update={"test_means": one.test_means | {"lesion_hd95": 12.3}}) for one in result.networks
    )
    baseline = result.naive_baseline.model_copy(update={"test_means": means})
    rows = list_score_rows(make_report(networks=networks, naive_baseline=baseline).result, METRIC, {})
    assert [(row.name, row.values[0], row.values[3], row.worse) for row in rows] == [
        ("mean lesion Dice", "0.550", "0.900", True),
        ("mean gland Dice", "0.810", "0.900", True),
        ("mean lesion HD95 (mm)", "12.3", "3.6", True),
    ]
