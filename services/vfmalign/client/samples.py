"""Feature samples that callers pass, and their conversion to a message.

Legend: N rows, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfmalign.client.messages.features import FeatureSet
from vfmalign.client.messages.mmd import UploadedFeatures
from vfmalign.core.domain.errors import BadTensor
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.v1 import mmd_pb2

Array = NDArray[Any]


@dataclass(frozen=True)
class LabelledFeatures:
    """Feature rows, with the group and the case of each row.

    Attributes:
        layers: one (N, C) array, or one such array per layer. All arrays have the same number of rows.
        groups: patient of each row. If empty, every row is a separate group.
        case_ids: case of each row; empty if unknown. If two paired samples both name their cases, they must name the
            same cases.
    """

    layers: Array | Mapping[str, Array]
    groups: Sequence[str] = ()
    case_ids: Sequence[str] = ()


@dataclass(frozen=True)
class StoredFeatureSet:
    """One version of a stored feature set, identified by the digest of its manifest."""

    feature_set_id: str
    manifest_sha256: str


Sample = str | FeatureSet | StoredFeatureSet | UploadedFeatures | LabelledFeatures | Array | Mapping[str, Array]
"""A stored feature set (its id, record or version), an uploaded file, an (N, C) array, or such an array per layer."""


def to_feature_source(sample: Sample, field: str) -> mmd_pb2.FeatureSource:
    """Converts a sample to a message.

    Args:
        sample: sample whose arrays, if any, are float16, float32 or float64.
        field: name of the sample in the request, for error messages.

    Raises:
        BadTensor: an array does not have two axes, has another type, or has an element that is NaN or infinite.
    """
    if isinstance(sample, str):
        return mmd_pb2.FeatureSource(feature_set_id=sample)
    if isinstance(sample, FeatureSet):
        sample = StoredFeatureSet(sample.feature_set_id, sample.manifest.sha256)
    if isinstance(sample, StoredFeatureSet):
        return mmd_pb2.FeatureSource(feature_set_id=sample.feature_set_id, manifest_sha256=sample.manifest_sha256)
    if isinstance(sample, UploadedFeatures):
        return mmd_pb2.FeatureSource(uploaded=sample.to_proto())
    labelled = sample if isinstance(sample, LabelledFeatures) else LabelledFeatures(sample)
    layers = labelled.layers if isinstance(labelled.layers, Mapping) else {"": labelled.layers}
    inline = mmd_pb2.InlineFeatures(
        layers=[
            _to_inline_layer(name, array, f"{field}.inline.layers[{i}]")
            for i, (name, array) in enumerate(layers.items())
        ],
        groups=labelled.groups,
        case_ids=labelled.case_ids,
    )
    return mmd_pb2.FeatureSource(inline=inline)


def _to_inline_layer(name: str, array: Array, field: str) -> mmd_pb2.InlineLayer:
    features_NC = np.asarray(array)
    if features_NC.ndim != 2:
        raise BadTensor(
            f"expected 2 axes, got {features_NC.ndim}",
            field=f"{field}.features",
            remedy="pass an array of shape (rows, channels)",
        )
    return mmd_pb2.InlineLayer(layer=name, features=to_tensor(features_NC, f"{field}.features"))
