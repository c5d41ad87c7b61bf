"""What the arguments of a comparison name: stored feature sets, or arrays of this machine, sent inline or uploaded.

Knows .npy files, the message limit and the object store. Knows nothing of a comparison's options.
"""

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
"""What a request holds beside its arrays, generously."""


@dataclass(frozen=True, eq=False)
class Named:
    """What one argument names: a feature set by its id, or an array.

    Attributes:
        field: how errors call it.
    """

    field: str
    feature_set: str = ""
    array: NDArray[Any] | None = None


def named(text: str, field: str) -> Named:
    """What an argument names.

    Raises:
        BadTensor: the file is no array of finite numbers with two axes; it is never unpickled.
        BadOption: neither a file's name nor an id.
    """
    if text.endswith(NPY):
        array = read_npy(Path(text), field)
        if not np.isfinite(array).all():
            raise BadTensor("holds NaN or infinity", field=field, remedy="leave out the rows that cannot be computed")
        return Named(field, array=array)
    if not is_id(text):
        raise BadOption(
            "is neither the id of a feature set nor a .npy file", field=field, remedy="see `vfmalign extract`"
        )
    return Named(field, text)


def sources(given: Sequence[Named], target: Target, say: Callable[[str], None]) -> list[mmd_pb2.FeatureSource]:
    """The messages of what arguments name; arrays go inline, or are uploaded where they are too large for one message.

    Args:
        given: one argument may stand in several places.
        target: whose object store takes what is uploaded.
        say: hears what is uploaded, and where to.

    Raises:
        BadTensor: the arrays are too large for a message, and there is no object store to upload them to.
    """
    size = sum(one.array.nbytes for one in given if one.array is not None)
    if size + _OTHER_BYTES <= MESSAGE_BYTES:
        return [_inline(one) for one in given]
    store = _store(target, size)
    made: dict[int, mmd_pb2.FeatureSource] = {}
    for one in given:
        if id(one) not in made:
            made[id(one)] = _inline(one) if one.array is None else _uploaded(one, one.array, store, say)
    return [made[id(one)] for one in given]


def _inline(one: Named) -> mmd_pb2.FeatureSource:
    if one.array is None:
        return mmd_pb2.FeatureSource(feature_set_id=one.feature_set)
    layer = mmd_pb2.InlineLayer(features=to_tensor(one.array, one.field))
    return mmd_pb2.FeatureSource(inline=mmd_pb2.InlineFeatures(layers=[layer]))


def _uploaded(one: Named, array: NDArray[Any], store: ObjectStore, say: Callable[[str], None]) -> mmd_pb2.FeatureSource:
    """Puts an array into the bucket under its digest, unless it is there already."""
    data = save({LAYER: np.ascontiguousarray(array)})
    sha256 = hashlib.sha256(data).hexdigest()
    key = upload_key(sha256)
    if store.exists(key):
        say(f"{one.field} is {store.uri(key)} already")
    else:
        store.put(key, data)
        say(f"{one.field} ({len(data) / 2**20:.1f} MiB) was uploaded and stays at {store.uri(key)}")
    message = mmd_pb2.FeatureSource()
    ref = message.uploaded.object
    ref.uri, ref.sha256, ref.size_bytes = store.uri(key), sha256, len(data)
    return message


def _store(target: Target, size: int) -> ObjectStore:
    """The deployment's object store."""
    if target.local is None:
        try:
            StoreSettings()
        except ValidationError:
            raise BadTensor(
                f"the arrays make a message of {size / 2**20:.1f} MiB; at most {MESSAGE_BYTES >> 20} go",
                subject="X and Y",
                remedy="set AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to have them uploaded, "
                "give fewer rows or float16, or use `python -m vfmalign.mmd.comparison`, which needs no server",
            ) from None
    return target.store
