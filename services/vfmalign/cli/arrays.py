"""The samples that `vfmalign mmd` is given: ids of stored feature sets, or .npy files, sent inline or uploaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import save

from vfmalign.cli.target import Target
from vfmalign.core.domain.artifacts import is_id, upload_key
from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.core.rpc.channels import MESSAGE_BYTES
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.arrays import NPY, read_npy
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.v1 import mmd_pb2

LAYER = "features"
_OTHER_BYTES = 64 * 2**10
"""Upper bound of what a request holds beside its arrays."""


@dataclass(frozen=True, eq=False)
class SampleArgument:
    """One sample of a comparison: a stored feature set, or an array.

    Attributes:
        field: the name of the argument, for errors.
        feature_set: id of a stored feature set; empty for an array.
        array: (rows, channels); None for a stored feature set.
    """

    field: str
    feature_set: str = ""
    array: NDArray[Any] | None = None


def parse_sample(text: str, field: str) -> SampleArgument:
    """Read an argument: a .npy file, or the id of a feature set.

    Raises:
        BadTensor: the file does not hold a two-dimensional array of finite numbers. Files are never unpickled.
        BadOption: the argument is neither a .npy file nor an id.
    """
    if text.endswith(NPY):
        array = read_npy(Path(text), field)
        if not np.isfinite(array).all():
            raise BadTensor("contains NaN or infinity", field=field, remedy="remove the affected rows")
        return SampleArgument(field, array=array)
    if not is_id(text):
        raise BadOption(
            "is neither the id of a feature set nor a .npy file", field=field, remedy="see `vfmalign extract`"
        )
    return SampleArgument(field, text)


def to_sources(
    samples: Sequence[SampleArgument], target: Target, notify: Callable[[str], None]
) -> list[mmd_pb2.FeatureSource]:
    """Convert samples to messages. Arrays are sent inline, or uploaded if they are too large for one message.

    Args:
        samples: the same object may occur several times; it is uploaded once.
        target: the deployment whose object store receives the uploads.
        notify: called with a sentence about each upload.

    Raises:
        BadTensor: the arrays are too large for a message, and no object store is configured.
    """
    size = sum(sample.array.nbytes for sample in samples if sample.array is not None)
    if size + _OTHER_BYTES <= MESSAGE_BYTES:
        return [_to_inline(sample) for sample in samples]
    store = _get_store(target, size)
    sources: dict[int, mmd_pb2.FeatureSource] = {}
    for sample in samples:
        if id(sample) not in sources:
            inline = sample.array is None
            sources[id(sample)] = _to_inline(sample) if inline else _upload(sample, store, notify)
    return [sources[id(sample)] for sample in samples]


def _to_inline(sample: SampleArgument) -> mmd_pb2.FeatureSource:
    if sample.array is None:
        return mmd_pb2.FeatureSource(feature_set_id=sample.feature_set)
    layer = mmd_pb2.InlineLayer(features=to_tensor(sample.array, sample.field))
    return mmd_pb2.FeatureSource(inline=mmd_pb2.InlineFeatures(layers=[layer]))


def _upload(sample: SampleArgument, store: ObjectStore, notify: Callable[[str], None]) -> mmd_pb2.FeatureSource:
    """Upload an array under its digest, unless it is stored already."""
    data = save({LAYER: np.ascontiguousarray(sample.array)})
    sha256 = hashlib.sha256(data).hexdigest()
    key = upload_key(sha256)
    if store.exists(key):
        notify(f"{sample.field} is already stored at {store.uri(key)}")
    else:
        store.put(key, data)
        notify(f"uploaded {sample.field} ({len(data) / 2**20:.1f} MiB) to {store.uri(key)}; it stays there")
    source = mmd_pb2.FeatureSource()
    ref = source.uploaded.object
    ref.uri, ref.sha256, ref.size_bytes = store.uri(key), sha256, len(data)
    return source


def _get_store(target: Target, size: int) -> ObjectStore:
    if target.local is None:
        try:
            StoreSettings()
        except ValidationError:
            raise BadTensor(
                f"the arrays need a message of {size / 2**20:.1f} MiB; the limit is {MESSAGE_BYTES >> 20} MiB",
                subject="X and Y",
                remedy="set AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to upload them, pass "
                "fewer rows or float16, or compare without a server by --local",
            ) from None
    return target.store
