"""Stores the features of one study below `features/<id>/`: the group, and one safetensors file per layer.

Stored features are immutable. It is an error to store different features under the same id.
"""

from __future__ import annotations

from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor

from vfmalign.core.domain.errors import BadOption, Conflict, NotFound, PreconditionFailed
from vfmalign.core.domain.record import Id, Record
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.storage.deletion import check_not_deleted
from vfmalign.core.storage.feature_sets import is_feature_set_id
from vfmalign.core.storage.keys import features_prefix
from vfmalign.core.storage.store.object_store import ObjectStore


def check_study_id(study_id: str) -> None:
    """Raises BadOption if the id has the form of a feature set's id."""
    if is_feature_set_id(study_id):  # a study must not be stored below the prefix of a set
        raise BadOption(
            "ids of 32 hex digits belong to feature sets", field="store_as", remedy="choose an id with a different form"
        )


class _Study(Record):
    group: Id


def read_group(store: ObjectStore, study_id: str) -> str:
    """Returns the group of a stored study; empty if an earlier version stored it."""
    try:
        return store.read(_study_key(study_id), _Study).group
    except (NotFound, PreconditionFailed):
        return ""


def _study_key(study_id: str) -> str:
    return f"{features_prefix(study_id)}study.json"


def store_features(
    store: ObjectStore, study_id: str, group: str, features: Mapping[str, Tensor]
) -> dict[str, StoredFile]:
    """Stores a study's features: one file per layer, with one tensor that has the layer's name.

    Raises:
        BadOption: the id has the form of a feature set's id.
        Conflict: other features or another group are stored under this id.
        Unavailable: features that were stored under this id are being deleted.
    """
    check_study_id(study_id)
    check_not_deleted(store, "features", study_id)
    study = _Study(group=group)
    if not store.put_if_absent(_study_key(study_id), study.to_json()) and read_group(store, study_id) != group:
        raise Conflict("another group is stored under this id", subject=study_id, remedy="store under a new id")
    stored = {}
    for layer, tensor in features.items():
        data = save({layer: tensor.contiguous()})
        file = StoredFile.of(f"{features_prefix(study_id)}{layer}.safetensors", data)
        if not store.put_if_absent(file.key, data) and store.get(file.key) != data:
            raise Conflict(
                "other features are stored under this id", subject=store.uri(file.key), remedy="store under a new id"
            )
        stored[layer] = file
    return stored
