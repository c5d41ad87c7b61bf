"""Modality maps: what feeds what, which grid it gives, and errors that name the object and suggest a map."""

import pytest

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.declarations import DatasetDeclaration
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import TrainingSpec
from vfmalign.core.domain.modality_map import map_modalities, resolve_input
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.recipes import get_finetuning_recipe

BRAIN = DatasetDeclaration(name="brain", modalities=("t1w", "flair"))
STROKE = DatasetDeclaration(name="stroke", modalities=("dwi", "adc"))


def make_input(*modalities: str) -> Preprocessing:
    return Preprocessing(modalities=modalities, spacing_mm=None, shape_dhw=(8, 8, 8))


@pytest.mark.parametrize(
    ("modalities", "modality_map", "mapped", "reference"),
    [
        (("input",), {"t1w": "input"}, ("t1w",), "t1w"),
        (("input",), {"dwi": "input"}, ("dwi",), "dwi"),
        (("t2w", "dwi", "adc"), {"t1w": "t2w"}, ("t1w", "dwi", "adc"), "t1w"),
        (("t2w", "dwi", "adc"), {"pd": "adc"}, ("t2w", "dwi", "pd"), "t2w"),
        (("adc", "t2w"), {"b": "adc"}, ("b", "t2w"), "t2w"),
        (("dwi",), {"flair": "dwi"}, ("flair",), "flair"),
        (("dwi",), {"dwi": "dwi"}, ("dwi",), "dwi"),
        (("a", "b"), {"b": "a", "a": "b"}, ("b", "a"), "b"),
    ],
)
def test_a_map_renames_inputs_and_keeps_the_order_of_channels(modalities, modality_map, mapped, reference):
    result = map_modalities(make_input(*modalities), modality_map)
    assert result.modalities == mapped
    assert result.reference == reference


def test_without_a_map_the_input_stays():
    preprocessing = make_input("t2w", "dwi", "adc")
    assert map_modalities(preprocessing, {}) is preprocessing
    assert map_modalities(preprocessing, {"t2w": "t2w"}) == preprocessing


@pytest.mark.parametrize(
    ("modalities", "modality_map", "says", "remedy"),
    [
        (("input",), {}, "net takes input, which the dataset (brain) does not have", "--map t1w=input"),
        (("input", "t1w"), {}, "net takes input, which the dataset", "--map flair=input"),
        (("a", "b"), {}, "net takes a, b, which the dataset", "--map t1w=a --map flair=b"),
        (("a", "b", "c"), {}, "net takes a, b, c, which", "a model that takes t1w, flair"),
        (("input",), {"t2w": "input"}, "the dataset (brain) has no modality t2w", "choose one of t1w, flair"),
        (("input",), {"t1w": "inptu"}, "net has no input inptu", "choose one of input"),
        (("t1w", "b"), {"t1w": "b"}, "t1w feeds two inputs of net: itself and b", "map another modality to t1w"),
    ],
)
def test_wrong_maps_are_refused_by_name(modalities, modality_map, says, remedy):
    with pytest.raises(BadOption) as caught:
        resolve_input("net", make_input(*modalities), modality_map, BRAIN, "spec.modality_map")
    assert says in caught.value.message
    assert remedy in caught.value.remedy
    assert caught.value.field == "spec.modality_map"


def test_a_grid_that_the_dataset_lacks_is_refused_with_the_map_that_helps():
    with pytest.raises(BadOption, match=r"net takes the grid from t2w.*\(stroke\)") as caught:
        resolve_input("net", make_input("dwi"), {}, STROKE)
    assert "--map dwi=dwi" in caught.value.remedy
    assert resolve_input("net", make_input("dwi"), {"dwi": "dwi"}, STROKE).reference == "dwi"


CT = DatasetDeclaration(name="abdomen", modalities=("ct", "mr"), units={"ct": "HU"})
WINDOW = Preprocessing(modalities=("input",), shape_dhw=(8, 8, 8), normalisation="window", window=(-160, 240))


@pytest.mark.parametrize("normalisation", ["zscore_nonzero", "zscore_gland", "quantile_range", "window"])
def test_a_window_takes_modalities_in_hu_and_nothing_else_does(normalisation):
    window = WINDOW.window if normalisation == "window" else None
    preprocessing = Preprocessing(
        modalities=("input",), shape_dhw=(8, 8, 8), normalisation=normalisation, window=window
    )
    fits, other = ("ct", "mr") if normalisation == "window" else ("mr", "ct")
    assert resolve_input("net", preprocessing, {fits: "input"}, CT).modalities == (fits,)
    with pytest.raises(BadOption, match=f"{other} is (not stated to be )?in HU") as caught:
        resolve_input("net", preprocessing, {other: "input"}, CT, "spec.modality_map")
    assert caught.value.field == "spec.modality_map"
    assert "choose a model with" in caught.value.remedy


REQUESTS = {
    CheckSpec: {"model_id": "m", "dataset_id": "d", "task": "segmentation"},
    ExperimentSpec: {"dataset_id": "d"},
    JobSpec: {"kind": "pretrain", "dataset_id": "d"},
    ExtractDatasetRequest: {"model_id": "m", "dataset_id": "d", "split": "test"},
}


@pytest.mark.parametrize("message", REQUESTS)
def test_requests_carry_a_map_and_leave_an_empty_one_out(message):
    plain, mapped = (message.from_fields(**REQUESTS[message], **m) for m in ({}, {"modality_map": {"t1w": "input"}}))
    assert b"modality_map" not in plain.to_json()
    assert message.from_proto(mapped.to_proto()) == mapped
    assert message.from_proto(plain.to_proto()) == plain
    assert message.model_validate_json(mapped.to_json()) == mapped


@pytest.mark.parametrize("message", REQUESTS)
@pytest.mark.parametrize(
    ("modality_map", "says"),
    [
        ({"t1w": "a", "t2w": "a"}, "two modalities are mapped to one input"),
        ({"T1w": "a"}, "not a valid id"),
        ({"t1w": "A"}, "not a valid id"),
        ({f"m{i}": f"n{i}" for i in range(17)}, "at most 16"),
    ],
)
def test_maps_have_bounds(message, modality_map, says):
    with pytest.raises(BadOption, match=says) as caught:
        message.from_fields(**REQUESTS[message], modality_map=modality_map)
    assert caught.value.field.startswith("modality_map")


def test_a_job_without_a_map_or_cut_organs_keeps_its_stored_spec():
    spec = TrainingSpec(
        job_id="j", kind="finetune", dataset_id="d", dataset_digest="a" * 64, architecture="x", seed=0,
        recipe=get_finetuning_recipe("pretrained", "segmentation"),
    )  # fmt: skip
    assert b"modality_map" not in spec.to_json()
    assert b"allow_cut_organs" not in spec.to_json()
    assert b"frozen" not in spec.to_json()
    mapped = spec.model_copy(update={"modality_map": {"t1w": "input"}})
    assert TrainingSpec.model_validate_json(mapped.to_json()) == mapped
