"""The input of a model: which modality defines the grid, bounds, and digests of records that were written before."""

import json
import math

import pytest
from pydantic import ValidationError

from vfmalign.core.domain.datasets import Case, StoredObject
from vfmalign.core.domain.models import ModelCard, PreprocessingSpec
from vfmalign.core.domain.record import describe_invalid
from vfmalign.core.storage.feature_sets import FeatureRequest


def make_input(*modalities: str, **fields) -> PreprocessingSpec:
    content = {"modalities": modalities, "spacing_mm": (3.0, 1.0, 1.0), "shape_DHW": (16, 64, 64)}
    return PreprocessingSpec.model_validate(content | fields)


PROSTATE = make_input("t2w", "dwi", "adc")
DWI = make_input("dwi", spacing_mm=None, shape_DHW=(24, 448, 448), normalisation="zscore_gland")


@pytest.mark.parametrize(
    ("preprocessing", "reference"),
    [
        (PROSTATE, "t2w"),
        (DWI, "t2w"),
        (make_input("adc", "dwi"), "t2w"),
        (make_input("t1w"), "t1w"),
        (make_input("flair", "t2w"), "flair"),
        (make_input("dwi", "adc", reference_modality="dwi"), "dwi"),
    ],
)
def test_the_first_modality_defines_the_grid_and_t2w_that_of_prostate_models(preprocessing, reference):
    assert preprocessing.reference == reference


@pytest.mark.parametrize(
    ("preprocessing", "digest", "feature_set", "card_digest"),
    [
        (
            PROSTATE,
            "72d917b1a965a87975e84e067fdf7ff41e9275fd6b3bf6aa65ad8b4539acc693",
            "2b5df9388591ed70e5c28ae0b1a60c67",
            "10713a855f7d6b4c0ff26dba66c2646ed4d5e35cba383b4e9f03812c850abaa0",
        ),
        (
            DWI,
            "e8784d439360c354cf12d773031450c62a2cccf0924abb6f2ef8947408712978",
            "0925a82673a64f0606b3ac89be6055b7",
            "a11110228069168fde68b2d07367b5c84b1776dff956c6b40e339d5a36b28fda",
        ),
    ],
)
def test_prostate_models_keep_their_digests_and_ids(preprocessing, digest, feature_set, card_digest):
    """The values are those of the version before modalities became free."""
    request = FeatureRequest(
        model="m", model_sha256="a" * 64, dataset="d", dataset_digest="b" * 64, split="test", layers=("stages.3",),
        preprocessing=preprocessing,
    )  # fmt: skip
    card = ModelCard(
        id="m", architecture="x", objective="contrastive", checkpoint=StoredObject(key="k", sha256="a" * 64),
        preprocessing=preprocessing, layers=(), primary_layer="y",
    )  # fmt: skip
    assert (preprocessing.digest(), request.feature_set_id(), card.digest()) == (digest, feature_set, card_digest)
    assert ModelCard.model_validate_json(card.to_json()) == card


def test_an_input_that_differs_has_another_digest():
    inputs = [
        make_input("t1w"),
        make_input("t1w", normalisation="quantile_range"),
        make_input("t1w", normalisation="quantile_range", quantiles=(0.01, 0.99)),
        make_input("t1w", reference_modality="flair"),
    ]
    assert len({preprocessing.digest() for preprocessing in inputs}) == len(inputs)
    assert [PreprocessingSpec.model_validate_json(p.to_json()) for p in inputs] == inputs


@pytest.mark.parametrize(
    ("modalities", "fields"),
    [
        ((), {}),
        (("T1w",), {}),
        (("t1w", "t1w"), {}),
        (tuple(f"m{i}" for i in range(17)), {}),
        (("t1w",), {"quantiles": (0.98, 0.02)}),
        (("t1w",), {"quantiles": (-0.1, 0.98)}),
        (("t1w",), {"normalisation": "minmax"}),
    ],
)
def test_inputs_out_of_bounds_are_rejected(modalities, fields):
    with pytest.raises(ValidationError):
        make_input(*modalities, **fields)


