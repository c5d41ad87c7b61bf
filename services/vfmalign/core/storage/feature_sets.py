"""Feature sets in object storage: pooled features in safetensors parts, committed by writing a manifest.

An interrupted set is continued with the parts that are missing. Everything is verified when it is read.

Legend: N rows (one per case), C channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.errors import BadTensor, DigestMismatch, NotFound, PreconditionFailed
from vfmalign.core.domain.models import LayerSpec, Preprocessing
from vfmalign.core.domain.record import Id, Record, Sha256
from vfmalign.core.storage.keys import features_prefix
from vfmalign.core.storage.object_store import ObjectStore

_HEADER_SIZE_BYTES = 8

Features = NDArray[np.float32]


class FeatureRequest(Record):
    """Everything that determines the features of a set; its digest is the set's id.

    The manifest stores it. A caller's request (`client.messages.features.ExtractDatasetRequest`) may leave out digests
    and layers; they are resolved here. Field names are part of the digest and must not change.

    Attributes:
        initialisation: `random` takes the model's architecture with weights drawn from `init_seed`.
        layers: in the order of the caller's request.
        input_transform: name of the task's deterministic input transform.
    """

    model: Id
    model_sha256: Sha256
    initialisation: Literal["checkpoint", "random"] = "checkpoint"
    init_seed: int = Field(default=0, ge=0, lt=2**63)
    dataset: Id
    dataset_digest: Sha256
    split: Split
    layers: tuple[str, ...] = Field(min_length=1)
    pooling: Literal["mean"] = "mean"
    input_transform: str = "identity"
    preprocessing: Preprocessing
    format: Literal[1] = 1

    def feature_set_id(self) -> str:
        """Returns the id of the set: the first 32 hex digits of this request's digest."""
        return self.digest()[:32]


class PartRef(Record):
    """One part: rows `start_row` to `start_row + rows − 1`."""

    key: str
    sha256: Sha256
    start_row: int = Field(ge=0)
    rows: int = Field(ge=1)


class Manifest(Record):
    """`features/<id>/manifest.json`: parts, layers and cases of a set, in row order."""

    request: FeatureRequest
    parts: tuple[PartRef, ...]
    layers: tuple[LayerSpec, ...]
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
            raise ValueError("its layers are not those of its request")
        return self


@dataclass(frozen=True)
class FeatureSet:
    """A set in memory: the manifest and one (N, C) array per layer."""

    manifest: Manifest
    layers: dict[str, Features]


class FeatureSetWriter:
    """Writes one set part by part. Several writers may write the same set; the first commit wins."""

    def __init__(
        self, store: ObjectStore, request: FeatureRequest, case_ids: Sequence[str], groups: Sequence[str]
    ) -> None:
        if not case_ids or len(case_ids) != len(groups) or len(set(case_ids)) != len(case_ids):
            raise BadTensor("a feature set needs one case id and one group per row, no case twice", field="case_ids")
        self._store = store
        self._request = request
        self._case_ids = tuple(case_ids)
        self._groups = tuple(groups)
        self._prefix = features_prefix(request.feature_set_id())
        self._parts: dict[int, PartRef] = {}
        self._channels: dict[str, int] = {}

    def count_stored_parts(self) -> int:
        """Returns the number of stored parts, of any length and unverified."""
        return sum(1 for _ in self._store.list(f"{self._prefix}part-"))

    def parts_done(self, part_rows: int) -> set[int]:
        """Returns the start rows of stored parts, for a run that splits the set every `part_rows` rows.

        Parts of other lengths and parts with a wrong checksum are ignored.
        """
        for key in self._store.list(f"{self._prefix}part-"):
            sha256 = key.removeprefix(f"{self._prefix}part-").removesuffix(".safetensors")
            try:
                data = self._store.get(key, sha256=sha256)
            except (DigestMismatch, NotFound):
                continue
            part = _describe(data, key, sha256)
            if part.start_row % part_rows == 0 and part.rows == min(part_rows, len(self._case_ids) - part.start_row):
                self._add_part(part, data)
        return set(self._parts)

    def write_part(self, start_row: int, layers: Mapping[str, Features]) -> PartRef:
        """Stores one part of the rows.

        Args:
            start_row: first row, from 0.
            layers: one (rows, C) float32 array per layer of the request.

        Raises:
            BadTensor: shapes are inconsistent, or a value is NaN or infinite.
        """
        if set(layers) != set(self._request.layers):
            raise BadTensor(f"the part has layers {sorted(layers)}, the request {sorted(self._request.layers)}")
        arrays = {name: np.ascontiguousarray(layers[name], dtype=np.float32) for name in self._request.layers}
        rows = {array.shape[0] for array in arrays.values() if array.ndim == 2}
        if len(rows) != 1 or any(array.ndim != 2 for array in arrays.values()) or start_row < 0:
            raise BadTensor("the layers of a part must be (rows, channels) with equal rows", field="layers")
        if start_row + min(rows) > len(self._case_ids):
            raise BadTensor(f"the part ends after row {len(self._case_ids)}", field="start_row")
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                row = start_row + int(np.argwhere(~np.isfinite(array))[0][0])
                raise BadTensor(f"layer {name} has NaN or infinity", subject=f"case {self._case_ids[row]}")
        channels = {name: array.shape[1] for name, array in arrays.items()}
        if self._channels and channels != self._channels:
            raise BadTensor(f"the part has channels {channels}, earlier ones {self._channels}", field="layers")
        data = save(arrays, {"start_row": str(start_row)})
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"{self._prefix}part-{sha256}.safetensors"
        self._store.put(key, data)
        part = PartRef(key=key, sha256=sha256, start_row=start_row, rows=min(rows))
        self._add_part(part, data)
        return part

    def commit(self, software: Mapping[str, str]) -> Manifest:
        """Writes the manifest unless another writer has, and returns the stored one.

        Raises:
            PreconditionFailed: rows are missing.
        """
        manifest = Manifest(
            request=self._request,
            parts=self._cover(),
            layers=tuple(LayerSpec(name=name, channels=self._channels[name]) for name in self._request.layers),
            rows=len(self._case_ids),
            case_ids=self._case_ids,
            groups=self._groups,
            software=dict(software),
        )
        self._store.put_if_absent(f"{self._prefix}manifest.json", manifest.to_json())
        return read_manifest(self._store, self._request.feature_set_id())

    def _add_part(self, part: PartRef, data: bytes) -> None:
        self._channels = {name: array.shape[1] for name, array in load(data).items()}
        self._parts.setdefault(part.start_row, part)

    def _cover(self) -> tuple[PartRef, ...]:
        """Returns parts in row order that cover every row exactly once."""
        row = 0
        chosen: list[PartRef] = []
        while row < len(self._case_ids):
            if row not in self._parts:
                raise PreconditionFailed(
                    f"the part that begins at row {row} is missing",
                    subject=f"feature set {self._request.feature_set_id()}",
                    remedy="extract the set again; stored parts are reused",
                )
            chosen.append(self._parts[row])
            row += chosen[-1].rows
        return tuple(chosen)


