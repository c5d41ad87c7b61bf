"""Summary of a dataset for the API: sizes, classes, numbers and strata, but not the single cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from vfmalign.client.messages.features import ClassCount, Dataset, NumberRange, SplitSize, StratumCount
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
