"""Losses and predictions of the tasks on grades and numbers of cases."""

import math
from dataclasses import replace

import pytest
import torch
from tests.prostate import GRADED

from vfmalign.core.domain.task_text import Task
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.training.data import balanced_indices, collate, draw_batch, shuffle_targets
from vfmalign.training.figures import draw_panels
from vfmalign.training.tasks import get_task

CPU = torch.device("cpu")
GRADING = get_task(replace(get_task_spec(Task.parse("classification:grade=pirads"), GRADED), grades=(0, 1, 3)))
REGRESSION = get_task(replace(get_task_spec(Task.parse("regression:number=volume"), GRADED), scale=(10.0, 4.0)))


@pytest.fixture
def stated(cases):
    """Cases with the grades 0, 1, 3, 3 and volumes of 2, 6, 14 and 18 mL."""
    facts = zip(cases * 4, (0, 1, 3, 3), (2.0, 6.0, 14.0, 18.0), strict=False)
    return [replace(case, grades={"pirads": g}, numbers={"volume": v}) for case, g, v in facts]


def test_grades_are_positive_from_the_task_s(stated):
    cases = GRADING.prepare(stated)
    assert [case.positive for case in cases] == [False, False, True, True]
    assert [case.truth for case in cases] == [0.0, 1.0, 3.0, 3.0]


def test_the_loss_of_grades_is_the_cross_entropy_over_the_training_grades(stated):
    cases = GRADING.prepare(stated)
    logits = torch.randn(4, 3, requires_grad=True)
    loss = GRADING.loss(logits, collate(cases, CPU))
    probability = logits.detach().softmax(1)
    expected = -sum(math.log(float(probability[n, k])) for n, k in enumerate((0, 1, 2, 2))) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    one_hot = torch.eye(3)[[0, 1, 2, 2]]
    assert torch.allclose(gradient, (probability - one_hot) / 4, atol=1e-6)


def test_grades_are_scored_by_probability_and_by_the_most_probable_grade(stated):
    case = GRADING.prepare(stated)[2]
    values = GRADING.score(torch.tensor([0.0, 0.0, math.log(2.0)]), case)
    assert values == {"auroc": pytest.approx(0.5), "quadratic_kappa": 3.0, "accuracy": 1.0}
    assert GRADING.score(torch.tensor([5.0, 0.0, 0.0]), case)["accuracy"] == 0.0
    assert GRADING.score(torch.tensor([0.0, 0.0, 90.0]), case)["auroc"] <= 1.0


def test_the_naive_grade_is_the_commonest_with_the_shares(stated):
    cases = GRADING.prepare(stated)
    values = GRADING.score(GRADING.naive_baseline(cases)(cases[0]), cases[0])
    assert values == {"auroc": pytest.approx(0.5), "quadratic_kappa": 3.0, "accuracy": 0.0}
    assert GRADING.score(GRADING.naive_baseline(cases[:2])(cases[0]), cases[0])["auroc"] == 0.0, "without one grade"


def test_batches_have_equally_many_cases_of_every_grade(stated):
    cases = GRADING.prepare(stated)
    for step in range(3):
        batch = draw_batch(cases, step=step, batch_size=6, patch_shape_dhw=None, seed=1, device=CPU)
        assert sorted(batch.truth_N.tolist()) == [0.0, 0.0, 1.0, 1.0, 3.0, 3.0]
    assert balanced_indices([True, False], 4, 0, 1) == [1, 0, 1, 0]


def test_a_regression_outputs_the_standardised_number(stated):
    cases = REGRESSION.prepare(stated)
    output = torch.tensor([[-2.0], [-1.0], [1.0], [2.5]], requires_grad=True)
    loss = REGRESSION.loss(output, collate(cases, CPU))
    assert loss.item() == pytest.approx(0.5**2 / 4)
    (gradient,) = torch.autograd.grad(loss, output)
    assert gradient.flatten().tolist() == pytest.approx([0.0, 0.0, 0.0, 0.25])
    assert [case.positive for case in cases] == [None] * 4
    assert REGRESSION.score(output.detach()[3], cases[3]) == {"mae": 2.0, "r2": 20.0, "pearson": 20.0}
    assert REGRESSION.primary(output.detach()[0], cases[0]) == 0.0


def test_large_numbers_keep_their_digits(stated):
    spec = replace(REGRESSION.spec, scale=(1e9, 2.0))
    cases = get_task(spec).prepare([replace(case, numbers={"volume": 1e9 + n}) for n, case in enumerate(stated)])
    output = torch.tensor([[0.0], [0.5], [1.0], [1.5]])
    assert float(get_task(spec).loss(output, collate(cases, CPU))) == 0.0


def test_no_constant_has_a_smaller_error_than_the_naive_number(stated):
    cases = REGRESSION.prepare(stated)[:3]
    naive = REGRESSION.naive_baseline(cases)(cases[0])
    assert REGRESSION.score(naive, cases[0])["r2"] == pytest.approx(6.0)

    def error(output_1):
        return sum(REGRESSION.primary(output_1, case) for case in cases)

    assert all(error(naive) <= error(torch.tensor([constant])) for constant in (-2.0, -0.9, -0.665, 0.0, 1.0))


@pytest.mark.parametrize("task", [GRADING, REGRESSION])
def test_shuffled_targets_and_panels(task, stated):
    cases = task.prepare(stated)
    shuffled = shuffle_targets(cases, 3)
    assert sorted(case.truth for case in shuffled) == [case.truth for case in cases]
    assert [case.truth for case in shuffled] != [case.truth for case in cases]
    for case, other in zip(cases, shuffled, strict=True):
        assert torch.equal(case.input_CDHW, other.input_CDHW)
        assert task.prepare([other])[0].truth == other.truth
    output = torch.zeros(task.outputs)
    assert draw_panels(task.panels(output, cases[0]), "case").startswith(b"\x89PNG")
