"""Cells built from the reports of checks."""

import pytest

from vfmalign.analysis.experiments.cells import Cell, get_shift_variants, make_cell, standard_error
from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.client.messages.mmd import ShiftResult, TopChannels
from vfmalign.core.domain.errors import InvalidInput
from vfmalign.core.domain.jobs import CaseScore
from vfmalign.core.domain.models import Layer, ModelCard, Preprocessing
from vfmalign.core.domain.stored_objects import StoredObject

CARD = ModelCard(
    id="profound-micro", architecture="profound_conv_micro", objective="contrastive",
    checkpoint=StoredObject(key="models/x", sha256="0" * 64), layers=(Layer(name="stages.3", channels=128),),
    preprocessing=Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=None, shape_dhw=(8, 8, 8)),
    primary_layer="stages.3",
)  # fmt: skip
SCORES = {
    name: [CaseScore(case="c", group="g", values={"lesion_dice": 0.5, "gland_dice": 0.9})]
    for name in ("pretrained", "scratch", "specialised")
}


@pytest.fixture
def cell(make_report):
    def build(scores=SCORES, task="segmentation", **fields):
        return make_cell(CARD, make_report(**fields), scores, check="check-7f3a", task=task, seed=7)

    return build


def test_a_cell_holds_the_check_s_numbers(cell, make_report):
    result, built = make_report().result, cell()
    assert (built.model_id, built.objective, built.architecture) == (
        "profound-micro",
        "contrastive",
        "profound_conv_micro",
    )
    assert built.shift == result.shift.get_layer("stages.3").standardised.mmd2
    assert built.shift_ratio == result.shift_ratio["stages.3"]
    assert built.gain == result.rpg_specialised.relative_percent
    assert (built.verdict, built.pretraining) == (result.verdict, result.pretraining)
    assert (built.gain_difference, built.scratch_difference) == (
        result.rpg_specialised.absolute,
        result.rpg_scratch.absolute,
    )
    assert built.steps_to_95 == result.network("pretrained").convergence.steps_to_95
    assert (built.budget, built.weight_change) == (120, 0.0421)
    assert [curve.network for curve in built.curves] == ["pretrained", "scratch", "specialised"]
    assert set(built.scores) == {"pretrained", "specialised", "scratch"}
    assert built.scores["pretrained"][0].values == {"lesion_dice": 0.5}
    assert not any(built.flags.model_dump().values())


def test_a_cell_of_an_earlier_version_has_no_answer_on_pretraining(cell):
    fields = cell().model_dump(mode="json", exclude={"pretraining", "scratch_difference", "scores"})
    scores = cell().model_dump(mode="json")["scores"]
    read = Cell.model_validate(fields | {"scores": {name: scores[name] for name in ("pretrained", "specialised")}})
    assert (read.pretraining, read.scratch_difference) == (None, None)
    assert cell(pretraining=None).pretraining is None, "from the stored result of such a version"


def test_flags_are_those_of_the_check(cell, make_report):
    result = make_report().result
    worse = result.naive_baseline.model_copy(
        update={"gain": result.naive_baseline.gain.model_copy(update={"absolute": Estimate(value=-1.0)})}
    )
    flags = cell(held_out=False, naive_baseline=worse, paired_similarity={"stages.3": Estimate(value=0.01)}).flags
    assert (flags.not_held_out, flags.not_beaten, flags.saturated) == (True, True, True)
    wide = Interval(lower=-1, upper=1, level=0.95, method="jackknife", degenerate=True)
    layers = tuple(
        one.model_copy(
            update={
                "standardised": one.standardised.model_copy(update={"mmd2": Estimate(value=0.0, interval=wide)}),
            }
        )
        for one in result.shift.layers
    )
    assert cell(shift=result.shift.model_copy(update={"layers": layers})).flags.degenerate


def test_variants_change_one_choice_each(cell, make_report):
    shift = make_report().result.shift
    names = [layer.layer for layer in shift.layers]
    card = CARD.model_copy(update={"layers": tuple(Layer(name=name, channels=8) for name in sorted(names))})
    result = make_report(shift_by_bandwidth={"0.5": Estimate(value=0.5), "2": absent("no bandwidth")}).result
    variants = get_shift_variants(card, result)
    primary = shift.get_layer(shift.primary_layer)
    assert variants["raw"] == primary.raw.mmd2
    assert variants["half_bandwidth"].value == 0.5
    assert variants["double_bandwidth"].absent_reason == "no bandwidth"
    ordered = [shift.get_layer(name).standardised.mmd2 for name in sorted(names)]
    assert variants["first_layer"] == ordered[0]
    assert variants["middle_layer"] == ordered[len(names) // 2]
    assert variants["last_layer"] == ordered[-1]
    assert cell(shift_by_bandwidth=result.shift_by_bandwidth).shift_variants["half_bandwidth"].value == 0.5


def test_the_variant_without_the_top_channels_is_that_of_the_primary_layer(make_report):
    result = make_report().result
    shift, without = result.shift, ShiftResult(mmd2=Estimate(value=0.03125), sigma=1.0)
    top = TopChannels(count=1, displacement_share=Estimate(value=0.5), shift_without=without)
    layers = tuple(
        layer.model_copy(update={"top_channels": top}) if layer.layer == shift.primary_layer else layer
        for layer in shift.layers
    )
    changed = result.model_copy(update={"shift": shift.model_copy(update={"layers": layers})})
    assert get_shift_variants(CARD, changed)["without_top_channels"].value == 0.03125


def test_standard_error_comes_back_from_student_s_interval():
    interval = Interval(lower=1 - 2.200985 * 0.3, upper=1 + 2.200985 * 0.3, level=0.95, method="jackknife")
    assert standard_error(Estimate(value=1.0, interval=interval), 12) == pytest.approx(0.3, rel=1e-6)
    assert standard_error(Estimate(value=1.0), 12) is None


def test_inputs_that_do_not_match_are_rejected(cell):
    with pytest.raises(InvalidInput, match="no test scores of specialised, scratch"):
        cell(scores={"pretrained": SCORES["pretrained"]})
    with pytest.raises(InvalidInput, match="is of segmentation"):
        cell(task="distortion")


def test_features_without_a_scale_have_no_shift(cell, make_report):
    shift = make_report().result.shift
    bare = tuple(one.model_copy(update={"standardised": None}) for one in shift.layers)
    built = cell(shift=shift.model_copy(update={"layers": bare}))
    assert built.shift.value is None
    assert "standardised" in built.shift.absent_reason
    assert built.shift_se is None
