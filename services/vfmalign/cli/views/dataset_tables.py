"""Shows a dataset as tables and as a JSON document."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from vfmalign.cli.views.tables import format_creation, list_fields, new_table
from vfmalign.client.formatting import ABSENT
from vfmalign.client.messages.features import Dataset
from vfmalign.core.domain.datasets import SPLITS
from vfmalign.core.domain.declarations import CaseClass, LabelMap
from vfmalign.core.domain.field_of_view import CaseInside
from vfmalign.core.formats.documents import pluralise

_PHANTOM_NOTE = Text("Phantoms only demonstrate the procedure: their results are not evidence.", style="yellow")


def to_dataset_document(dataset: Dataset) -> dict[str, object]:
    """Converts a dataset to the JSON document that commands print."""
    strata: dict[str, dict[str, int]] = {}
    for stratum in dataset.strata:
        strata.setdefault(stratum.name, {})[stratum.value] = stratum.cases
    return {
        "dataset": dataset.dataset_id,
        "digest": dataset.dataset_digest,
        "held_out": dataset.held_out,
        "phantom": dataset.phantom,
        "splits": _count_splits(dataset),
        "declaration": dataset.declaration.model_dump(mode="json"),
        "classes": {count.name: count.model_dump(exclude={"name"}) for count in dataset.classes},
        "grades": [count.model_dump() for count in dataset.grades],
        "numbers": {entry.name: entry.model_dump(exclude={"name"}) for entry in dataset.numbers},
        "strata": strata,
        "cases_without": dataset.cases_without,
        "create_time": dataset.create_time and dataset.create_time.isoformat(),
        "created_by": dataset.created_by,
    }


def _count_splits(dataset: Dataset) -> dict[str, dict[str, int]]:
    sizes = {size.split: {"cases": size.cases, "patients": size.patients} for size in dataset.splits}
    return {split: sizes.get(split, {"cases": 0, "patients": 0}) for split in SPLITS}


def list_patient_notes(dataset: Dataset, layout: str) -> list[str]:
    """Returns a note if a top-level folder contains several cases.

    Such a folder counts as one patient, but may be a site.
    """
    sizes = _count_splits(dataset).values()
    cases, patients = sum(size["cases"] for size in sizes), sum(size["patients"] for size in sizes)
    if layout != "folders" or not dataset.held_out or cases == patients:
        return []
    return [
        f"{cases} cases are of {patients} patients, one for every folder at the top; if the folders are sites, name "
        "the patient of every case with --patients FILE"
    ]


def list_shares(cases: Sequence[CaseInside]) -> dict[str, object]:
    """Returns the share of each structure that lies in a model's field of view, per case. Empty without a model."""
    return {"inside": {case.case: case.inside for case in cases}} if cases else {}


def describe_content(dataset: Dataset) -> str:
    """Returns `phantoms` or `patients`."""
    return "phantoms" if dataset.phantom else "patients"


def show_dataset(dataset: Dataset, **facts: str) -> list[RenderableType]:
    """Returns the tables of a dataset: its declaration, its splits, and the facts of its cases.

    Args:
        dataset: the dataset.
        facts: further lines of the first table.
    """
    declaration = dataset.declaration
    units = ", ".join(f"{modality} in {unit}" for modality, unit in declaration.units.items())
    grades = "; ".join(f"{entry.name} (positive: at least {entry.at_least})" for entry in declaration.grades)
    facts |= ({"units": units} if units else {}) | {
        "content": describe_content(dataset),
        "declaration": declaration.name,
        "modalities": ", ".join(declaration.modalities),
        "label maps": "; ".join(_describe_label_map(label, dataset) for label in declaration.labels) or ABSENT,
        "classes": "; ".join(map(_describe_class, declaration.classes)) or ABSENT,
        **({"grades": grades} if grades else {}),
        "digest": dataset.dataset_digest or ABSENT,
        "created": format_creation(dataset.create_time, dataset.created_by),
        "held out": "yes" if dataset.held_out else "no: the same case is in several splits",
    }
    rows = new_table("", "split", "cases", "patients", numbers=["cases", "patients"])
    for split, counts in _count_splits(dataset).items():
        rows.add_row(split, str(counts["cases"]), str(counts["patients"]))
    tables: list[RenderableType] = [list_fields(f"Dataset {dataset.dataset_id}", facts), rows]
    if dataset.classes:
        tables.append(_list_classes(dataset))
    if dataset.grades:
        tables.append(_list_grades(dataset))
    if dataset.numbers:
        tables.append(_list_numbers(dataset))
    if dataset.strata:
        tables.append(_list_strata(dataset))
    return [*tables, *([_PHANTOM_NOTE] if dataset.phantom else [])]


def _list_classes(dataset: Dataset) -> RenderableType:
    table = new_table("", "class", "positive", "negative", numbers=["positive", "negative"])
    for count in dataset.classes:
        table.add_row(count.name, str(count.positive), str(count.negative))
    return table


def _list_grades(dataset: Dataset) -> RenderableType:
    columns = ["grade", "cases", "test patients"]
    table = new_table("", "graded", *columns, numbers=columns)
    for count in dataset.grades:
        table.add_row(count.name, str(count.grade), str(count.cases), str(count.test_patients))
    return table


def _list_numbers(dataset: Dataset) -> RenderableType:
    units = {entry.name: f" ({entry.unit})" for entry in dataset.declaration.numbers if entry.unit}
    table = new_table("", "number", "cases", "lowest", "highest", numbers=["cases", "lowest", "highest"])
    for entry in dataset.numbers:
        table.add_row(
            entry.name + units.get(entry.name, ""), str(entry.cases), f"{entry.minimum:g}", f"{entry.maximum:g}"
        )
    return table


def _list_strata(dataset: Dataset) -> RenderableType:
    table = new_table("", "stratum", "value", "cases", numbers=["cases"])
    for stratum in dataset.strata:
        # Text, because the value is free text of the user: rich reads square brackets in a string as markup.
        table.add_row(stratum.name, Text(stratum.value), str(stratum.cases))
    return table


def _describe_label_map(label_map: LabelMap, dataset: Dataset) -> str:
    values = ", ".join(f"{value} {name}" for value, name in sorted(label_map.values.items()))
    lacking = dataset.cases_without.get(label_map.name)
    missing = f", missing in {pluralise(lacking, 'case')}" if lacking else ""
    return f"{label_map.name} ({values}){missing}"


def _describe_class(entry: CaseClass) -> str:
    return f"{entry.name} ({entry.label} of at least {entry.at_least})" if entry.label else entry.name
