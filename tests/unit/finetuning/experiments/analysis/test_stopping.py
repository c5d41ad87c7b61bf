"""The go/no-go rule: fitted on the other tasks, counted on the one held out."""

import pytest
from scipy.stats import binomtest

from vfmalign.client.messages.checks import Probe
from vfmalign.client.messages.common import Estimate
from vfmalign.finetuning.experiments.analysis.points import make_points
from vfmalign.finetuning.experiments.analysis.stopping import estimate_share, evaluate_stopping

DELTA = 0.02


@pytest.fixture
def evaluate(make_cells):
    """Evaluates the rule on numbers by task: early shift and final difference of every model, in order."""

    def build(numbers, scores=None):
        cells = []
        for cell in make_cells(4, len(numbers)):
            task = list(numbers)[[*dict.fromkeys(c.task for c in make_cells(1, len(numbers)))].index(cell.task)]
            place = list(dict.fromkeys(c.model for c in make_cells(4, 1))).index(cell.model)
            shift, difference = numbers[task][place]
            probe = Probe(step=10, shift=Estimate(value=shift), validation_score=(scores or numbers)[task][place][0])
            metric = cell.metric.model_copy(update={"smallest_difference": DELTA, "higher_is_better": True})
            update = {
                "task": task,
                "metric": metric,
                "probes": (probe,),
                "gain_difference": Estimate(value=difference),
            }
            cells.append(cell.model_copy(update=update))
        return {rule.number: rule for rule in evaluate_stopping(make_points(cells))}

    return build


FOLLOWS = {
    "a": [(1, 0.1), (2, 0.1), (3, -0.1), (4, -0.1)],
    "b": [(10, 0.1), (20, 0.1), (30, -0.1), (40, -0.1)],
    "c": [(1, 0.1), (2, 0.1), (3, -0.1), (4, -0.1)],
}


def test_a_rule_that_holds_in_all_tasks_stops_what_does_not_gain(evaluate):
    rule = evaluate(FOLLOWS)["shift"]
    assert (rule.step, rule.trainings, rule.gained, rule.stopped, rule.missed) == (10, 12, 6, 6, 0)
    assert rule.best_stopped == 0
    assert rule.missed_by_chance == pytest.approx(3.0)
    assert rule.miss_rate.value == 0.0
    # Numbers of different tasks are compared in SDs, so the tenfold shift of `b` moves no threshold.
    assert len({round(task.threshold, 9) for task in rule.tasks}) == 1


def test_a_task_in_which_the_opposite_holds_loses_its_best_models(evaluate):
    opposite = [(shift, -difference) for shift, difference in FOLLOWS["b"]]
    opposite[3] = (40, 0.3)
    rule = evaluate(FOLLOWS | {"b": opposite})["shift"]
    by_task = {task.task: task for task in rule.tasks}
    assert len(by_task["b"].missed) == 2
    assert by_task["b"].best in by_task["b"].missed
    # The threshold of the other tasks now comes from `b`, whose gaining models moved most: nothing is stopped there.
    assert by_task["a"].stopped == by_task["c"].stopped == ()
    assert (rule.missed, rule.best_stopped) == (2, 1)
    assert rule.best_stopped_rate.value == pytest.approx(1 / 3)


def test_the_threshold_ignores_the_task_held_out(evaluate):
    rule = evaluate({"a": FOLLOWS["a"], "b": [(1, -0.1), (2, -0.1), (3, -0.1), (4, 0.1)]})["shift"]
    by_task = {task.task: task for task in rule.tasks}
    assert by_task["b"].threshold == pytest.approx(-0.4472, abs=1e-4)
    assert by_task["b"].missed == by_task["b"].gained


def test_without_a_gain_in_the_other_tasks_nothing_is_stopped(evaluate):
    none = [(1, DELTA), (2, 0.0), (3, -0.1), (4, -0.1)]
    rule = evaluate({"a": FOLLOWS["a"], "b": none})["shift"]
    by_task = {task.task: task for task in rule.tasks}
    assert by_task["a"].threshold is None
    assert by_task["a"].stopped == ()
    assert by_task["b"].gained == (), "a gain of exactly δ does not count"
    assert len(by_task["b"].stopped) == 2


def test_the_rule_by_score_stops_low_scores(evaluate):
    scores = {task: [(-shift, 0) for shift, _ in rows] for task, rows in FOLLOWS.items()}
    rule = evaluate(FOLLOWS, scores)["validation_score"]
    assert (rule.stopped, rule.missed) == (6, 0)


def test_one_task_or_no_probe_has_no_rule(make_cells, evaluate):
    assert evaluate({"a": FOLLOWS["a"]}) == {}
    assert evaluate_stopping(make_points(make_cells(4, 5, probes=False))) == ()


@pytest.mark.parametrize(("count", "total"), [(0, 7), (3, 14), (5, 5)])
def test_shares_have_the_exact_interval(count, total):
    expected = binomtest(count, total).proportion_ci(method="exact")
    interval = estimate_share(count, total).interval
    assert (interval.lower, interval.upper) == pytest.approx((expected.low, expected.high))


def test_a_share_of_nothing_is_absent():
    assert estimate_share(0, 0).value is None
