"""The claims on experiments whose answer is known."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from vfmalign.analysis.experiments.claims import Claim, evaluate_claims
from vfmalign.analysis.experiments.points import make_points
from vfmalign.analysis.experiments.report import analyse_cells, write_headline


@pytest.fixture
def evaluate():
    def run(cells):
        claims, pooled = evaluate_claims(make_points(cells), seed=1)
        return {(c.claim, c.design, c.shift_measure): c for c in claims}, pooled

    return run


@pytest.fixture
def built(make_cells, with_numbers):
    """Cells of which each task has its own order of shift, and gains and steps that follow it with given signs."""

    def run(models=5, tasks=5, gain=-1, share=1, **fields):
        orders = {}
        cells = []
        plain = make_cells(models, tasks, **fields)
        names = sorted({cell.model_id for cell in plain})
        for cell in plain:
            order = orders.setdefault(cell.task, np.random.default_rng(len(orders)).permutation(models))
            place = int(order[names.index(cell.model_id)])
            cells.append(
                with_numbers(cell, shift=0.1 + place / 10, gain=5 + gain * place, share=0.3 + share * place * 0.05)
            )
        return cells

    return run


def test_an_experiment_of_perfect_order_supports_both_claims(evaluate, built):
    claims, pooled = evaluate(built())
    gain, steps = claims["gain", "within_task", "mmd2_std"], claims["convergence", "within_task", "mmd2_std"]
    assert [one.rho for one in gain.strata] == pytest.approx([-1] * 5)
    assert gain.rho == pytest.approx(-1)
    assert gain.test.permutations == 120
    assert gain.test.p_paper == pytest.approx(1 / 120)
    assert gain.test.p_two_sided == pytest.approx(1 / 120)
    assert gain.verdict == "supports"
    assert "gained more, as the paper reports" in gain.sentence
    assert steps.rho == pytest.approx(1)
    assert steps.verdict == "supports"
    assert "converged faster" in steps.sentence
    assert claims["gain", "within_task", "shift_ratio"].verdict is None
    assert {one.claim: round(one.rho, 9) for one in pooled if one.shift_measure == "mmd2_std"} == {
        "gain": -1,
        "convergence": 1,
    }


def test_the_opposite_order_contradicts(evaluate, built):
    claims, _ = evaluate(built(gain=1, share=-1))
    assert claims["gain", "within_task", "mmd2_std"].verdict == "contradicts"
    assert "gained less, against" in claims["gain", "within_task", "mmd2_std"].sentence
    assert "converged slower, against" in claims["convergence", "within_task", "mmd2_std"].sentence


def test_within_a_task_a_difference_between_tasks_counts_for_nothing(evaluate, built):
    cells = [
        cell.model_copy(update={"gain": cell.gain.model_copy(update={"value": cell.gain.value - 50 * len(cell.task)})})
        for cell in built()
    ]
    claims, pooled = evaluate(cells)
    assert claims["gain", "within_task", "mmd2_std"].rho == pytest.approx(-1)
    assert next(one.rho for one in pooled if one.claim == "gain") > -0.9


@pytest.mark.parametrize("models", [3, 4])
def test_fewer_than_five_models_cannot_support_or_contradict(evaluate, built, models):
    claims, _ = evaluate(built(models=models))
    claim = claims["gain", "within_task", "mmd2_std"]
    assert claim.rho == pytest.approx(-1)
    assert claim.test is None
    assert claim.verdict == "cannot support or contradict"
    assert f"{models} models have both numbers in every task, and a verdict needs 5" in claim.sentence
    assert claims["gain", "within_model", "mmd2_std"].verdict != "cannot support or contradict"


def test_fewer_than_five_tasks_cannot_support_or_contradict(evaluate, built):
    claims, _ = evaluate(built(tasks=4))
    claim = claims["gain", "within_model", "mmd2_std"]
    assert claim.verdict == "cannot support or contradict"
    assert "4 tasks have both numbers for every model, and a verdict needs 5" in claim.sentence
    assert claims["gain", "within_task", "mmd2_std"].verdict == "supports"


def test_five_models_decide_in_one_task(evaluate, built):
    claims, _ = evaluate(built(tasks=1))
    assert claims["gain", "within_task", "mmd2_std"].test.p_two_sided == pytest.approx(2 / 120)
    assert claims["gain", "within_task", "mmd2_std"].verdict == "supports"


def test_models_that_keep_one_order_in_all_tasks_are_no_more_evidence_than_one_task(evaluate, built, with_numbers):
    plain = built()
    models = sorted({cell.model_id for cell in plain})
    order = dict(zip(models, (0, 1, 4, 2, 3), strict=True))
    cells = [with_numbers(cell, models.index(cell.model_id) / 10, -float(order[cell.model_id])) for cell in plain]
    claim = evaluate(cells)[0]["gain", "within_task", "mmd2_std"]
    single = evaluate([cell for cell in cells if cell.task == "segmentation"])[0]["gain", "within_task", "mmd2_std"]
    assert claim.rho == pytest.approx(-0.7)
    assert claim.test.p_two_sided == single.test.p_two_sided == pytest.approx(stats_p_value(0.7))
    assert claim.verdict == "no_clear_relation"


def stats_p_value(rho):
    """Exact two-sided p of Spearman's ρ of five units."""
    places = range(5)
    rhos = [stats.spearmanr(places, order).statistic for order in itertools.permutations(places)]
    return np.mean(np.abs(rhos) >= rho - 1e-9)


