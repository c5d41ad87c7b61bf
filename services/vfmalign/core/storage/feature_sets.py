"""Feature sets in object storage: pooled features in safetensors parts, and a manifest that commits the set.

Reading verifies everything. A set is intact if its manifest is readable and every part exists with the stated size.
`feature_set_writer` continues interrupted sets and repairs damaged sets.

Legend: N rows (one per case), C channels.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator
from safetensors.numpy import load

from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.errors import DataLoss, DigestMismatch, InvalidInput, NotFound, PreconditionFailed
from vfmalign.core.domain.models import Layer, Preprocessing
from vfmalign.core.domain.record import Id, Record, Sha256, describe_invalid
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.storage.keys import features_prefix, manifest_key, unfinished_key
from vfmalign.core.storage.lost_objects import EXTRACT_AGAIN, lost_as
from vfmalign.core.storage.safetensors_header import MalformedHeader, parse_header
from vfmalign.core.storage.store.object_store import ObjectStore

Features = NDArray[np.float32]
_FEATURE_SET_ID = re.compile(r"[0-9a-f]{32}")

PARALLEL_REQUESTS = 8
"""Concurrent requests to the store while the parts of a set are checked."""


class FeatureRequest(Record):
    """Everything that determines the features of a set. The digest of this request is the set's id.

    The manifest stores it. A caller's request (`client.messages.features.ExtractDatasetRequest`) may omit digests and
    layers. This record contains all digests and layers. Field names are part of the digest and must not change.

    Attributes:
        initialisation: `random` uses the model's architecture with random weights from `init_seed`.
        running_statistics: `train` estimates the running statistics of random weights from the split `train`. Random
            weights without such statistics, and all weights of a checkpoint, have `initial`.
        layers: names of the layers. Their order affects the digest. Extraction always puts the primary layer first.
        input_transform: name of the task's deterministic input transform.
        format: number that increases whenever the same request would produce different features. Sets with a lower
            number are not reused.
    """

    model_id: Id
    model_sha256: Sha256
    initialisation: Literal["checkpoint", "random"] = "checkpoint"
    init_seed: int = Field(default=0, ge=0, lt=2**63)
    # Left out if it has its default, so that sets of earlier versions keep their ids.
    running_statistics: Literal["initial", "train"] = Field(
        default="initial", exclude_if=lambda statistics: statistics == "initial"
    )
    dataset_id: Id
    dataset_digest: Sha256
    split: Split
    layers: tuple[str, ...] = Field(min_length=1)
    pooling: Literal["mean"] = "mean"
    input_transform: str = "identity"
    preprocessing: Preprocessing
    format: Literal[2] = 2

    def feature_set_id(self) -> str:
        """Returns the id of the set: the first 32 hex digits of this request's digest."""
        return self.digest()[:32]


def is_feature_set_id(text: str) -> bool:
    """Returns whether a text has the form of a feature set's id. Ids of studies never have this form."""
    return _FEATURE_SET_ID.fullmatch(text) is not None


def describe_extraction(request: FeatureRequest) -> str:
    """Returns the command that computes the damaged parts of a set again."""
    arguments = ["vfmalign", "extract", request.dataset_id, "--model", request.model_id, "--split", request.split]
    arguments += ["--random", "--seed", str(request.init_seed)] if request.initialisation == "random" else []
    arguments += [argument for layer in request.layers for argument in ("--layer", layer)]
    options = "--map" if request.input_transform == "identity" else "--task and --map"
    return (
        f"run `{shlex.join(arguments)} --verify`, with the {options} of the check or command that made the set, which "
        "computes its damaged parts again"
    )


class PartRef(StoredFile):
    """A part: one file with the rows `start_row` to `start_row + rows − 1`."""

    start_row: int = Field(ge=0)
    rows: int = Field(ge=1)


