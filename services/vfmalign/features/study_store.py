"""One study's features as stored objects under `features/<id>/`, one safetensors file per layer.

Knows the store and the file's form; knows nothing of how features are made. An id never changes its meaning: what is
stored under it already must be equal.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from safetensors.torch import save
from torch import Tensor

from vfmalign.core.domain.artifacts import VolumeRef, features_prefix
from vfmalign.core.domain.errors import BadOption, Conflict
from vfmalign.core.storage.object_store import ObjectStore

# Ids of feature sets are 32 hex digits: a study's features may not stand where a set's parts and manifest do.
_FEATURE_SET_ID = re.compile(r"[0-9a-f]{32}")


def check_study_id(study_id: str) -> None:
    """Raises BadOption where the id could be a feature set's."""
    if _FEATURE_SET_ID.fullmatch(study_id):
        raise BadOption(
            "ids of 32 hex digits belong to feature sets", field="store_as", remedy="choose an id of another form"
        )


@dataclass(frozen=True)
class StoredFeatures:
    """Where one layer's features lie, and their size in bytes."""

    ref: VolumeRef
    size_bytes: int


def store_features(store: ObjectStore, study_id: str, features: Mapping[str, Tensor]) -> dict[str, StoredFeatures]:
    """Stores one study's features, a file per layer with one tensor named as the layer.

    Raises:
        BadOption: the id could be a feature set's.
        Conflict: other features are stored under this id.
    """
    check_study_id(study_id)
    stored = {}
    for layer, tensor in features.items():
        data = save({layer: tensor.contiguous()})
        ref = VolumeRef(key=f"{features_prefix(study_id)}{layer}.safetensors", sha256=hashlib.sha256(data).hexdigest())
        if not store.put_if_absent(ref.key, data) and store.get(ref.key) != data:
            raise Conflict(
                "other features are stored under this id", subject=store.uri(ref.key), remedy="store under a new id"
            )
        stored[layer] = StoredFeatures(ref, len(data))
    return stored
