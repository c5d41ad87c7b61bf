"""Losses and metrics of the tasks, against closed forms and on empty masks."""

import math
from dataclasses import replace

import pytest
import torch

from vfmalign.core import tasks as core_tasks
from vfmalign.core.errors import BadOption
from vfmalign.imaging.transforms import INPUT_TRANSFORMS
from vfmalign.training.data import collate
from vfmalign.training.figures import draw_panels
from vfmalign.training.tasks import TASKS, get_task, segmentation, super_resolution

CPU = torch.device("cpu")


def output_of(labels_DHW):
    """Logits whose largest class is the label."""
    return torch.nn.functional.one_hot(labels_DHW.long(), 3).permute(3, 0, 1, 2).float() * 10


def test_every_task_of_core_can_be_trained():
    assert {name: task.spec for name, task in TASKS.items()} == core_tasks.TASKS
    assert all(task.spec.input_transform in INPUT_TRANSFORMS for task in TASKS.values())
    with pytest.raises(BadOption, match="segmentation, super_resolution"):
        get_task("astrology")


def test_scores_carry_the_names_of_the_metrics(cases, healthy_case):
    for task in TASKS.values():
        for case in (cases[0], healthy_case):
            output = torch.randn(task.out_channels or 3, *case.input_CDHW.shape[1:])
            values = task.score(output, case)
            assert list(values) == [metric.name for metric in task.spec.metrics]
            assert values[task.spec.primary_metric.name] == task.primary(output, case)


# --- segmentation -----------------------------------------------------------------------------------------------------


def test_a_perfect_segmentation_scores_one(cases):
    labels = segmentation.labels(cases[0].gland_DHW, cases[0].lesions_DHW)
    assert segmentation.score(output_of(labels), cases[0]) == {
        "lesion_dice": 1.0,
        "gland_dice": 1.0,
        "false_lesion_volume": None,
    }


def test_dice_is_twice_the_overlap_over_the_sum():
    reference, prediction = torch.zeros(4, 4, 4, dtype=torch.bool), torch.zeros(4, 4, 4, dtype=torch.bool)
    reference[0], prediction[0, :2], prediction[1, 0] = True, True, True
    assert segmentation.dice(prediction, reference) == pytest.approx(2 * 8 / (16 + 12))


def test_dice_of_empty_masks_is_as_the_metric_says():
    empty, full = torch.zeros(4, 4, 4, dtype=torch.bool), torch.ones(4, 4, 4, dtype=torch.bool)
    assert segmentation.dice(empty, empty) is None
    assert segmentation.dice(full, empty) is None
    assert segmentation.dice(empty, full) == 0.0


def test_a_case_without_lesion_has_a_false_volume_and_no_dice(healthy_case):
    labels = segmentation.labels(healthy_case.gland_DHW, healthy_case.lesions_DHW)
    assert segmentation.score(output_of(labels), healthy_case)["false_lesion_volume"] == 0.0
    labels[0, 0, :10] = segmentation.LESION
    values = segmentation.score(output_of(labels), healthy_case)
    assert values["lesion_dice"] is None
    assert values["false_lesion_volume"] == pytest.approx(10 * 3.0 / 1000)


def test_every_grade_is_lesion_and_wins_over_gland():
    gland = torch.tensor([[[0, 1, 1, 1, 0]]], dtype=torch.uint8)
    lesions = torch.tensor([[[0, 0, 1, 5, 2]]], dtype=torch.uint8)
    assert segmentation.labels(gland, lesions).tolist() == [[[0, 1, 2, 2, 2]]]


def test_segmentation_loss_is_near_zero_for_the_truth_and_finite_without_lesion(cases, healthy_case):
    for case in (cases[0], healthy_case):
        batch = collate([case], CPU)
        labels = segmentation.labels(case.gland_DHW, case.lesions_DHW)
        right = segmentation.loss(2 * output_of(labels)[None], batch)
        wrong = segmentation.loss(output_of((labels + 1) % 3)[None], batch)
        assert right.item() < 0.05 < 2 < wrong.item() < math.inf


# --- super-resolution -------------------------------------------------------------------------------------------------


def test_psnr_is_its_closed_form():
    clean = torch.zeros(2, 8, 8, 8)
    clean[0, 0], clean[1, 0] = 4.0, 2.0  # ranges 4 and 2
    output = clean + 0.1
    expected = (10 * math.log10(16 / 0.01) + 10 * math.log10(4 / 0.01)) / 2
    assert super_resolution.psnr(output, clean) == pytest.approx(expected, abs=1e-4)


def test_psnr_of_equal_volumes_has_a_ceiling_and_constant_references_have_none():
    clean = torch.randn(3, 8, 8, 8)
    assert super_resolution.psnr(clean, clean) == super_resolution.PSNR_CEILING_DB
    constant = torch.zeros(3, 8, 8, 8)
    assert super_resolution.psnr(clean, constant) is None
    assert super_resolution.ssim(clean, constant) is None
    constant[1] = clean[1]
    assert super_resolution.psnr(clean + 0.1, constant) == pytest.approx(
        super_resolution.psnr(clean[1:2] + 0.1, clean[1:2])
    )


def test_ssim_is_one_for_equal_volumes_and_falls_with_noise():
    clean = torch.rand(1, 16, 16, 16)
    assert super_resolution.ssim(clean, clean) == pytest.approx(1.0)
    little, much = (super_resolution.ssim(clean + s * torch.randn_like(clean), clean) for s in (0.05, 0.5))
    assert 1 > little > much


def test_super_resolution_loss_compares_with_the_clean_volume(blurred_cases):
    batch = collate(blurred_cases[:2], CPU)
    assert float(super_resolution.loss(batch.clean_NCDHW, batch)) == 0
    assert float(super_resolution.loss(batch.input_NCDHW, batch)) > 0


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(TASKS))
def test_panels_can_be_drawn_and_are_repeatable(name, cases, healthy_case):
    task = TASKS[name]
    for case in (cases[0], healthy_case, replace(cases[1], gland_DHW=torch.zeros_like(cases[1].gland_DHW))):
        output = torch.randn(task.out_channels or 3, *case.input_CDHW.shape[1:])
        drawn = [draw_panels(task.panels(output, case), f"case {case.case}") for _ in range(2)]
        assert drawn[0].startswith(b"\x89PNG")
        assert drawn[0] == drawn[1]
