"""Feature rows of monitors: the origin of a stored set, the strata of its rows, and the first row of each patient."""

from __future__ import annotations

from collections.abc import Sequence

from vfmalign.client.messages.monitors import FeatureOrigin
from vfmalign.core.domain.errors import InvalidInput
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.feature_sets import FeatureRequest, Manifest
from vfmalign.core.storage.store.object_store import ObjectStore

MIN_ROWS = 8
"""Minimum number of rows on each side of a comparison; with fewer rows, MMD² has no interval."""


def get_first_rows(patients: Sequence[str]) -> list[int]:
    """Returns the indices of the first row of each patient, in ascending order."""
    first: dict[str, int] = {}
    for place, patient in enumerate(patients):
        first.setdefault(patient, place)
    return list(first.values())


def get_origin(request: FeatureRequest, field: str = "reference.feature_set_id") -> FeatureOrigin:
    """Returns the origin of a set's features. The names that a dataset uses for modalities do not affect the origin.

    Args:
        request: request that created the set.
        field: request field that names the set. Errors show this field.

    Raises:
        InvalidInput: the features come from random weights.
    """
    if request.initialisation == "random":
        raise InvalidInput(
            "its features come from random weights",
            field=field,
            remedy="extract the features with the model's checkpoint",
        )
    return FeatureOrigin(
        checkpoint_sha256=request.model_sha256,
        preprocessing_sha256=request.preprocessing.content_digest(),
        input_transform=request.input_transform,
    )


def read_strata(store: ObjectStore, manifest: Manifest, stratum: str, field: str) -> list[str]:
    """Returns the stratum of each row; the stratum is empty if it is unknown.

    Args:
        store: object store of the set's dataset.
        manifest: manifest of the set.
        stratum: such as `scanner`.
        field: request field that names the stratum. Errors show this field.

    Raises:
        InvalidInput: no case of the dataset has this stratum.
        NotFound, PreconditionFailed: the dataset has been deleted or has changed.
    """
    request = manifest.request
    dataset = load_dataset(store, request.dataset_id, request.dataset_digest)
    strata = {case.id: case.strata for case in dataset.split(request.split)}
    known = sorted({kind for values in strata.values() for kind in values})
    if stratum not in known:
        raise InvalidInput(
            f"no case of dataset {request.dataset_id} has this stratum",
            field=field,
            remedy=f"choose one of {', '.join(known)}" if known else "leave it out: the dataset has no strata",
        )
    return [strata[case_id].get(stratum, "") for case_id in manifest.case_ids]