def test_a_card_names_its_modalities():
    with pytest.raises(ValidationError, match="modalities"):
        PreprocessingSpec.model_validate({"spacing_mm": None, "shape_DHW": (8, 8, 8)})


CARD = {
    "id": "m",
    "architecture": "x",
    "objective": "random",
    "checkpoint": {"key": "k", "sha256": "a" * 64},
    "preprocessing": {"modalities": ["t1w"], "spacing_mm": [3.0, 1.0, 1.0], "shape_DHW": [16, 64, 64]},
    "layers": [{"name": "stages.0", "channels": 8}],
    "primary_layer": "stages.0",
}


def change_card(path, value):
    """The JSON of a card with one value replaced."""
    content = json.loads(json.dumps(CARD))
    *parents, last = path.split(".")
    target = content
    for name in parents:
        target = target[int(name) if name.isdigit() else name]
    target[int(last) if last.isdigit() else last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("architecture", "x" * (2**14 + 1)),
        ("architecture", ""),
        ("checkpoint.key", "k" * 1025),
        ("checkpoint.key", ""),
        ("preprocessing.spacing_mm.0", math.nan),
        ("preprocessing.spacing_mm.0", math.inf),
        ("preprocessing.spacing_mm.0", 0.0),
        ("preprocessing.spacing_mm.0", -1.0),
        ("preprocessing.spacing_mm.0", 1e-300),
        ("preprocessing.spacing_mm.0", 1e300),
        ("preprocessing.shape_DHW", [100_000, 100_000, 100_000]),
        ("preprocessing.shape_DHW", [4096, 4096, 5]),
        ("preprocessing.shape_DHW.0", 0),
        ("preprocessing.shape_DHW.0", -1),
        ("preprocessing.shape_DHW.0", 2**62),
        ("preprocessing.quantiles", [math.nan, 0.98]),
        ("preprocessing.quantiles", [0.02, math.inf]),
        ("preprocessing.modalities", [f"m{i}" for i in range(17)]),
        ("layers.0.channels", 2**62),
        ("layers.0.channels", 0),
        ("layers.0.channels", -3),
        ("layers.0.name", ""),
        ("layers.0.name", "x" * 129),
        ("layers.0.name", "a\nb"),
        ("layers.0.name", "a\0b"),
        ("layers", [{"name": f"l{i}", "channels": 8} for i in range(257)]),
        ("primary_layer", "x" * 129),
        ("pretraining", [{"dataset": "d", "dataset_digest": "a" * 64, "volume_sha256": [], "groups": []}] * 65),
        ("parent", "../x"),
        ("parent", "x" * 129),
        ("source", "x" * 4097),
    ],
)
def test_every_number_text_and_list_of_a_card_is_bounded(path, value):
    ModelCard.model_validate_json(json.dumps(CARD))
    with pytest.raises(ValidationError) as caught:
        ModelCard.model_validate_json(change_card(path, value))
    assert describe_invalid(caught.value).startswith(path.partition(".")[0])


def test_the_description_of_an_invalid_record_is_short_and_without_the_value():
    with pytest.raises(ValidationError) as caught:
        ModelCard.model_validate_json(change_card("source", "PATIENT" * 1000))
    assert describe_invalid(caught.value) == "source String should have at most 4096 characters"
    with pytest.raises(ValidationError) as caught:
        ModelCard.model_validate_json(change_card("SURNAME" * 10_000, 1))
    assert describe_invalid(caught.value) == "… Extra inputs are not permitted"
    with pytest.raises(ValidationError) as caught:
        Case.model_validate({"id": "c", "group": "g", "volumes": {}, "strata": {"SURNAME, GIVEN": "x"}})
    assert describe_invalid(caught.value).startswith("strata.….[key] String should match pattern")
