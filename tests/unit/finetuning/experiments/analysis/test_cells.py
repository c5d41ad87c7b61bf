"""What of a check makes a cell."""

import pytest

from vfmalign.core.domain.artifacts import CaseScore, LayerSpec, ModelCard, Preprocessing, VolumeRef
from vfmalign.core.domain.errors import InvalidInput
from vfmalign.finetuning.analysis.estimates import Estimate, Interval
from vfmalign.finetuning.experiments.analysis.cells import cell_of, standard_error

CARD = ModelCard(
    id="profound-micro", architecture="profound_conv_micro", objective="contrastive",
    checkpoint=VolumeRef(key="models/x", sha256="0" * 64), layers=(LayerSpec(name="stages.3", channels=128),),
    preprocessing=Preprocessing(spacing_mm=None, shape_DHW=(8, 8, 8)), primary_layer="stages.3",
)  # fmt: skip
SCORES = {
    name: [CaseScore(case="c", group="g", values={"lesion_dice": 0.5, "gland_dice": 0.9})]
    for name in ("pretrained", "scratch", "specialised")
}


@pytest.fixture
def cell(make_report):
    def build(scores=SCORES, task="segmentation", **fields):
        return cell_of(CARD, make_report(**fields), scores, check="check-7f3a", task=task, seed=7)

    return build


def test_a_cell_holds_the_check_s_numbers(cell, make_report):
    result, found = make_report().result, cell()
    assert (found.model, found.objective, found.architecture) == (
        "profound-micro",
        "contrastive",
        "profound_conv_micro",
    )
    assert found.shift == result.shift.layer("stages.3").standardised.mmd2
    assert found.shift_ratio == result.shift_ratio["stages.3"]
    assert found.gain == result.rpg_specialised.relative
    assert found.steps_to_95 == result.network("pretrained").convergence.steps_to_95
    assert (found.budget, found.weight_change) == (120, 0.0421)
    assert [curve.network for curve in found.curves] == ["pretrained", "scratch", "specialised"]
    assert set(found.scores) == {"pretrained", "specialised"}
    assert found.scores["pretrained"][0].values == {"lesion_dice": 0.5}
    assert not any(found.marks.model_dump().values())


def test_marks_are_those_of_the_check(cell, make_report):
    result = make_report().result
    worse = result.naive_baseline.model_copy(
        update={"gain": result.naive_baseline.gain.model_copy(update={"difference": Estimate(value=-1.0)})}
    )
    found = cell(held_out=False, naive_baseline=worse, paired_similarity={"stages.3": Estimate(value=0.01)}).marks
    assert (found.not_held_out, found.not_beaten, found.saturated) == (True, True, True)
    wide = Interval(lower=-1, upper=1, level=0.95, method="jackknife", degenerate=True)
    layers = tuple(
        one.model_copy(
            update={
                "standardised": one.standardised.model_copy(update={"mmd2": Estimate(value=0.0, interval=wide)}),
            }
        )
        for one in result.shift.layers
    )
    assert cell(shift=result.shift.model_copy(update={"layers": layers})).marks.degenerate


def test_standard_error_comes_back_from_student_s_interval():
    interval = Interval(lower=1 - 2.200985 * 0.3, upper=1 + 2.200985 * 0.3, level=0.95, method="jackknife")
    assert standard_error(Estimate(value=1.0, interval=interval), 12) == pytest.approx(0.3, rel=1e-6)
    assert standard_error(Estimate(value=1.0), 12) is None


def test_what_does_not_fit_is_refused(cell):
    with pytest.raises(InvalidInput, match="no test scores of specialised"):
        cell(scores={"pretrained": SCORES["pretrained"]})
    with pytest.raises(InvalidInput, match="is of segmentation"):
        cell(task="distortion")


def test_features_without_a_scale_have_no_shift(cell, make_report):
    shift = make_report().result.shift
    bare = tuple(one.model_copy(update={"standardised": None}) for one in shift.layers)
    found = cell(shift=shift.model_copy(update={"layers": bare}))
    assert found.shift.value is None
    assert "standardised" in found.shift.absent_reason
    assert found.shift_se is None
