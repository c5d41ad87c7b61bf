"""Three answers in plain words for every outcome, and the numbers that they follow from."""

import pytest

from vfmalign.analysis.experiments.answers import VERDICT_TEXTS, answer_questions, get_outcome
from vfmalign.analysis.experiments.averages import average_seeds
from vfmalign.analysis.experiments.claims import Claim
from vfmalign.analysis.experiments.joint_permutations import PermutationTest
from vfmalign.analysis.experiments.points import make_points
from vfmalign.analysis.experiments.robustness import CommonBaselines, Reversal


def claim(design, verdict, *, rho=-0.5, p=0.03, name="gain", measure="mmd2_std", **fields):
    test = None
    if verdict != "cannot support or contradict":
        test = PermutationTest(
            p_paper=p / 2, p_two_sided=p, smallest_p_two_sided=0.0028, threshold=0.6, permutations=720, enumerated=True
        )
    numbers = {"rho_unflagged": None, "rho_common_baselines": -0.25, "reversal": None} | fields
    return Claim(
        claim=name, design=design, shift_measure=measure, strata=(), units=6, rho=rho, points_without_value=0,
        test=test, verdict=verdict, sentence="4 models have both numbers in every task, and a verdict needs 5",
        **numbers,
    )  # fmt: skip


@pytest.fixture
def averages(make_cells):
    """Averages of six models, of which five share their architecture with another, none flagged."""
    cells = [cell.model_copy(update={"flags": type(cell.flags)()}) for cell in make_cells(6, 5, 2)]
    return [average_seeds(point, 0.95) for point in make_points(cells)]


@pytest.fixture
def answer(averages):
    def build(across_models, across_tasks, *, several=0, **fields):
        claims = [claim("within_task", across_models, **fields), claim("within_model", across_tasks, p=0.5)]
        return answer_questions(averages, claims, CommonBaselines(several=several, total=10))

    return build


@pytest.mark.parametrize(
    ("verdicts", "outcome", "relation", "certainty", "recommendation"),
    [
        (("supports", "supports"), "supports", "Yes, across models and across tasks.", "0.03", "one hint"),
        (("supports", "no_clear_relation"), "supports", "Yes across models; not clearly across tasks.", "0.03", "hint"),
        (("contradicts", "no_clear_relation"), "contradicts", "No: across models, less shift went with less gain.",
         "With some: the comparison across models has the smaller p, 0.030.",
         "Do not prefer models for low shift."),
        (("supports", "contradicts"), "mixed", "disagree", "0.03", "Do not gate on shift."),
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
    details = answers.certainty.details
    assert "Across models, p = 0.030; with these 6 models, p ≤ 0.05 needs a mean of ±0.60 or beyond." in details
    assert "Across tasks there is no verdict: 4 models have both numbers" in details
    assert "6 models, 5 tasks and 2 training seeds" in details
    counts = ", ".join(
        f"{answers.verdicts[label]} {text}" for label, text in VERDICT_TEXTS.items() if label in answers.verdicts
    )
    assert f"by intervals over seeds and patients: {counts}." in answers.recommendation.details


def test_saturated_pairs_stand_in_the_first_answer_with_what_they_change(averages):
    flags = averages[0].flags
    flagged = [
        averages[0].model_copy(update={"flags": flags.model_copy(update={"saturated": True, "not_beaten": True})}),
        averages[1].model_copy(update={"flags": flags.model_copy(update={"not_beaten": True})}),
        *averages[2:],
    ]
    claims = [
        claim("within_task", "no_clear_relation", rho=0.37, rho_unflagged=-0.3),
        claim("within_task", "no_clear_relation", rho=0.0, rho_unflagged=0.62, name="convergence"),
    ]
    relation = answer_questions(flagged, claims, CommonBaselines(several=0, total=1)).relation
    assert "In 1 of 30 pairs of model and task the shift is saturated and cannot rank models." in relation.answer
    assert "1 of 30 pairs of model and task are saturated" in relation.details
    assert "in 2 the model does not beat the naive baseline" in relation.details
    assert (
        "Without these 2 pairs, the correlation changes: that of shift and gain is −0.30 instead of +0.37 across "
        "models, and that of shift and steps to 95 % is +0.62 instead of 0.00 across models."
    ) in relation.details
    assert "What is left: 28 pairs." in relation.details
    few = [averages[0].model_copy(update={"flags": flagged[0].flags}), *averages[1:3]]
    rest = answer_questions(few, claims, CommonBaselines(several=0, total=1)).relation.details
    assert "What is left: 2 pairs, in some tasks or models only two, where ρ can only be +1 or −1." in rest
    unflagged = answer_questions(averages, claims, CommonBaselines(several=0, total=1)).relation
    assert "saturated" not in unflagged.answer + unflagged.details


def test_what_the_sign_and_the_level_rest_on_is_stated(answer):
    details = answer(
        "no_clear_relation", "no_clear_relation", several=4, reversal=Reversal(without=("m-1", "m-2"), rho=0.16)
    ).certainty.details
    assert "Across models, the sign rests on few models: without “m-1” and “m-2”, the correlation is +0.16." in details
    assert "In 4 of 10 pairs of task and seed" in details
    assert "with one for all, the correlation is −0.25 across models and −0.25 across tasks." in details
    assert "5 of 6 share their kind of architecture with another" in details
    plain = answer("no_clear_relation", "no_clear_relation").certainty.details
    assert "rests on few" not in plain
    assert "different trainings" not in plain


def test_the_energy_distance_stands_beside_without_a_verdict(averages):
    claims = [
        claim("within_task", "no_clear_relation"),
        claim("within_task", None, rho=0.25, p=0.4, measure="energy"),
        claim("within_task", None, rho=0.75, p=0.2, measure="shift_ratio"),
    ]
    answers = answer_questions(averages, claims, CommonBaselines(several=0, total=1))
    assert "its correlation with the gain is +0.25 across models (p = 0.40)." in answers.relation.details
    assert "0.75" not in answers.relation.details
    assert answers.outcome == "no_clear_relation"


def test_a_relation_across_tasks_alone_does_not_choose_between_models(answer):
    assert "does not help to choose between models" in answer("no_clear_relation", "supports").recommendation.details
    assert "choose between models" not in answer("supports", "no_clear_relation").recommendation.details


def test_a_rejection_alone_warns_of_two_comparisons(answer):
    assert "two comparisons at 5 % each" in answer("supports", "no_clear_relation").certainty.details
    assert "two comparisons" not in answer("no_clear_relation", "no_clear_relation").certainty.details


def test_one_opposite_verdict_outweighs_no_relation():
    assert get_outcome(["no_clear_relation", "contradicts"]) == "contradicts"
    assert get_outcome([]) == "cannot support or contradict"
