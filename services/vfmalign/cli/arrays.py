"""The samples that `vfmalign mmd` is given: stored feature sets, or .npy files, sent inline or uploaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from vfmalign.cli.target import Target
from vfmalign.client.messages.common import ObjectRef
from vfmalign.client.messages.mmd import UploadedFeatures
from vfmalign.client.samples import Array, Sample, StoredFeatureSet
from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.core.domain.record import is_id
from vfmalign.core.rpc.transport import MESSAGE_BYTES
from vfmalign.core.storage.arrays import NPY, read_npy
from vfmalign.core.storage.keys import upload_key
from vfmalign.core.storage.object_store import ObjectStore

LAYER = "features"
_SHA256 = re.compile("[0-9a-f]{64}")
_OTHER_BYTES = 64 * 2**10
"""Upper bound of what a request holds beside its arrays."""


def parse_sample(text: str, field: str) -> str | StoredFeatureSet | Array:
    """Read an argument: the array of a .npy file, or a feature set as `ID` or, in one version, as `ID@SHA256`.

    Args:
        text: the argument.
        field: its name, for errors.

    Raises:
        BadTensor: the file does not hold a two-dimensional array of finite numbers. Files are never unpickled.
        BadOption: the argument is neither a .npy file nor a feature set.
    """
    if text.endswith(NPY):
        array = read_npy(Path(text), field)
        if not np.isfinite(array).all():
            raise BadTensor("contains NaN or infinity", field=field, remedy="remove the affected rows")
        return array
    feature_set, at, manifest_sha256 = text.partition("@")
    if not is_id(feature_set) or (at and not _SHA256.fullmatch(manifest_sha256)):
        raise BadOption(
            "is neither the id of a feature set nor a .npy file",
            field=field,
            remedy="give the ID or ID@SHA256 that `vfmalign extract` prints",
        )
    return StoredFeatureSet(feature_set, manifest_sha256) if at else feature_set


def upload_large_samples(
    samples: Mapping[str, str | StoredFeatureSet | Array], target: Target, notify: Callable[[str], None]
) -> dict[str, Sample]:
    """Upload the arrays if they are too large for one message; else return the samples as they are.

    Args:
        samples: by name of the argument; one array may occur several times.
        target: the deployment whose object store receives the uploads.
        notify: called with a sentence about each upload.

    Raises:
        BadTensor: the arrays are too large for a message, and no object store is configured.
    """
    size = sum(sample.nbytes for sample in samples.values() if not isinstance(sample, str | StoredFeatureSet))
    if size + _OTHER_BYTES <= MESSAGE_BYTES:
        return dict(samples)
    store = _get_store(target, size)
    uploads: dict[int, UploadedFeatures] = {}
    for name, sample in samples.items():
        if not isinstance(sample, str | StoredFeatureSet) and id(sample) not in uploads:
            uploads[id(sample)] = _upload(name, sample, store, notify)
    return {name: uploads.get(id(sample), sample) for name, sample in samples.items()}


def _upload(name: str, array: Array, store: ObjectStore, notify: Callable[[str], None]) -> UploadedFeatures:
    """Upload an array under its digest, unless it is stored already."""
    data = save({LAYER: np.ascontiguousarray(array)})
    sha256 = hashlib.sha256(data).hexdigest()
    key = upload_key(sha256)
    if store.exists(key):
        notify(f"{name} is already stored at {store.uri(key)}")
    else:
        store.put(key, data)
        notify(f"uploaded {name} ({len(data) / 2**20:.1f} MiB) to {store.uri(key)}; it stays there")
    return UploadedFeatures(object=ObjectRef(uri=store.uri(key), sha256=sha256, size_bytes=len(data)))


def _get_store(target: Target, size: int) -> ObjectStore:
    if not target.has_store:
        remedy = (
            "set AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to upload them"
            if target.local is None
            else "start the local stack without --only to upload them"
        )
        raise BadTensor(
            f"the arrays need a message of {size / 2**20:.1f} MiB; the limit is {MESSAGE_BYTES >> 20} MiB",
            subject="A and B",
            remedy=f"{remedy}, pass fewer rows or float16, or compare without a server by --local",
        )
    return target.store
