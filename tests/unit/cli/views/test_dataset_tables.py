"""A dataset as the command line shows it."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from vfmalign.cli.views.dataset_tables import show_dataset, to_dataset_document
from vfmalign.client.messages.features import ClassCount, Dataset, GradeCount, NumberRange, SplitSize, StratumCount
from vfmalign.core.domain.declarations import DatasetDeclaration, get_declaration


def render(dataset: Dataset) -> str:
    console = Console(file=io.StringIO(), width=160)
    for part in show_dataset(dataset):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def brain(**fields: Any) -> Dataset:
    declaration = DatasetDeclaration.model_validate(
        {
            "name": "brain",
            "modalities": ["t1w", "flair"],
            "labels": [{"name": "hippocampus", "values": {"2": "posterior", "1": "anterior"}}],
            "classes": [{"name": "atrophy"}, {"name": "present", "label": "hippocampus", "at_least": 2}],
            "grades": [{"name": "fazekas", "at_least": 2}],
            "numbers": [{"name": "age_years", "unit": "years"}],
        }
    )
    sizes = (SplitSize(split="train", cases=5, patients=4),)
    return Dataset(
        dataset_id="b", dataset_digest="0" * 64, splits=sizes, declaration=declaration, held_out=True, **fields
    )


def test_the_declaration_and_the_counts_are_shown() -> None:
    text = render(
        brain(
            classes=(ClassCount(name="atrophy", positive=3, negative=1),),
            grades=(GradeCount(name="fazekas", grade=2, cases=4, test_patients=1),),
            numbers=(NumberRange(name="age_years", cases=5, minimum=60.5, maximum=71.25),),
            strata=(StratumCount(name="scanner", value="[red]A", cases=5),),
        )
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "modalities t1w, flair" in lines
    assert "label maps hippocampus (1 anterior, 2 posterior)" in lines
    assert "classes atrophy; present (hippocampus of at least 2)" in lines
    assert "atrophy 3 1" in lines
    assert "grades fazekas (positive: at least 2)" in lines
    assert "fazekas 2 4 1" in lines
    assert "age_years (years) 5 60.5 71.25" in lines
    assert "scanner [red]A 5" in lines


def test_a_label_map_that_cases_lack_is_marked() -> None:
    dataset = brain(cases_without={"hippocampus": 1})
    assert "hippocampus (1 anterior, 2 posterior), missing in 1 case" in render(dataset)
    assert to_dataset_document(dataset)["cases_without"] == {"hippocampus": 1}


def test_the_document_holds_what_the_tables_show() -> None:
    document = to_dataset_document(brain(strata=(StratumCount(name="site", value="a", cases=2),)))
    assert document["strata"] == {"site": {"a": 2}}
    assert document["splits"]["train"] == {"cases": 5, "patients": 4}
    assert document["splits"]["test"] == {"cases": 0, "patients": 0}
    assert DatasetDeclaration.model_validate(document["declaration"]) == brain().declaration


def test_the_publisher_is_shown_if_it_is_known() -> None:
    time = datetime(2026, 3, 1, 8, 30, tzinfo=UTC)
    known = brain(create_time=time, created_by="https://idp#ada")
    assert "2026-03-01 08:30:00 by https://idp#ada" in render(known)
    document = to_dataset_document(known)
    assert (document["create_time"], document["created_by"]) == ("2026-03-01T08:30:00+00:00", "https://idp#ada")
    document = to_dataset_document(brain())
    assert (document["create_time"], document["created_by"]) == (None, "")


def test_phantoms_are_marked() -> None:
    declaration = get_declaration("prostate_mpmri")
    text = render(
        Dataset(dataset_id="p", dataset_digest="0" * 64, phantom=True, held_out=True, declaration=declaration)
    )
    assert "their results are not evidence" in text
    assert "their results are not evidence" not in render(brain())