def test_ties_that_no_order_can_break_leave_the_claim_open(evaluate, built, with_numbers):
    plain = built()
    models = sorted({cell.model_id for cell in plain})
    cells = [
        with_numbers(cell, models.index(cell.model_id) / 10, share=0.4 if cell.model_id == models[0] else math.inf)
        for cell in plain
    ]
    claim = evaluate(cells)[0]["convergence", "within_task", "mmd2_std"]
    assert claim.test.smallest_p_two_sided == pytest.approx(2 / 5)
    assert claim.verdict == "cannot support or contradict"
    assert "even the most extreme order of the models has p = 0.40" in claim.sentence


def test_a_gain_under_the_floor_is_no_value_and_counted(evaluate, built, with_numbers):
    cells = built(models=6)
    cells[0] = with_numbers(cells[0], gain=None)
    cells[7] = with_numbers(cells[7], share=None)
    claims, _ = evaluate(cells)
    gain = claims["gain", "within_task", "mmd2_std"]
    assert gain.points_without_value == 1
    assert sorted(one.pairs for one in gain.strata) == [5, 6, 6, 6, 6]
    assert all(one.used for one in gain.strata)
    assert claims["convergence", "within_task", "mmd2_std"].points_without_value == 1


def test_a_model_without_a_number_in_one_task_is_left_out_of_the_test(evaluate, built, with_numbers):
    """The model that is left out spoils the order in every other task."""
    whole = built(models=6)
    left_out = whole[0].model_id
    cells = [
        with_numbers(cell, cell.shift.value, gain=None if cell.check_id == whole[0].check_id else 99.0, share=0.5)
        if cell.model_id == left_out
        else cell
        for cell in whole
    ]
    claim = evaluate(cells)[0]["gain", "within_task", "mmd2_std"]
    assert claim.units == 5
    assert claim.test.permutations == 120
    assert claim.rho == pytest.approx(-1)
    assert claim.verdict == "supports"
    fewer = evaluate([cell for cell in cells if cell.model_id != whole[-1].model_id])[0][
        "gain", "within_task", "mmd2_std"
    ]
    assert fewer.verdict == "cannot support or contradict"
    assert "4 models have both numbers" in fewer.sentence


def test_a_task_in_which_no_model_has_a_gain_does_not_count(evaluate, built, with_numbers):
    cells = [with_numbers(cell, cell.shift.value, None) if cell.task == "distortion" else cell for cell in built()]
    claims, _ = evaluate(cells)
    claim = claims["gain", "within_task", "mmd2_std"]
    assert claim.verdict == "supports"
    assert {one.name for one in claim.strata if not one.used} == {"distortion"}
    assert claims["gain", "within_model", "mmd2_std"].units == 4


def test_a_censored_rise_ranks_last(evaluate, built, with_numbers):
    cells = [
        with_numbers(
            cell, shift=cell.shift.value, share=math.inf if cell.shift.value > 0.45 else 0.3 + cell.shift.value
        )
        for cell in built()
    ]
    claim = evaluate(cells)[0]["convergence", "within_task", "mmd2_std"]
    assert claim.rho == pytest.approx(1)
    assert claim.points_without_value == 0


