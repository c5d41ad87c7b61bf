"""Writes feature sets: parts in any order, then the commit. Continues interrupted and damaged sets.

Legend: N rows (one per case), C channels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from safetensors.numpy import save

from vfmalign.core.domain.errors import BadTensor, DigestMismatch, NotFound, PreconditionFailed
from vfmalign.core.domain.models import Layer
from vfmalign.core.storage.feature_sets import (
    CommittedSet,
    FeatureRequest,
    Features,
    Manifest,
    PartRef,
    read_committed,
)
from vfmalign.core.storage.keys import features_prefix, manifest_key, unfinished_key
from vfmalign.core.storage.safetensors_header import MalformedHeader, parse_header
from vfmalign.core.storage.store.object_store import ObjectStore

_START_ROW = re.compile(r"[0-9]{1,9}")


class FeatureSetWriter:
    """Writes one set part by part. If several writers write the same set, the first commit wins."""

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
        self._is_announced = False

    def count_stored_parts(self) -> int:
        """Returns the number of stored parts of any length, without verifying the parts."""
        return sum(1 for _ in self._store.list(f"{self._prefix}part-"))

    def parts_done(self, part_rows: int, manifest: Manifest | None = None) -> set[int]:
        """Returns the start rows of stored parts, for a set that is split every `part_rows` rows.

        Parts of other lengths and parts with a wrong checksum are ignored.

        Args:
            part_rows: number of rows of each part except the last part.
            manifest: manifest of a damaged set. The parts of this manifest take precedence over other parts with the
                same rows.
        """
        committed = {part.key for part in manifest.parts} if manifest else set()
        for key in sorted(self._store.list(f"{self._prefix}part-"), key=lambda key: key not in committed):
            sha256 = key.removeprefix(f"{self._prefix}part-").removesuffix(".safetensors")
            try:
                data = self._store.get(key, sha256=sha256)
                part, channels = _describe(data, key, sha256)
            except (DigestMismatch, NotFound, MalformedHeader):
                continue
            has_rows = part.rows == min(part_rows, len(self._case_ids) - part.start_row)
            has_layers = set(channels) == set(self._request.layers) and self._channels in ({}, channels)
            if part.start_row % part_rows == 0 and has_rows and has_layers:
                self._add_part(part, channels)
        return set(self._parts)

    def write_part(self, start_row: int, layers: Mapping[str, Features]) -> PartRef:
        """Stores one part of the rows.

        Args:
            start_row: first row, from 0.
            layers: one (rows, C) float32 array per layer of the request.

        Raises:
            BadTensor: the shapes are inconsistent, or a value is NaN or infinite.
        """
        if set(layers) != set(self._request.layers):
            raise BadTensor(f"the part has layers {sorted(layers)}, the request {sorted(self._request.layers)}")
        arrays = {name: np.ascontiguousarray(layers[name], dtype=np.float32) for name in self._request.layers}
        rows = {array.shape[0] for array in arrays.values() if array.ndim == 2}
        if len(rows) != 1 or any(array.ndim != 2 for array in arrays.values()) or start_row < 0:
            raise BadTensor("the layers of a part must be (rows, channels) with equal rows", field="layers")
        if start_row + min(rows) > len(self._case_ids):
            raise BadTensor(f"the part ends after the last row ({len(self._case_ids)})", field="start_row")
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
        if not self._is_announced:  # so that parts without a manifest can be assigned to their dataset
            self._store.write(unfinished_key(self._request.feature_set_id()), self._request)
            self._is_announced = True
        self._store.put(key, data)
        part = PartRef(key=key, sha256=sha256, start_row=start_row, rows=min(rows), size_bytes=len(data))
        self._add_part(part, channels)
        return part

    def commit(
        self, software: Mapping[str, str], *, replaced: CommittedSet | None = None, replace: bool = False
    ) -> CommittedSet:
        """Writes the manifest unless another writer has written it, and returns the stored manifest.

        Args:
            software: versions of the software that computed the parts.
            replaced: manifest of the damaged set to repair. If the new parts have the same bytes as the old parts, this
                manifest stays. Parts that another device computed may differ in the last bits. In this case, a new
                manifest replaces this manifest.
            replace: whether to replace an unreadable manifest.

        Raises:
            PreconditionFailed: rows are missing.
        """
        manifest = Manifest(
            request=self._request,
            parts=self._cover(),
            layers=tuple(Layer(name=name, channels=self._channels[name]) for name in self._request.layers),
            rows=len(self._case_ids),
            case_ids=self._case_ids,
            groups=self._groups,
            software=dict(software),
        )
        if replaced is not None and _get_digests(manifest) == _get_digests(replaced.manifest):
            return replaced
        key = manifest_key(self._request.feature_set_id())
        if replace or replaced is not None:
            # One put: a reader sees the old manifest or the new one, and their digests tell them apart.
            self._store.put(key, manifest.to_json(), content_type="application/json")
        else:
            self._store.put_if_absent(key, manifest.to_json())
        self._store.delete(unfinished_key(self._request.feature_set_id()))
        return read_committed(self._store, self._request.feature_set_id())

    def _add_part(self, part: PartRef, channels: dict[str, int]) -> None:
        self._channels = channels
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


def _get_digests(manifest: Manifest) -> list[str]:
    return [part.sha256 for part in manifest.parts]


def _describe(data: bytes, key: str, sha256: str) -> tuple[PartRef, dict[str, int]]:
    """Reads the header of a part: its rows, and the channels of its layers.

    Raises:
        MalformedHeader: it is not the header of a part.
    """
    header = parse_header(data, len(data))
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    start_row, rows = header.metadata.get("start_row", ""), {shape[:1] for shape in shapes.values()}
    if not _START_ROW.fullmatch(start_row) or len(rows) != 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise MalformedHeader("it is not a part of a feature set")
    ((count,),) = rows
    if not count:
        raise MalformedHeader("it has no rows")
    part = PartRef(key=key, sha256=sha256, start_row=int(start_row), rows=count, size_bytes=len(data))
    return part, {name: shape[1] for name, shape in shapes.items()}
