"""Three answers in plain words for every outcome, and the numbers that they follow from."""

import pytest

from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.finetuning.experiments.analysis.answers import answer_questions, count_gains, get_outcome
from vfmalign.finetuning.experiments.analysis.claims import Claim
from vfmalign.finetuning.experiments.analysis.joint_permutations import PermutationTest
from vfmalign.finetuning.experiments.analysis.points import make_points


def claim(design, verdict, *, rho=-0.5, p=0.03):
    test = None
    if verdict != "cannot support or contradict":
        test = PermutationTest(
            p_paper=p / 2, p_two_sided=p, smallest_p_two_sided=0.0028, permutations=720, enumerated=True
        )
    interval = Interval(lower=-0.875, upper=0.125, level=0.95, method="bootstrap")
    return Claim(
        claim="gain", design=design, shift_measure="mmd2_std", strata=(), units=6, rho_unflagged=None,
        rho=absent("too few") if rho is None else Estimate(value=rho, interval=interval), points_without_value=0,
        test=test, verdict=verdict, sentence="4 models have both numbers in every task, and a verdict needs 5",
    )  # fmt: skip


@pytest.fixture
def answer(make_cells):
    points = make_points(make_cells(6, 5, 2))

    def build(across_models, across_tasks):
        claims = [claim("within_task", across_models), claim("within_model", across_tasks, p=0.5)]
        return answer_questions(points, claims)

    return build


@pytest.mark.parametrize(
    ("verdicts", "outcome", "relation", "certainty", "recommendation"),
    [
        (("supports", "supports"), "supports", "Yes, across models and across tasks.", "in 3 % of", "one hint"),
        (("supports", "no_clear_relation"), "supports", "Yes across models; not clearly across tasks.", "3 %", "hint"),
        (("contradicts", "no_clear_relation"), "contradicts", "No: across models, less shift went with less gain.",
         "With some: chance alone gives as strong a correlation in 3 % of the orders of the 6 models.",
         "Do not prefer models for low shift."),
        (("supports", "contradicts"), "mixed", "disagree", "3 %", "Do not gate on shift."),
        (("no_clear_relation", "cannot support or contradict"), "no_clear_relation", "there is no clear relation",
         "With little", "Do not gate on shift. Decide by the measured gain."),
        (("cannot support or contradict",) * 2, "cannot support or contradict", "This experiment cannot tell.",
         "With none", "Base no decision on these numbers."),
    ],
)  # fmt: skip
def test_every_outcome_has_its_answers(answer, verdicts, outcome, relation, certainty, recommendation):
    answers = answer(*verdicts)
    assert answers.outcome == outcome
    assert [one.question.split()[0] for one in answers.all] == ["Did", "With", "What"]
    for one, expected in zip(answers.all, (relation, certainty, recommendation), strict=True):
        assert expected in one.answer


def test_the_details_state_the_numbers(answer):
    answers = answer("supports", "cannot support or contradict")
    assert "is −0.50, more than chance explains" in answers.relation.details
    assert (
        "p = 0.03; 95 % interval of the correlation over seeds and patients −0.88 to +0.12" in answers.certainty.details
    )
    assert "Across tasks there is no verdict: 4 models have both numbers" in answers.certainty.details
    assert "6 models, 5 tasks and 2 training seeds" in answers.certainty.details
    assert f"in {answers.gains.better} of 30 pairs of model and task" in answers.recommendation.details


def test_a_relation_across_tasks_alone_does_not_choose_between_models(answer):
    assert "does not help to choose between models" in answer("no_clear_relation", "supports").recommendation.details
    assert "choose between models" not in answer("supports", "no_clear_relation").recommendation.details


def test_a_rejection_alone_warns_of_two_comparisons(answer):
    assert "two comparisons at 5 % each" in answer("supports", "no_clear_relation").certainty.details
    assert "two comparisons" not in answer("no_clear_relation", "no_clear_relation").certainty.details


def test_one_opposite_verdict_outweighs_no_relation():
    assert get_outcome(["no_clear_relation", "contradicts"]) == "contradicts"
    assert get_outcome([]) == "cannot support or contradict"


def test_gains_within_the_smallest_difference_count_for_neither_side(make_cells):
    cells = make_cells(4, 1)
    metric = cells[0].metric.model_copy(update={"smallest_difference": 0.02})
    differences = (0.03, 0.02, -0.02, -0.03)
    points = make_points(
        cell.model_copy(update={"metric": metric, "gain_difference": Estimate(value=difference)})
        for cell, difference in zip(cells, differences, strict=True)
    )
    counts = count_gains(points)
    assert (counts.better, counts.worse, counts.trainings) == (1, 1, 4)