def test_cells_that_were_not_held_out_get_no_verdict(evaluate, built):
    cells = built()
    cells[3] = cells[3].model_copy(update={"flags": cells[3].flags.model_copy(update={"not_held_out": True})})
    claim = evaluate(cells)[0]["gain", "within_task", "mmd2_std"]
    assert claim.verdict == "cannot support or contradict"
    assert "descriptive only" in claim.sentence


def test_flagged_cells_are_left_out_of_a_second_coefficient(evaluate, built):
    cells = built()
    worst = [
        cell.model_copy(update={
            "gain": cell.gain.model_copy(update={"value": 99.0}),
            "flags": cell.flags.model_copy(update={"not_beaten": True, "saturated": False}),
        })
        if cell.shift.value > 0.35 else cell.model_copy(update={"flags": type(cell.flags)()})
        for cell in cells
    ]  # fmt: skip
    claim = evaluate(worst)[0]["gain", "within_task", "mmd2_std"]
    assert claim.rho > -0.5
    assert claim.rho_unflagged == pytest.approx(-1)


def test_seeds_are_averaged_before_anything_is_ranked(evaluate, built, with_numbers):
    one = built()
    high = [with_numbers(c, c.shift.value + 3, c.gain.value + 8, c.steps_to_95.value / c.budget) for c in one]
    low = [with_numbers(c, c.shift.value - 3, c.gain.value - 8, c.steps_to_95.value / c.budget) for c in one]
    both = [c.model_copy(update={"seed": 1}) for c in high] + [c.model_copy(update={"seed": 2}) for c in low]
    claim = evaluate(both)[0]["gain", "within_task", "mmd2_std"]
    assert claim.rho == pytest.approx(-1)
    assert {stratum.pairs for stratum in claim.strata} == {5}


def test_a_null_experiment_rarely_gets_a_verdict(make_cells, with_numbers, evaluate):
    rng = np.random.default_rng(4)
    cells = make_cells(5)
    verdicts = []
    for _ in range(15):
        drawn = [with_numbers(c, rng.random(), rng.random(), rng.uniform(0.1, 0.9)) for c in cells]
        verdicts.append(evaluate(drawn)[0]["gain", "within_task", "mmd2_std"].verdict)
    assert sum(verdict in {"supports", "contradicts"} for verdict in verdicts) <= 4  # 0.75 expected; 5 has p = 0.0006
    assert "no_clear_relation" in verdicts


@pytest.mark.parametrize(
    ("across_models", "across_tasks", "pattern"),
    [
        (
            "supports",
            "supports",
            r"support the .*\. Within a task, across models and within a model, across tasks: as claimed\.$",
        ),
        (
            "supports",
            "no_clear_relation",
            r"support .* in one of two comparisons\. .*Within a model, .*: no clear relation\.$",
        ),
        (
            "supports",
            "cannot support or contradict",
            r"support .*comparisons\. .*Within a model, across tasks: cannot support or contradict\.$",
        ),
        (
            "no_clear_relation",
            "no_clear_relation",
            r"do not support .*within a model, across tasks: no clear relation\.$",
        ),
        (
            "no_clear_relation",
            "cannot support or contradict",
            r"do not support .*Within a model.*cannot support or contradict\.$",
        ),
        (
            "contradicts",
            "supports",
            r"^The two comparisons .* disagree about .*\. Within a task.*: the opposite\. .*: as claimed\.$",
        ),
        (
            "supports",
            "contradicts",
            r"^The two comparisons .* disagree about .*\. Within a task.*: as claimed\. .*: the opposite\.$",
        ),
        (
            "contradicts",
            "no_clear_relation",
            r"do not support .*contradict it\. Within a task.*: the opposite\. .*: no clear relation\.$",
        ),
        ("cannot support or contradict", "cannot support or contradict", r"can neither support nor contradict"),
    ],
)
def test_headline_summarises_the_verdicts(built, across_models, across_tasks, pattern):
    import re

    report = analyse_cells("s", "S", built(tasks=2), [], seed=1, level=0.95)
    verdicts = {"within_task": across_models, "within_model": across_tasks}
    claims = [
        Claim.model_validate(c.model_dump() | {"verdict": verdicts[c.design] if c.verdict else None})
        for c in report.claims
    ]
    assert re.search(pattern, write_headline("gain", claims))
