"""Scores of a segmentation are those of whole structures: what the field of view cuts off is missed."""

import numpy as np
import pytest
import torch
from tests.cut_organs import CASES, INPUT, LESION_INSIDE
from tests.prostate import PROSTATE, SPECS

from vfmalign.core.domain.metrics import list_structures
from vfmalign.imaging.field_of_view import measure_field_of_view
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.training.data import PreparedCase, shuffle_targets
from vfmalign.training.tasks.segmentation import Segmentation, dice

SEGMENTATION = Segmentation(SPECS["segmentation"])


def prepare(case) -> PreparedCase:
    view = measure_field_of_view(case.volumes, INPUT, list_structures(PROSTATE.labels), "case")
    study = prepare_study(case.volumes, INPUT, labels=PROSTATE.labels, allow_cut=True)
    return PreparedCase(
        case=f"c-{case.number}",
        group=f"g-{case.number}",
        input_CDHW=study.input_CDHW,
        clean_CDHW=study.clean_CDHW,
        labels=study.labels,
        spacing_mm=study.spacing_mm,
        modalities=INPUT.modalities,
        inside=view.inside,
        whole=view.whole,
    )


def predict_truth(prepared):
    """Logits of all that the model can see of the truth."""
    return torch.nn.functional.one_hot(SEGMENTATION.draw(prepared.labels), 3).movedim(-1, 0).float()


def dice_of_visible(mask_XYZ):
    """Dice of a prediction that holds exactly those voxels of a structure that lie in the field of view."""
    seen = np.zeros_like(mask_XYZ)
    seen[8:40, 4:36] = mask_XYZ[8:40, 4:36]
    return 2 * seen.sum() / (seen.sum() + mask_XYZ.sum())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.gland:.0%}-{case.lesion}")
def test_dice_counts_what_lies_outside_as_missed(case):
    prepared = prepare(case)
    values = SEGMENTATION.score(predict_truth(prepared), prepared)
    assert values["gland_dice"] == pytest.approx(dice_of_visible(case.mask("gland", "lesions")))
    share = LESION_INSIDE[case.lesion]
    assert values["lesion_dice"] == pytest.approx(2 * share / (1 + share))
    assert values["false_lesion_volume"] is None, "there is a lesion, wherever it lies"
    assert SEGMENTATION.primary(predict_truth(prepared), prepared) == values["lesion_dice"]


def test_a_lesion_outside_is_missed_whatever_is_predicted():
    prepared = prepare(CASES[2])
    assert not prepared.labels["lesions"].any(), "training sees no lesion"
    for lesion_logit in (-1.0, 1.0):
        output = torch.zeros(3, 16, 32, 32)
        output[2, 8:10, 10:14, 10:14] = lesion_logit
        assert SEGMENTATION.score(output, prepared)["lesion_dice"] == 0.0


def test_distances_are_to_the_whole_surface():
    whole, cut = (prepare(CASES[number]) for number in (0, 3))
    assert SEGMENTATION.score(predict_truth(whole), whole)["gland_hd95"] == 0.0
    assert SEGMENTATION.score(predict_truth(cut), cut)["gland_hd95"] == 3.0, "3 columns of 1 mm lie outside"


def test_a_false_prediction_lowers_dice_as_before():
    prepared = prepare(CASES[3])
    output = predict_truth(prepared)
    output[1, 0, :2, :5] = 2.0  # 10 voxels of gland
    total, seen = CASES[3].mask("gland", "lesions").sum(), int((SEGMENTATION.draw(prepared.labels) > 0).sum())
    assert SEGMENTATION.score(output, prepared)["gland_dice"] == pytest.approx(2 * seen / (seen + 10 + total))


def test_a_case_that_lies_inside_is_scored_as_before():
    prepared = prepare(CASES[0])
    assert prepared.whole is None
    output = torch.randn((3, 16, 32, 32), generator=torch.Generator().manual_seed(1))
    classes = (output.argmax(0), SEGMENTATION.draw(prepared.labels))
    regions = [SEGMENTATION.get_region(one, SEGMENTATION.structures[0]) for one in classes]
    assert SEGMENTATION.score(output, prepared)["gland_dice"] == dice(*regions)


def test_shuffled_targets_are_whole_targets():
    cases = [prepare(case) for case in CASES[:4]]
    for case, other in zip(cases, shuffle_targets(cases, seed=3), strict=True):
        source = next(one for one in cases if one.labels is other.labels)
        assert source.case != case.case
        assert other.whole is source.whole