class Manifest(Record):
    """`features/<id>/manifest.json`: parts, layers and cases of a set, in row order."""

    request: FeatureRequest
    parts: tuple[PartRef, ...]
    layers: tuple[Layer, ...]
    dtype: Literal["float32"] = "float32"
    rows: int
    case_ids: tuple[Id, ...]
    groups: tuple[Id, ...]
    software: dict[str, str]

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        ends = [part.start_row + part.rows for part in self.parts]
        if [part.start_row for part in self.parts] != [0, *ends[:-1]] or ends[-1:] != [self.rows]:
            raise ValueError("its parts do not hold every row once, in order")
        if not self.rows == len(self.case_ids) == len(self.groups) == len(set(self.case_ids)):
            raise ValueError("it must name one case and one group per row, and no case twice")
        if tuple(spec.name for spec in self.layers) != self.request.layers:
            raise ValueError("its layers differ from the layers of its request")
        return self


@dataclass(frozen=True)
class CommittedSet:
    """The stored manifest of a set: content, key, SHA-256 and size. Readers check the SHA-256."""

    manifest: Manifest
    key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class LoadedFeatureSet:
    """A set in memory: the manifest and one (N, C) array per layer."""

    manifest: Manifest
    layers: dict[str, Features]


def read_committed(store: ObjectStore, feature_set: str, sha256: str = "") -> CommittedSet:
    """Reads the manifest of a committed set.

    Args:
        store: object store of the set.
        feature_set: id of the set.
        sha256: expected digest of the manifest. If empty, any stored manifest is accepted.

    Raises:
        NotFound: the set does not exist or was not committed, and `sha256` is empty.
        DataLoss: the manifest is missing, too large or unreadable, describes another set, or does not have the digest
            `sha256`.
    """
    key = manifest_key(feature_set)
    with lost_as("feature_set", feature_set, EXTRACT_AGAIN):
        try:
            data = store.get_document(key)
        except NotFound as error:
            if sha256 or error.reason != NotFound.reason:
                raise
            data = b""
        if data:
            manifest = _parse_manifest(store, feature_set, data, sha256)
            return CommittedSet(manifest, key, hashlib.sha256(data).hexdigest(), len(data))
    raise NotFound("there is no such feature set", subject=f"feature set {feature_set}", remedy="extract it first")


def read_named(store: ObjectStore, feature_set: str, sha256: str = "") -> CommittedSet:
    """Reads the manifest of a set that a caller requests. A wrong digest is the caller's error, not a loss of data.

    Args:
        store: object store of the set.
        feature_set: id of the set.
        sha256: expected digest of the manifest. If empty, any stored manifest is accepted.

    Raises:
        NotFound: the set does not exist or was not committed.
        DigestMismatch: the stored manifest does not have the digest `sha256`.
        DataLoss: the manifest is too large, unreadable or describes another set.
    """
    committed = read_committed(store, feature_set)
    if sha256 not in {"", committed.sha256}:
        raise DigestMismatch(
            f"its manifest has the SHA-256 {committed.sha256}, but {sha256} was requested",
            subject=f"feature set {feature_set}",
            remedy="correct the digest, or leave it out to use the stored set",
        )
    return committed


def _parse_manifest(store: ObjectStore, feature_set: str, data: bytes, sha256: str) -> Manifest:
    """Parses a manifest.

    Raises:
        PreconditionFailed: it is damaged, or belongs to another set or digest.
    """
    subject = store.uri(manifest_key(feature_set))
    actual = hashlib.sha256(data).hexdigest()
    if sha256 and actual != sha256:
        raise DigestMismatch(
            f"the manifest was replaced or damaged: its SHA-256 is {actual[:12]}…, expected {sha256[:12]}…",
            subject=subject,
        )
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise PreconditionFailed(f"the manifest is damaged: {describe_invalid(error)}", subject=subject) from None
    if manifest.request.feature_set_id() != feature_set:
        raise DigestMismatch("the manifest describes another set", subject=subject)
    return manifest


