"""Descriptions of datasets: what is declared, and counts of what cases state."""

from __future__ import annotations

from typing import Any

from vfmalign.client.dataset_description import describe_dataset
from vfmalign.client.messages.features import ClassCount, Dataset, GradeCount, NumberRange, SplitSize, StratumCount
from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.declarations import get_declaration

DECLARATION: dict[str, Any] = {
    "name": "brain",
    "modalities": ["t1w", "flair"],
    "labels": [{"name": "hippocampus", "values": {"1": "anterior", "2": "posterior"}, "weight": 2.5}],
    "classes": [
        {"name": "atrophy"},
        {"name": "present", "label": "hippocampus", "at_least": 1},
        {"name": "unstated"},
    ],
    "defaults": {"segmentation": {"labels": ["hippocampus"], "structures": ["anterior"]}},
}


def case(number: int, *kinds: str, **fields: Any) -> Case:
    volumes = {kind: {"key": kind, "sha256": f"{number:064x}"} for kind in kinds}
    return Case.model_validate({"id": f"c{number}", "group": f"g{number // 2}", "volumes": volumes} | fields)


def test_classes_numbers_and_strata_are_counted_once_per_case() -> None:
    first = case(0, "t1w", classes={"atrophy": True}, numbers={"age_years": 70.0}, strata={"site": "a"})
    second = case(1, "t1w", "flair", "hippocampus", classes={"atrophy": False}, numbers={"age_years": 60.5})
    third = case(2, "t1w", "hippocampus", classes={"atrophy": True}, strata={"site": "b", "scanner": "x"})
    dataset = DatasetManifest.model_validate(
        {
            "id": "d",
            "held_out": False,
            "declaration": DECLARATION,
            "train": (first, second, third),
            "val": (second, first),
            "test": (case(3, "t1w", strata={"site": "a"}),),
        }
    )
    described = describe_dataset(dataset)
    assert described.splits == (
        SplitSize(split="train", cases=3, patients=2),
        SplitSize(split="val", cases=2, patients=1),
        SplitSize(split="test", cases=1, patients=1),
    )
    assert described.modalities == ("t1w",), "not every case has flair"
    assert described.label_maps == ()
    assert described.cases_without == {"hippocampus": 2}
    assert described.classes == (
        ClassCount(name="atrophy", positive=2, negative=1, test_positive=0, test_negative=0),
        ClassCount(name="unstated", test_positive=0, test_negative=0),
    )
    assert described.numbers == (NumberRange(name="age_years", cases=2, minimum=60.5, maximum=70.0),)
    assert described.strata == (
        StratumCount(name="scanner", value="x", cases=1),
        StratumCount(name="site", value="a", cases=2),
        StratumCount(name="site", value="b", cases=1),
    )
    assert described.declaration == dataset.declaration


def test_a_description_survives_the_wire() -> None:
    for declaration, kind in ((DECLARATION, "t1w"), (get_declaration("prostate_mpmri"), "t2w")):
        dataset = DatasetManifest.model_validate({"id": "d", "declaration": declaration, "test": (case(0, kind),)})
        described = describe_dataset(dataset)
        message = Dataset.PROTO.FromString(described.to_proto().SerializeToString())
        assert Dataset.from_response(message) == described
        assert Dataset.from_response(message).declaration == dataset.declaration


def test_test_patients_are_counted_by_class() -> None:
    """Cases 2n and 2n + 1 are of one patient: one with a positive case counts as positive alone."""
    classes = [True, False, False, False, True, True]
    cases = [case(number, "t1w", classes={"atrophy": value}) for number, value in enumerate(classes)]
    dataset = DatasetManifest.model_validate({"id": "d", "declaration": DECLARATION, "test": (*cases, case(9, "t1w"))})
    atrophy = describe_dataset(dataset).classes[0]
    assert (atrophy.test_positive, atrophy.test_negative) == (2, 1)


def test_test_patients_are_counted_by_their_highest_grade() -> None:
    cases = [case(number, "t1w", grades={"fazekas": value}) for number, value in enumerate([0, 3, 0, 0, 1, 1])]
    declaration = DECLARATION | {"grades": [{"name": "fazekas"}]}
    dataset = DatasetManifest.model_validate(
        {"id": "d", "declaration": declaration, "train": (case(8, "t1w", grades={"fazekas": 2}),), "test": cases}
    )
    described = describe_dataset(dataset)
    assert [(count.grade, count.cases, count.test_patients) for count in described.grades] == [
        (0, 3, 1), (1, 2, 1), (2, 1, 0), (3, 1, 1),
    ]  # fmt: skip
    message = Dataset.PROTO.FromString(described.to_proto().SerializeToString())
    assert Dataset.from_response(message) == described
    assert described.grades[0] == GradeCount(name="fazekas", grade=0, cases=3, test_patients=1)
