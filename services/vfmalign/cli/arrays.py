"""Reads the samples of `vfmalign mmd`: stored feature sets, or .npy files. Uploads large .npy files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from vfmalign.cli.target import Target
from vfmalign.client.messages.mmd import UploadedFeatures
from vfmalign.client.samples import Array, Sample, StoredFeatureSet
from vfmalign.core.domain.errors import BadOption, BadTensor, PreconditionFailed
from vfmalign.core.domain.record import SHA256, is_id
from vfmalign.core.rpc.transport import MESSAGE_BYTES
from vfmalign.core.storage.arrays import NPY, read_npy

OTHER_BYTES = 64 * 2**10
"""Upper bound in bytes of a request without its arrays."""


def parse_sample(text: str, field: str) -> str | StoredFeatureSet | Array:
    """Parses an argument: either the path of a .npy file, or a feature set as `ID` or `ID@SHA256`.

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
            row = int(np.isfinite(array).all(axis=1).argmin())
            raise BadTensor(
                f"row {row} (from 0) contains NaN or infinity", field=field, remedy="remove the affected rows"
            )
        return array
    feature_set, manifest_sha256 = parse_feature_set(text, field)
    return StoredFeatureSet(feature_set, manifest_sha256) if manifest_sha256 else feature_set


def parse_feature_set(
    text: str, field: str, problem: str = "is neither the id of a feature set nor a .npy file"
) -> tuple[str, str]:
    """Parses an argument that names a feature set as `ID` or `ID@SHA256`.

    Args:
        text: the argument.
        field: its name, for errors.
        problem: message of the error.

    Returns:
        The id of the feature set, and the digest of its manifest. The digest is empty if the argument is only an id.

    Raises:
        BadOption: the argument is neither `ID` nor `ID@SHA256`.
    """
    if text.endswith(".npz"):
        raise BadOption(
            "archives (.npz) are not supported", field=field, remedy="save the array with numpy.save as a .npy file"
        )
    feature_set, at, manifest_sha256 = text.partition("@")
    if not is_id(feature_set) or (at and not SHA256.matches(manifest_sha256)):
        raise BadOption(problem, field=field, remedy="give the ID or ID@SHA256 that `vfmalign extract` prints")
    return feature_set, manifest_sha256


def upload_large_samples(
    samples: Mapping[str, str | StoredFeatureSet | Array], target: Target, notify: Callable[[str], None]
) -> dict[str, Sample]:
    """Uploads the arrays if they are too large for one message. Otherwise returns the samples unchanged.

    Args:
        samples: maps the name of each argument to its sample. Several arguments may share one array.
        target: the deployment; its MMD service receives the uploads.
        notify: called with a sentence about each upload.

    Raises:
        BadTensor: the arrays are too large for a message, and the service has no object storage.
        VfmalignError: the upload failed for another reason.
    """
    size = sum(sample.nbytes for sample in samples.values() if not isinstance(sample, str | StoredFeatureSet))
    if size + OTHER_BYTES <= MESSAGE_BYTES:
        return dict(samples)
    uploads: dict[int, UploadedFeatures] = {}
    for name, sample in samples.items():
        if not isinstance(sample, str | StoredFeatureSet) and id(sample) not in uploads:
            notify(f"uploading {name} ({sample.nbytes / 2**20:.1f} MiB): the arrays are too large for one message")
            uploads[id(sample)] = _upload(sample, target, size)
    return {name: uploads.get(id(sample), sample) for name, sample in samples.items()}


def _upload(array: Array, target: Target, size: int) -> UploadedFeatures:
    try:
        return target.run(lambda client: client.mmd.upload(array))
    except PreconditionFailed as error:
        if error.reason != "NO_OBJECT_STORAGE":
            raise
        remedy = "ask an operator to give the service object storage"
        if target.local is not None:
            remedy = "start the local stack without --only to upload them"
        raise BadTensor(
            f"the arrays need a message of {size / 2**20:.1f} MiB; the limit is {MESSAGE_BYTES >> 20} MiB",
            subject="A and B",
            remedy=f"{remedy}, pass fewer rows or float16, or use --local to compare without a server",
        ) from None
