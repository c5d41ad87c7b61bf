"""Losses and metrics of the tasks, against closed forms and on empty masks."""

import math
from dataclasses import replace

import pytest
import torch
from tests.prostate import SPECS

from vfmalign.core.domain import tasks as core_tasks
from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.input_transforms import get_input_transform
from vfmalign.training.data import collate
from vfmalign.training.figures import draw_panels
from vfmalign.training.tasks import TASKS, classification, get_task, restoration, segmentation, translation

CPU = torch.device("cpu")
PROSTATE_TASKS = {name: get_task(spec) for name, spec in SPECS.items()}
SEGMENTATION = segmentation.Segmentation(SPECS["segmentation"])
LESION = 2
ADC = translation.Translation(("t2w", "dwi"), "adc")
CANCER = SPECS["classification"].case_class


def output_of(labels_DHW):
    """Logits whose largest class is the label."""
    return torch.nn.functional.one_hot(labels_DHW.long(), 3).permute(3, 0, 1, 2).float() * 10


def output_for(task, case):
    """Random output of the task's shape."""
    restored = sum(modality in task.restores for modality in case.modalities)
    return torch.randn(1) if task.outputs else torch.randn(task.classes or restored, *case.input_CDHW.shape[1:])


def test_every_task_of_core_can_be_trained():
    assert list(TASKS) == list(core_tasks.TASKS)
    for task in PROSTATE_TASKS.values():
        get_input_transform(task.spec.input_transform)


def test_scores_carry_the_names_of_the_metrics(cases, healthy_case):
    for task in PROSTATE_TASKS.values():
        for case in (cases[0], healthy_case):
            output = output_for(task, case)
            values = task.score(output, case)
            assert list(values) == [metric.name for metric in task.spec.metrics]
            assert values[task.spec.primary_metric.name] == task.primary(output, case)


# --- segmentation -----------------------------------------------------------------------------------------------------


