"""The input of a model: which modality defines the grid, bounds, and digests of records that were written before."""

import json
import math

import pytest
from pydantic import ValidationError

from vfmalign.core.domain.datasets import Case
from vfmalign.core.domain.models import ModelCard, Preprocessing
from vfmalign.core.domain.record import describe_invalid


def make_input(*modalities: str, **fields) -> Preprocessing:
    content = {"modalities": modalities, "spacing_mm": (3.0, 1.0, 1.0), "shape_dhw": (16, 64, 64)}
    return Preprocessing.model_validate(content | fields)


PROSTATE = make_input("t2w", "dwi", "adc")
DWI = make_input("dwi", spacing_mm=None, shape_dhw=(24, 448, 448), normalisation="zscore_gland")


@pytest.mark.parametrize(
    ("preprocessing", "reference"),
    [
        (PROSTATE, "t2w"),
        (DWI, "t2w"),
        (make_input("adc", "dwi"), "t2w"),
        (make_input("t1w"), "t1w"),
        (make_input("flair", "t2w"), "flair"),
        (make_input("dwi", "adc", reference="dwi"), "dwi"),
    ],
)
def test_the_first_modality_defines_the_grid_and_t2w_that_of_prostate_models(preprocessing, reference):
    assert preprocessing.reference == reference


def test_an_input_that_differs_has_another_digest():
    inputs = [
        make_input("t1w"),
        make_input("t1w", normalisation="quantile_range"),
        make_input("t1w", normalisation="quantile_range", quantiles=(0.01, 0.99)),
        make_input("t1w", reference="flair"),
        make_input("t1w", normalisation="window", window=(-160, 240)),
        make_input("t1w", normalisation="window", window=(0, 400)),
    ]
    assert len({preprocessing.digest() for preprocessing in inputs}) == len(inputs)
    assert [Preprocessing.model_validate_json(p.to_json()) for p in inputs] == inputs


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
        (("ct",), {"normalisation": "window"}),
        (("ct",), {"window": (-160, 240)}),
        (("ct",), {"normalisation": "window", "window": (240, -160)}),
        (("ct",), {"normalisation": "window", "window": (40, 40.5)}),
        (("ct",), {"normalisation": "window", "window": (-1e6, 240)}),
    ],
)
def test_inputs_out_of_bounds_are_rejected(modalities, fields):
    with pytest.raises(ValidationError):
        make_input(*modalities, **fields)


def test_an_input_without_a_window_keeps_the_digest_of_earlier_versions():
    assert PROSTATE.digest() == "df8927747cfa9c92cf3bf6a2d99cfe40c5a78aa01b61ea865e2032fd8c8b57b7"


def test_a_card_names_its_modalities():
    with pytest.raises(ValidationError, match="modalities"):
        Preprocessing.model_validate({"spacing_mm": None, "shape_dhw": (8, 8, 8)})


CARD = {
    "id": "m",
    "architecture": "x",
    "objective": "random",
    "checkpoint": {"key": "k", "sha256": "a" * 64},
    "preprocessing": {"modalities": ["t1w"], "spacing_mm": [3.0, 1.0, 1.0], "shape_dhw": [16, 64, 64]},
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
        ("preprocessing.shape_dhw", [100_000, 100_000, 100_000]),
        ("preprocessing.shape_dhw", [4096, 4096, 5]),
        ("preprocessing.shape_dhw.0", 0),
        ("preprocessing.shape_dhw.0", -1),
        ("preprocessing.shape_dhw.0", 2**62),
        ("preprocessing.quantiles", [math.nan, 0.98]),
        ("preprocessing.quantiles", [0.02, math.inf]),
        ("preprocessing.window", [math.nan, 240.0]),
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
        ("pretraining", [{"dataset_id": "d", "dataset_digest": "a" * 64, "volume_sha256": [], "groups": []}] * 65),
        ("parent_model_id", "../x"),
        ("parent_model_id", "x" * 129),
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


def test_a_patch_lies_within_the_input_and_belongs_to_the_digest_alone_where_it_is_set():
    whole = make_input("t1w")
    patched = make_input("t1w", patch_shape_dhw=(8, 64, 32))
    assert "patch_shape_dhw" not in json.loads(whole.to_json())
    assert patched.content_digest() != whole.content_digest()
    assert (whole.network_shape_dhw, patched.network_shape_dhw) == ((16, 64, 64), (8, 64, 32))
    with pytest.raises(ValidationError, match="a patch is larger than the input"):
        make_input("t1w", patch_shape_dhw=(8, 65, 32))
    with pytest.raises(ValidationError, match="more than 4,096 patches; choose larger patches"):
        make_input("t1w", patch_shape_dhw=(1, 1, 1))
    make_input("t1w", patch_shape_dhw=(4, 8, 8))
