"""Declarations of datasets, and the digests of the datasets that carry them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.declarations import DatasetDeclaration, get_declaration, list_declarations
from vfmalign.core.domain.errors import BadOption

BRAIN: dict[str, Any] = {
    "name": "brain",
    "modalities": ["t1w"],
    "labels": [{"name": "hippocampus", "values": {"1": "anterior", "2": "posterior"}}],
    "classes": [{"name": "atrophy"}],
}


def test_every_declaration_that_comes_along_is_valid_and_has_the_name_of_its_file() -> None:
    assert "prostate_mpmri" in list_declarations()
    for name in list_declarations():
        assert get_declaration(name).name == name


def test_an_unknown_declaration_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadOption, match="prostate_mpmri"):
        get_declaration("../secrets")


def test_grades_of_one_structure_are_one_structure() -> None:
    lesions = get_declaration("prostate_mpmri").labels[1]
    assert lesions.structures == ("lesion",)
    assert DatasetDeclaration.model_validate(BRAIN).labels[0].structures == ("anterior", "posterior")


@pytest.mark.parametrize(
    "change",
    [
        {"modalities": []},
        {"modalities": ["T1w"]},
        {"modalities": ["t1w", "t1w"]},
        {"modalities": ["t1w", "hippocampus"]},
        {"modalities": ["../t1w"]},
        {"labels": [{"name": "hippocampus", "values": {}}]},
        {"labels": [{"name": "hippocampus", "values": {"0": "background"}}]},
        {"labels": [{"name": "hippocampus", "values": {"1": "anterior"}, "weight": float("nan")}]},
        {"labels": [{"name": "hippocampus", "values": {"1": "anterior"}, "within": "brain"}]},
        {"labels": [{"name": "hippocampus", "values": {"1": "anterior"}, "within": "hippocampus"}]},
        {"classes": [{"name": "atrophy"}, {"name": "atrophy"}]},
        {"classes": [{"name": "atrophy", "label": "thalamus"}]},
        {"units": {"t1w": "mm"}},
        {"units": {"ct": "HU"}},
        {"units": {"hippocampus": "HU"}},
    ],
)
def test_a_wrong_declaration_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DatasetDeclaration.model_validate(BRAIN | change)


def test_the_digest_of_a_dataset_depends_on_all_that_it_declares() -> None:
    case = Case(id="c-1", group="g-1", volumes={})
    brain = DatasetDeclaration.model_validate(BRAIN)
    manifests = [
        DatasetManifest(id="d", train=(case,)),
        DatasetManifest(id="d", train=(case,), declaration=brain),
        DatasetManifest(id="d", train=(case,), declaration=brain.model_copy(update={"classes": ()})),
        DatasetManifest(id="d", train=(case,), declaration=brain.model_copy(update={"units": {"t1w": "HU"}})),
        DatasetManifest(id="d", train=(case.model_copy(update={"classes": {"atrophy": False}}),), declaration=brain),
        DatasetManifest(id="d", train=(case.model_copy(update={"strata": {"site": "a"}}),), declaration=brain),
        DatasetManifest(id="d", train=(case.model_copy(update={"numbers": {"age_years": 0.0}}),), declaration=brain),
    ]
    assert len({manifest.digest() for manifest in manifests}) == len(manifests)


def test_datasets_without_units_keep_the_digests_of_earlier_versions() -> None:
    hippocampus = DatasetManifest(id="d", declaration=get_declaration("hippocampus"))
    assert hippocampus.digest() == "2be4482cd234000c1ae0cbb75a29d992db524af683d442cda9b8e373fc50a1eb"
    assert DatasetManifest(id="d").digest() == "f49df38ce6e21503e32c7cd2631041e140a36b0efc6c5f03163a98a9f9f50065"
    assert "units" not in hippocampus.declaration.model_dump(mode="json")