def read_unfinished(store: ObjectStore, feature_set: str) -> FeatureRequest | None:
    """Returns the request of a set that is not committed; None if the set is committed, or has no part yet."""
    try:
        return store.read(unfinished_key(feature_set), FeatureRequest)
    except (NotFound, PreconditionFailed):
        return None


def read_manifest(store: ObjectStore, feature_set: str, sha256: str = "") -> Manifest:
    """Reads the manifest of a committed set. See `read_committed`."""
    return read_committed(store, feature_set, sha256).manifest


def read_feature_set(store: ObjectStore, feature_set: str, sha256: str = "") -> LoadedFeatureSet:
    """Reads and verifies a whole set. See `read_committed` for the arguments.

    Raises:
        NotFound: the set does not exist.
        DataLoss: the manifest or a part is missing or changed, or a part does not match the manifest.
    """
    manifest = read_manifest(store, feature_set, sha256)
    parts = [read_part(store, manifest, index) for index in range(len(manifest.parts))]
    layers = {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in manifest.layers}
    return LoadedFeatureSet(manifest, layers)


def read_part(store: ObjectStore, manifest: Manifest, index: int) -> dict[str, Features]:
    """Reads and verifies one part of a set: one (rows, C) array per layer of the manifest.

    Args:
        store: object store of the set.
        manifest: manifest of the set.
        index: index of the part in `manifest.parts`.

    Raises:
        DataLoss: the part is missing or changed, or does not match the manifest.
    """
    part = manifest.parts[index]
    with lost_as("feature_set", manifest.request.feature_set_id(), describe_extraction(manifest.request)):
        data = _get_part(store, manifest, part)
        try:
            tensors = parse_header(data, len(data)).tensors
        except MalformedHeader as error:
            raise PreconditionFailed(
                f"the part is not a safetensors file: {error}", subject=store.uri(part.key)
            ) from None
        for spec in manifest.layers:
            entry = tensors.get(spec.name)
            if entry is None or (entry.dtype, entry.shape) != ("F32", (part.rows, spec.channels)):
                actual = f"{entry.dtype} of shape {entry.shape}" if entry else "missing"
                raise PreconditionFailed(
                    f"layer {spec.name} is {actual}, expected F32 of shape ({part.rows}, {spec.channels})",
                    subject=store.uri(part.key),
                )
    arrays = load(data)
    return {spec.name: arrays[spec.name] for spec in manifest.layers}


def _get_part(store: ObjectStore, manifest: Manifest, part: PartRef) -> bytes:
    """Reads the bytes of a part. A part that is larger than the manifest declares is rejected before it is read."""
    try:
        return store.get(part.key, sha256=part.sha256, max_bytes=part.size_bytes)
    except InvalidInput as error:
        raise PreconditionFailed(f"larger than its manifest declares: {error.message}", subject=error.subject) from None


def find_damaged_parts(store: ObjectStore, manifest: Manifest, *, read: bool = False) -> tuple[int, ...]:
    """Returns the indices of the parts that are missing or whose size differs from the manifest.

    Args:
        store: object store of the set.
        manifest: manifest of the set.
        read: whether to read all parts in order to find changed bytes.
    """
    listed = store.sizes_bytes(features_prefix(manifest.request.feature_set_id()))

    def is_damaged(index: int) -> bool:
        part = manifest.parts[index]
        size = listed.get(part.key)
        if size != part.size_bytes:
            # Listings of some stores lag behind; the object itself decides.
            size = store.size_bytes(part.key)
        if size != part.size_bytes:
            return True
        return read and not _is_readable(store, manifest, index)

    with Threads(PARALLEL_REQUESTS, "parts") as pool:
        damaged = list(pool.map(is_damaged, range(len(manifest.parts))))
    return tuple(index for index, value in enumerate(damaged) if value)


def _is_readable(store: ObjectStore, manifest: Manifest, index: int) -> bool:
    try:
        read_part(store, manifest, index)
    except DataLoss:
        return False
    return True
