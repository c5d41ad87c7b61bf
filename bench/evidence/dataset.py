"""The dataset of the experiment on real volumes: so many patients in each split, and a class derived from the masks.

No clinician states the class, so its id begins with `derived_`, in the dataset's declaration and in every task that
names it. A case belongs to it if its labelled volume is larger than that of the median training case.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from statistics import median

import numpy as np

from vfmalign.core.domain.datasets import SPLITS, Split
from vfmalign.core.domain.declarations import CaseClass, LabelMap
from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.datasets.discovery import DiscoveredDataset, PseudonymousCase
from vfmalign.imaging.datasets.layouts.sources import SourceDataset
from vfmalign.imaging.datasets.preparation import read_volumes


def digest_files(source: SourceDataset) -> bytes:
    """SHA-256 of all files of a dataset, whatever their names and place.

    Raises:
        OSError: a file cannot be read.
    """
    files = {file for case in source.cases for file in case.files.values()}
    return hashlib.sha256(b"".join(sorted(file.digest() for file in files))).digest()


def split_group_counts(groups: Collection[str], counts: Mapping[Split, int], seed: int) -> dict[str, Split]:
    """Assigns so many groups to each split; the others are in none.

    Args:
        groups: ids of the patients.
        counts: number of groups in each split.
        seed: equal seeds and groups give equal splits.

    Raises:
        BadDataset: there are fewer groups than the splits need.
    """
    ordered_groups = sorted(set(groups))
    labels = [name for name in SPLITS for _ in range(counts.get(name, 0))]
    if len(ordered_groups) < len(labels):
        raise BadDataset(
            f"{len(ordered_groups)} patients cannot fill splits of {len(labels)}",
            field="--data",
            remedy="choose a dataset of more patients",
        )
    order = np.random.default_rng(seed).permutation(len(ordered_groups))
    return {ordered_groups[int(i)]: label for i, label in zip(order, labels, strict=False)}


def select_cases(discovered: DiscoveredDataset, groups: Collection[str]) -> DiscoveredDataset:
    """Returns the dataset with the cases of some patients alone, named by their generated ids."""
    cases = tuple(case for case in discovered.cases if case.group in groups)
    source = replace(discovered.source, cases=[case.source for case in cases])
    return replace(discovered, source=source, cases=cases)


def add_volume_class(discovered: DiscoveredDataset, label: LabelMap, splits: Mapping[str, Split]) -> DiscoveredDataset:
    """States the class in every case and in the declaration.

    Args:
        discovered: cases that all have the label map.
        label: the label map; all of its structures together decide.
        splits: split of each case by name. The median is that of the training cases, so that nothing of the test cases
            enters the class of another case.

    Raises:
        BadDataset: a case has problems, or an empty label map.
        BadVolume: a file cannot be read or used.
    """
    name = f"derived_{label.name}_volume_high"
    volumes_mm3 = {case.source.name: _measure_volume(case, discovered, label) for case in discovered.cases}
    threshold = median(volume for case, volume in volumes_mm3.items() if splits[case] == "train")

    def classify(case: PseudonymousCase) -> PseudonymousCase:
        classes = {**case.source.classes, name: volumes_mm3[case.source.name] > threshold}
        return replace(case, source=replace(case.source, classes=classes))

    cases = tuple(map(classify, discovered.cases))
    declaration = discovered.source.declaration
    declaration = declaration.model_copy(update={"classes": (*declaration.classes, CaseClass(name=name))})
    source = replace(discovered.source, declaration=declaration, cases=[case.source for case in cases])
    return replace(discovered, source=source, cases=cases)


def _measure_volume(case: PseudonymousCase, discovered: DiscoveredDataset, label: LabelMap) -> float:
    """Labelled volume in mm³."""
    if case.source.problems or label.name not in case.source.files:
        problem = case.source.problems[0] if case.source.problems else f"there is no {label.name}"
        raise BadDataset(
            problem, subject=case.label, remedy="correct the case; `vfmalign dataset import --dry-run` lists all"
        )
    volume = read_volumes(case, discovered.source.declaration)[label.name]
    labelled = sum(int(np.isin(slab, list(label.values)).sum()) for slab in volume.slabs())
    if not labelled:
        raise BadDataset("the label map is empty", subject=case.label, remedy="correct the file, or leave the case out")
    return labelled * math.prod(volume.spacing_mm)
