"""The input of a model: which modality defines the grid, bounds, and digests of records that were written before."""

import pytest
from pydantic import ValidationError

from vfmalign.core.domain.datasets import VolumeRef
from vfmalign.core.domain.models import ModelCard, PreprocessingSpec
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
        id="m", architecture="x", objective="contrastive", checkpoint=VolumeRef(key="k", sha256="a" * 64),
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
