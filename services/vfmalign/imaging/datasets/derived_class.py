"""A class that derives from the masks of a dataset: whether a structure's share of its label map is large.

No clinician states it, so its id begins with `derived_`: it is in the dataset's declaration, and wherever a task names
it. A case belongs to the class if the structure fills more of the labelled volume than in the median training case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from statistics import median

import numpy as np

from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.declarations import CaseClass, LabelMap
from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.datasets.preparation import DiscoveredDataset, PseudonymousCase, read_volumes
from vfmalign.imaging.datasets.sources import SourceDataset, read_file
from vfmalign.imaging.volumes import MAX_ENCODED_BYTES

_MAX_ID = 32


def name_share_class(structure: str) -> str:
    """Returns the id of the class for a structure, such as `derived_anterior_share_high`."""
    return f"derived_{structure}_share_high"[:_MAX_ID]


def add_share_class(
    discovered: DiscoveredDataset, label: LabelMap, structure: str, splits: Mapping[str, Split]
) -> DiscoveredDataset:
    """State the class in every case and in the declaration.

    Args:
        discovered: cases that all have the label map.
        label: the label map.
        structure: the structure whose share of all labelled voxels decides.
        splits: split of each case by name. The median is that of the training cases, so that nothing of the test cases
            enters the class of another case.

    Raises:
        BadDataset: a case has problems, or an empty label map.
        BadVolume: a file cannot be read or used.
    """
    name = name_share_class(structure)
    shares = {case.source.name: _measure_share(case, discovered, label, structure) for case in discovered.cases}
    threshold = median(share for case, share in shares.items() if splits[case] == "train")
    cases = tuple(
        replace(
            case,
            source=replace(case.source, classes={**case.source.classes, name: shares[case.source.name] > threshold}),
        )
        for case in discovered.cases
    )
    declaration = discovered.source.declaration
    declaration = declaration.model_copy(update={"classes": (*declaration.classes, CaseClass(name=name))})
    source = SourceDataset(declaration, [case.source for case in cases], discovered.source.notes)
    return replace(discovered, source=source, cases=cases)


def digest_files(source: SourceDataset) -> bytes:
    """SHA-256 of all files of a dataset, whatever their names and place.

    Raises:
        OSError: a file cannot be read.
    """
    paths = {file.path for case in source.cases for file in case.files.values()}
    digests = sorted(hashlib.sha256(read_file(path, MAX_ENCODED_BYTES)).digest() for path in paths)
    return hashlib.sha256(b"".join(digests)).digest()


def _measure_share(case: PseudonymousCase, discovered: DiscoveredDataset, label: LabelMap, structure: str) -> float:
    if case.source.problems or label.name not in case.source.files:
        problem = case.source.problems[0] if case.source.problems else f"there is no {label.name}"
        raise BadDataset(
            problem, subject=case.label, remedy="correct the case; `vfmalign dataset import --dry-run` lists all"
        )
    values_XYZ = read_volumes(case, discovered.source.declaration)[label.name].array_XYZ
    labelled = int(np.isin(values_XYZ, list(label.values)).sum())
    if not labelled:
        raise BadDataset("the label map is empty", subject=case.label, remedy="correct the file, or leave the case out")
    values = [value for value, named in label.values.items() if named == structure]
    return int(np.isin(values_XYZ, values).sum()) / labelled
