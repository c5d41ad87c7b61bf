"""Summary of a dataset for the API: sizes, classes, grades, numbers and strata, but not the single cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from vfmalign.client.messages.features import ClassCount, Dataset, GradeCount, NumberRange, SplitSize, StratumCount
from vfmalign.core.domain.datasets import SPLITS, Case, DatasetManifest


def describe_dataset(dataset: DatasetManifest) -> Dataset:
    """Describes a dataset. A case in several splits counts once, except in the sizes of the splits."""
    rows = {split: dataset.split(split) for split in SPLITS}
    cases = list({case.id: case for split in SPLITS for case in rows[split]}.values())
    kinds = set.intersection(*(set(case.volumes) for case in cases)) if cases else set()
    lacking = {kind: sum(kind not in case.volumes for case in cases) for kind in dataset.declaration.label_names}
    return Dataset(
        dataset_id=dataset.id,
        dataset_digest=dataset.digest(),
        splits=tuple(
            SplitSize(split=split, cases=len(members), patients=len({case.group for case in members}))
            for split, members in rows.items()
            if members
        ),
        modalities=tuple(kind for kind in dataset.declaration.modalities if kind in kinds),
        label_maps=tuple(kind for kind in dataset.declaration.label_names if kind in kinds),
        held_out=dataset.held_out,
        phantom=dataset.phantom,
        declaration=dataset.declaration,
        classes=_count_classes(dataset, cases),
        grades=_count_grades(dataset, cases),
        numbers=_describe_numbers(cases),
        strata=_count_strata(cases),
        cases_without={kind: count for kind, count in lacking.items() if count},
        has_dicom_rules=bool(dataset.selections),
    )


def _count_classes(dataset: DatasetManifest, cases: Iterable[Case]) -> tuple[ClassCount, ...]:
    counts = Counter(item for case in cases for item in case.classes.items())
    # A patient with a positive case counts as positive, as in the analysis of the gain.
    tested = {
        (name, positive): {case.group for case in dataset.test if case.classes.get(name) is positive}
        for name, _ in counts
        for positive in (True, False)
    }
    none: set[str] = set()
    return tuple(
        ClassCount(
            name=entry.name,
            positive=counts[entry.name, True],
            negative=counts[entry.name, False],
            test_positive=len(tested.get((entry.name, True), none)),
            test_negative=len(tested.get((entry.name, False), none) - tested.get((entry.name, True), none)),
        )
        for entry in dataset.declaration.classes
        if not entry.label
    )


def _count_grades(dataset: DatasetManifest, cases: Iterable[Case]) -> tuple[GradeCount, ...]:
    counts = Counter(item for case in cases for item in case.grades.items())
    # The highest grade of a patient's cases decides whether the patient is positive, as in the analysis of the gain.
    highest: dict[tuple[str, str], int] = {}
    for case in dataset.test:
        for name, grade in case.grades.items():
            highest[name, case.group] = max(grade, highest.get((name, case.group), 0))
    patients = Counter((name, grade) for (name, _), grade in highest.items())
    return tuple(
        GradeCount(name=name, grade=grade, cases=counts[name, grade], test_patients=patients[name, grade])
        for name in (entry.name for entry in dataset.declaration.grades)
        for grade in sorted(grade for other, grade in counts if other == name)
    )


def _describe_numbers(cases: Iterable[Case]) -> tuple[NumberRange, ...]:
    values: dict[str, list[float]] = {}
    for case in cases:
        for name, value in case.numbers.items():
            values.setdefault(name, []).append(value)
    return tuple(
        NumberRange(name=name, cases=len(numbers), minimum=min(numbers), maximum=max(numbers))
        for name, numbers in sorted(values.items())
    )


def _count_strata(cases: Iterable[Case]) -> tuple[StratumCount, ...]:
    counts = Counter(item for case in cases for item in case.strata.items())
    return tuple(StratumCount(name=name, value=value, cases=count) for (name, value), count in sorted(counts.items()))