def test_a_perfect_segmentation_scores_one(cases):
    labels = SEGMENTATION.draw(cases[0].labels)
    assert SEGMENTATION.score(output_of(labels), cases[0]) == {
        "lesion_dice": 1.0,
        "gland_dice": 1.0,
        "false_lesion_volume": None,
        "lesion_hd95": 0.0,
        "gland_hd95": 0.0,
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
    labels = SEGMENTATION.draw(healthy_case.labels)
    assert SEGMENTATION.score(output_of(labels), healthy_case)["false_lesion_volume"] == 0.0
    labels[0, 0, :10] = LESION
    values = SEGMENTATION.score(output_of(labels), healthy_case)
    assert values["lesion_dice"] is None
    assert values["false_lesion_volume"] == pytest.approx(10 * 3.0 / 1000)


def test_every_grade_is_lesion_and_wins_over_gland():
    gland = torch.tensor([[[0, 1, 1, 1, 0]]], dtype=torch.uint8)
    lesions = torch.tensor([[[0, 0, 1, 5, 2]]], dtype=torch.uint8)
    assert SEGMENTATION.draw({"gland": gland, "lesions": lesions}).tolist() == [[[0, 1, 2, 2, 2]]]


def test_segmentation_loss_is_near_zero_for_the_truth_and_finite_without_lesion(cases, healthy_case):
    for case in (cases[0], healthy_case):
        batch = collate([case], CPU)
        labels = SEGMENTATION.draw(case.labels)
        right = SEGMENTATION.loss(2 * output_of(labels)[None], batch)
        wrong = SEGMENTATION.loss(output_of((labels + 1) % 3)[None], batch)
        assert right.item() < 0.05 < 2 < wrong.item() < math.inf


# --- super-resolution -------------------------------------------------------------------------------------------------


def test_psnr_is_its_closed_form():
    clean = torch.zeros(2, 8, 8, 8)
    clean[0, 0], clean[1, 0] = 4.0, 2.0  # ranges 4 and 2
    output = clean + 0.1
    expected = (10 * math.log10(16 / 0.01) + 10 * math.log10(4 / 0.01)) / 2
    assert restoration.psnr(output, clean) == pytest.approx(expected, abs=1e-4)


def test_psnr_of_equal_volumes_has_a_ceiling_and_constant_references_have_none():
    clean = torch.randn(3, 8, 8, 8)
    assert restoration.psnr(clean, clean) == restoration.PSNR_CEILING_DB
    constant = torch.zeros(3, 8, 8, 8)
    assert restoration.psnr(clean, constant) is None
    assert restoration.ssim(clean, constant) is None
    constant[1] = clean[1]
    assert restoration.psnr(clean + 0.1, constant) == pytest.approx(restoration.psnr(clean[1:2] + 0.1, clean[1:2]))


def test_ssim_is_one_for_equal_volumes_and_falls_with_noise():
    clean = torch.rand(1, 16, 16, 16)
    assert restoration.ssim(clean, clean) == pytest.approx(1.0)
    little, much = (restoration.ssim(clean + s * torch.randn_like(clean), clean) for s in (0.05, 0.5))
    assert 1 > little > much


def test_super_resolution_loss_compares_with_the_clean_volume(blurred_cases):
    batch = collate(blurred_cases[:2], CPU)
    assert float(PROSTATE_TASKS["super_resolution"].loss(batch.clean_NCDHW, batch)) == 0
    assert float(PROSTATE_TASKS["super_resolution"].loss(batch.input_NCDHW, batch)) > 0


# --- surfaces ---------------------------------------------------------------------------------------------------------


def test_hd95_is_in_mm_along_every_axis():
    reference = torch.zeros(12, 24, 24, dtype=torch.bool)
    reference[4:8, 8:16, 8:16] = True
    for axis, spacing in enumerate((3.0, 1.0, 0.5)):
        moved = reference.roll(2, axis)
        assert segmentation.hd95_mm(moved, reference, (3.0, 1.0, 0.5)) == pytest.approx(2 * spacing)


def test_hd95_of_empty_masks_is_as_the_metric_says():
    empty, full = torch.zeros(4, 4, 4, dtype=torch.bool), torch.ones(4, 4, 4, dtype=torch.bool)
    assert segmentation.hd95_mm(full, empty, (1.0, 1.0, 1.0)) is None
    assert segmentation.hd95_mm(empty, full, (3.0, 1.0, 1.0)) == pytest.approx(math.sqrt(12**2 + 4**2 + 4**2))


def test_class_frequencies_are_the_naive_segmentation(cases):
    predict = SEGMENTATION.class_frequencies(cases)
    values = SEGMENTATION.score(predict(cases[0]), cases[0])
    assert values["gland_dice"] > 0.6
    assert values["lesion_dice"] == SEGMENTATION.score(predict(cases[1]), cases[0])["lesion_dice"] < 0.9


# --- distortion and translation ---------------------------------------------------------------------------------------


def test_distortion_restores_only_dwi(cases):
    bent = replace(cases[0], input_CDHW=cases[0].input_CDHW + torch.tensor([0.0, 0.5, 9.0])[:, None, None, None])
    uncorrected = PROSTATE_TASKS["distortion"].naive_baseline([])(bent)
    assert torch.equal(uncorrected, bent.input_CDHW[1:2])
    span = float(bent.clean_CDHW[1].max() - bent.clean_CDHW[1].min())
    assert PROSTATE_TASKS["distortion"].primary(uncorrected, bent) == pytest.approx(
        20 * math.log10(span / 0.5), abs=1e-3
    )
    assert float(PROSTATE_TASKS["distortion"].loss(uncorrected[None], collate([bent], CPU))) == pytest.approx(
        0.25, rel=1e-4
    )


def test_the_closed_form_recovers_mono_exponential_diffusion(diffusion_cases):
    """ADC of unseen cases from T2W and one b-value, whatever their gains: T2 cancels to TE ratios, which are fitted."""
    predict = ADC.fit(diffusion_cases[:3])
    case = diffusion_cases[3]
    adc = predict(case)
    assert adc.shape == (1, *case.input_CDHW.shape[1:])
    assert not adc[:, :3].any()
    errors = (adc - ADC.restoration.target(case))[:, 3:]
    assert float(errors.abs().mean()) < 0.02  # of 1e-3 mm²/s; each volume is scaled by its own mean
    assert PROSTATE_TASKS["translation"].primary(adc, case) > 35
    assert float(ADC.restoration.target(case).max()) == pytest.approx(2.1, abs=0.05)


def test_an_adc_map_in_other_units_is_refused(diffusion_cases):
    case = diffusion_cases[0]
    other = replace(case, clean_CDHW=case.clean_CDHW / 1000)
    with pytest.raises(BadDataset, match=r"case case-000: .* cannot be in 1e-6 mm²/s"):
        ADC.fit([other])


# --- classification ---------------------------------------------------------------------------------------------------


def test_significant_is_grade_two_or_more_and_any_lesion_where_maps_are_masks(cases):
    def of(*grades):
        return classification.get_positives(
            [replace(cases[0], label_max={"lesions": grade}) for grade in grades], CANCER
        )

    assert of(0, 1, 2, 5, 0) == [False, False, True, True, False]
    assert of(0, 1, 1) == [False, True, True]
    assert of(0, 0) == [False, False]


def test_classification_loss_is_the_cross_entropy_and_its_score_the_probability(cases, classified_cases):
    batch = collate([classified_cases[0], classified_cases[-1]], CPU)
    logits = torch.tensor([[2.0], [-1.0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert float(PROSTATE_TASKS["classification"].loss(logits, batch)) == pytest.approx(expected)
    p = PROSTATE_TASKS["classification"].primary(logits[0], cases[0])
    assert p == pytest.approx(1 / (1 + math.exp(-2)))
    assert PROSTATE_TASKS["classification"].score(logits[0], cases[0]) == {"auroc": p, "balanced_accuracy": p}


def test_the_positive_share_is_the_naive_classification(classified_cases):
    cases = classified_cases
    predict = PROSTATE_TASKS["classification"].naive_baseline(cases[3:])
    assert PROSTATE_TASKS["classification"].primary(predict(cases[0]), cases[0]) == pytest.approx(0.75)
    with pytest.raises(BadDataset, match="every training case is positive"):
        PROSTATE_TASKS["classification"].naive_baseline(cases[:3])


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SPECS))
def test_panels_can_be_drawn_and_are_repeatable(name, cases, healthy_case):
    task = PROSTATE_TASKS[name]
    for case in (
        cases[0],
        healthy_case,
        replace(cases[1], labels={name: torch.zeros_like(label) for name, label in cases[1].labels.items()}),
    ):
        output = output_for(task, case)
        drawn = [draw_panels(task.panels(output, case), f"case {case.case}") for _ in range(2)]
        assert drawn[0].startswith(b"\x89PNG")
        assert drawn[0] == drawn[1]
