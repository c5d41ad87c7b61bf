"""Datasets of phantoms in object storage.

Equal seeds and counts give equal bytes and therefore equal dataset digests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from vfmalign.core.domain.datasets import SPLITS, Case, DatasetManifest, Split
from vfmalign.core.domain.declarations import CaseGrade, CaseNumber, get_declaration
from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.storage.datasets import load_dataset, save_dataset
from vfmalign.core.storage.keys import dataset_key, volume_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.phantoms.rendering import PhantomCase, PhantomSpec, generate_case
from vfmalign.imaging.volumes import encode

SPLIT_STRIDE = 1_000_000
"""Case indices of a split start at its position in `SPLITS` times this number, so that the size of one split does not
change the cases of another.
"""
GRADE = CaseGrade(name="pirads", at_least=2)
VOLUME = CaseNumber(name="volume", unit="mL")


class PhantomDataset:
    """A dataset of phantoms with one patient per case. The dataset is generated case by case.

    Args:
        dataset_id: the dataset's id.
        seed: seed of the whole set.
        counts: number of cases in each split.
        spec: see `rendering.PhantomSpec`.
        graded: whether cases state the highest grade of their lesions as `GRADE`, and the volume of the lesions as
            `VOLUME`.

    Raises:
        BadDataset: no case is requested, or a split has more than `SPLIT_STRIDE` cases.
    """

    def __init__(
        self,
        dataset_id: str,
        seed: int,
        counts: Mapping[Split, int],
        spec: PhantomSpec | None = None,
        *,
        graded: bool = False,
    ) -> None:
        self.total = sum(counts.values())
        if self.total < 1 or any(not 0 <= count <= SPLIT_STRIDE for count in counts.values()):
            raise BadDataset(
                "the number of cases is negative, too large, or 0 in every split",
                field="counts",
                remedy=f"use 0 to {SPLIT_STRIDE} cases a split, and at least one in all",
            )
        self._id, self._seed, self._counts, self._spec = dataset_id, seed, counts, spec
        self._graded = graded
        self._cases: dict[Split, list[Case]] = {}

    def generate(self) -> Iterator[dict[str, bytes]]:
        """Generates all cases. Yields the stored form of each case's volumes, by key."""
        self._cases = {}
        for place, name in enumerate(SPLITS):
            for number in range(self._counts.get(name, 0)):
                index = place * SPLIT_STRIDE + number
                phantom, case_id = generate_case(self._seed, index, self._spec), f"phantom-{self._seed}-{index:07d}"
                volumes = {kind: encode(volume) for kind, volume in sorted(phantom.volumes.items())}
                keys = {kind: volume_key(self._id, case_id, kind) for kind in volumes}
                refs = {kind: StoredObject.of(keys[kind], data) for kind, data in volumes.items()}
                facts = _describe_lesions(phantom) if self._graded else {}
                case = Case.model_validate({"id": case_id, "group": case_id, "volumes": refs} | facts)
                self._cases.setdefault(name, []).append(case)
                yield {keys[kind]: data for kind, data in volumes.items()}

    def to_manifest(self) -> DatasetManifest:
        """Returns the dataset of the generated cases."""
        declaration = get_declaration("prostate_mpmri")
        if self._graded:
            declaration = declaration.model_copy(update={"grades": (GRADE,), "numbers": (VOLUME,)})
        content = {"id": self._id, "phantom": True, "declaration": declaration}
        return DatasetManifest.model_validate(content | dict(self._cases))


def synthesise_dataset(
    store: ObjectStore,
    dataset_id: str,
    seed: int,
    counts: Mapping[Split, int],
    *,
    spec: PhantomSpec | None = None,
) -> DatasetManifest:
    """Generates a dataset of phantoms and stores it.

    Args:
        store: the deployment's object storage.
        dataset_id: see `PhantomDataset`.
        seed: see `PhantomDataset`.
        counts: see `PhantomDataset`.
        spec: see `PhantomDataset`.

    Returns:
        The dataset. If a dataset with the same content exists, nothing is written.

    Raises:
        BadDataset: see `PhantomDataset`.
        Conflict: the dataset exists with different content.
    """
    phantoms = PhantomDataset(dataset_id, seed, counts, spec)
    # If the dataset exists, volumes are only compared: writing them could damage a different dataset with the same id.
    exists = store.exists(dataset_key(dataset_id))
    for volumes in phantoms.generate():
        if not exists:
            for key, data in volumes.items():
                store.put(key, data)
    dataset = phantoms.to_manifest()
    if exists:
        dataset.check_is_stored(load_dataset(store, dataset_id).digest())
    else:
        save_dataset(store, dataset)
    return dataset


def _describe_lesions(phantom: PhantomCase) -> dict[str, dict[str, float]]:
    """Returns the highest grade of a case's lesions, 0 without one, and their volume in mL."""
    lesions = phantom.volumes["lesions"]
    voxel_ml = math.prod(lesions.spacing_mm) / 1000.0
    volume_ml = round(voxel_ml * int(np.count_nonzero(lesions.array_XYZ)), 6)
    return {"grades": {GRADE.name: max(phantom.lesion_grades, default=0)}, "numbers": {VOLUME.name: volume_ml}}
