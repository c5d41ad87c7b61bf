"""Scores against the number of training cases: their averages and intervals, and what else a report computes."""

import numpy as np
import pytest
from tests.experiment_cells import with_counts

from vfmalign.analysis.experiments.report import ExperimentReport, analyse_cells
from vfmalign.analysis.gains.crossed import analyse_crossed


@pytest.fixture
def cells(make_cells):
    return with_counts(make_cells(2, 2, 3))


def analyse(cells, counts=(8, 0, 16), train_size=40):
    return analyse_cells("s", "s", cells, [], seed=1, level=0.95, train_cases=counts, train_size=train_size)


def test_every_network_has_a_point_for_every_number_with_the_interval_of_the_crossed_analysis(cells):
    curve = analyse(cells).label_efficiency
    assert curve.counts == (8, 16, 0)
    assert len(curve.points) == 2 * 2 * 3 * 3
    model, task = curve.points[0].model_id, curve.points[0].task
    points = [p for p in curve.points if (p.model_id, p.task, p.network) == (model, task, "scratch")]
    assert [(p.train_cases, p.fewest, p.most, p.seeds) for p in points] == [
        (8, 8, 9, 3),
        (16, 16, 17, 3),
        (0, 40, 40, 3),
    ]
    assert points[0].score.value < points[1].score.value < points[2].score.value
    metric = cells[0].metric.name
    value_SN = np.array([
        [score.values[metric] for score in cell.scores["scratch"]]
        for cell in cells
        if (cell.model_id, cell.task, cell.train_cases) == (model, task, 0)
    ])  # fmt: skip
    assert points[-1].score.value == pytest.approx(value_SN.mean())
    spread = analyse_crossed([value_SN], correct_skewness=True)
    interval = points[-1].score.interval
    expected = spread.get_interval(value_SN.mean(), 0.95)
    assert (interval.lower, interval.upper) == pytest.approx((expected.lower, expected.upper))


def test_everything_else_is_computed_from_the_cells_with_all_cases_or_with_the_largest_number(cells, make_cells):
    plain = analyse_cells("s", "s", make_cells(2, 2, 3), [], seed=1, level=0.95)
    report = analyse(cells)
    assert report.label_efficiency.main == 0
    assert report.main_cells == plain.cells
    same = ("answers", "headline", "claims", "pooled", "prediction", "sensitivity", "averages", "baselines")
    assert [getattr(report, name) for name in same] == [getattr(plain, name) for name in same]
    assert len(report.cells) == 3 * len(plain.cells)
    without_all = analyse([cell for cell in cells if cell.train_cases], counts=(16, 8))
    assert without_all.label_efficiency.main == 16
    assert {cell.train_cases for cell in without_all.main_cells} == {16}


def test_with_too_few_seeds_or_patients_points_have_no_interval_and_the_reason(make_cells):
    for seeds, patients, reason in (
        (2, 16, "2 seeds: an interval over seeds needs at least 3"),
        (3, 5, "5 patients: an interval needs at least 8"),
    ):
        points = analyse(with_counts(make_cells(1, 1, seeds, patients=patients))).label_efficiency.points
        assert {(p.score.interval, p.score.absent_reason) for p in points} == {(None, reason)}
        assert all(p.score.value is not None for p in points)


def test_a_score_that_never_varies_has_no_interval_and_its_own_reason(make_cells):
    cells = [
        cell.model_copy(
            update={
                "scores": {
                    network: tuple(
                        case.model_copy(update={"values": dict.fromkeys(case.values, 0.5)}) for case in scores
                    )
                    for network, scores in cell.scores.items()
                }
            }
        )
        for cell in with_counts(make_cells(1, 1, 3))
    ]
    points = analyse(cells).label_efficiency.points
    assert {(p.score.value, p.score.interval) for p in points} == {(0.5, None)}
    assert all(p.score.absent_reason.startswith("the score is the same") for p in points)


def test_reports_without_numbers_of_training_cases_are_as_before(cells, make_cells):
    plain = analyse_cells("s", "s", make_cells(2, 2, 3), [], seed=1, level=0.95)
    assert plain.label_efficiency is None
    for word in (b"label_efficiency", b"train_cases", b"subset"):
        assert word not in plain.to_json()
    report = analyse(cells)
    assert ExperimentReport.model_validate_json(report.to_json()) == report
    assert analyse(cells[::-1]).to_json() == report.to_json()