def read_manifest(store: ObjectStore, feature_set: str) -> Manifest:
    """Reads the manifest of a committed set.

    Raises:
        NotFound: the set does not exist or was not committed.
        DigestMismatch: the digest of its request is not its id.
    """
    try:
        manifest = store.read(f"{features_prefix(feature_set)}manifest.json", Manifest)
    except NotFound:
        raise NotFound(
            "there is no such feature set", subject=f"feature set {feature_set}", remedy="extract it first"
        ) from None
    if manifest.request.feature_set_id() != feature_set:
        raise DigestMismatch(
            "its manifest describes another set", subject=f"feature set {feature_set}", remedy="extract it again"
        )
    return manifest


def read_feature_set(store: ObjectStore, feature_set: str) -> FeatureSet:
    """Reads and verifies a whole set.

    Raises:
        NotFound, DigestMismatch, PreconditionFailed: it is missing, was changed, or does not match its manifest.
    """
    manifest = read_manifest(store, feature_set)
    parts = [read_part(store, manifest, index) for index in range(len(manifest.parts))]
    layers = {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in manifest.layers}
    return FeatureSet(manifest, layers)


def read_part(store: ObjectStore, manifest: Manifest, index: int) -> dict[str, Features]:
    """Reads and verifies one part of a set: one (rows, C) array per layer of the manifest.

    Args:
        store: object store of the set.
        manifest: manifest of the set.
        index: index of the part in `manifest.parts`.

    Raises:
        NotFound, DigestMismatch, PreconditionFailed: it is missing, was changed, or does not match its manifest.
    """
    part = manifest.parts[index]
    try:
        arrays = load(store.get(part.key, sha256=part.sha256))
    except SafetensorError:
        raise PreconditionFailed(
            "the part is not a safetensors file", subject=store.uri(part.key), remedy="extract the set again"
        ) from None
    for spec in manifest.layers:
        shape = arrays[spec.name].shape if spec.name in arrays else None
        if shape != (part.rows, spec.channels):
            raise PreconditionFailed(
                f"layer {spec.name} has shape {shape}, expected ({part.rows}, {spec.channels})",
                subject=store.uri(part.key),
                remedy="extract the set again",
            )
    return {spec.name: arrays[spec.name] for spec in manifest.layers}


def _describe(data: bytes, key: str, sha256: str) -> PartRef:
    """Reads a part's header: a safetensors file begins with the length of its JSON header."""
    size = int.from_bytes(data[:_HEADER_SIZE_BYTES], "little")
    header = json.loads(data[_HEADER_SIZE_BYTES : _HEADER_SIZE_BYTES + size])
    start_row = int(header.pop("__metadata__")["start_row"])
    return PartRef(key=key, sha256=sha256, start_row=start_row, rows=next(iter(header.values()))["shape"][0])
