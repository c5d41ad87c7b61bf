"""Reads the samples of a request from object storage: stored feature sets and uploaded objects.

The reader determines sizes before it reads features. A comparison that exceeds the memory limit is therefore rejected
early.

Legend: N rows, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from vfmalign.core.domain.errors import BadOption, BadTensor, InvalidInput, PreconditionFailed
from vfmalign.core.domain.record import SHA256, is_id
from vfmalign.core.formats.bounds import get_max_count, get_max_length
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.core.storage.feature_sets import Manifest, read_named, read_part
from vfmalign.core.storage.safetensors_header import MalformedHeader, SafetensorsHeader, parse_header, read_header
from vfmalign.core.storage.store.access import STORE_ACCESS
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.mmd.comparison import memory_budget
from vfmalign.mmd.comparison.memory_budget import SampleShape
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.lru_cache import SizedLruCache
from vfmalign.mmd.engine.row_streams import FeatureArray, StoredRows
from vfmalign.v1.mmd_pb2 import InlineFeatures, InlineLayer

Layers: TypeAlias = dict[str, FeatureArray]

_MAX_LAYERS = get_max_count(InlineFeatures, "layers")
_MAX_LAYER_NAME = get_max_length(InlineLayer, "layer")
_STORED_BYTES = np.dtype(np.float32).itemsize
_DTYPES: dict[str, np.dtype[np.floating]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}


@dataclass(frozen=True)
class Stored:
    """Stored feature set as a source of a sample.

    Attributes:
        name: field of the request with this source.
        manifest_sha256: expected digest of the manifest; empty to accept any digest.
        field: field of `FeatureSource` that is set.
    """

    name: str
    feature_set: str
    manifest_sha256: str = ""
    field: ClassVar[Literal["feature_set_id"]] = "feature_set_id"

    @property
    def key(self) -> Hashable:
        """Key that is equal for two sources with the same features."""
        return ("feature set", self.feature_set, self.manifest_sha256)


@dataclass(frozen=True)
class Uploaded:
    """Safetensors file that a client uploaded, with the labels of its rows.

    A size of 0 means that the size is unknown.
    """

    name: str
    uri: str
    sha256: str
    groups: tuple[str, ...] = ()
    case_ids: tuple[str, ...] = ()
    size_bytes: int = 0
    field: ClassVar[Literal["uploaded"]] = "uploaded"

    @property
    def key(self) -> Hashable:
        """Key that is equal for two sources with the same features."""
        return ("object", self.uri, self.sha256)


Source: TypeAlias = Stored | Uploaded | Sample


class FeatureReader:
    """Reads the samples of one call. The cache lets pairs of a batch share samples.

    Args:
        store: object storage of feature sets and uploaded objects; None supports only samples in the request itself.
        cache: cache through which the pairs of a batch share samples; by default no cache.
    """

    def __init__(self, store: ObjectStore | None, cache: SizedLruCache | None = None) -> None:
        self._optional_store = store
        self._cache = cache or SizedLruCache()
        self._manifests: dict[Hashable, Manifest] = {}
        self._headers: dict[Hashable, SafetensorsHeader] = {}

    def shapes(self, sources: Sequence[Source]) -> list[SampleShape]:
        """Returns the sizes of samples without reading their features.

        Raises:
            BadOption: an id, URI or digest is malformed.
            BadTensor: an object is not a safetensors file.
            NotFound: a feature set or object does not exist.
            PreconditionFailed: a sample needs object storage, but the service has none.
            DigestMismatch: a manifest's digest differs from the requested digest.
            DataLoss: the manifest of a feature set is damaged.
        """
        return [self._get_shape(source) for source in sources]

    def read(self, sources: Sequence[Source], context: WorkContext, *, by_layer: bool = False) -> list[Sample]:
        """Reads samples and verifies every stored byte. A source that occurs twice is read only once.

        Args:
            sources: sources that were passed to `shapes` before.
            context: checked before every part of a feature set.
            by_layer: whether to return stored sets as streams. The caller then reads and verifies them layer by layer.

        Raises:
            DataLoss: a part of a feature set is missing or was changed.
            NotFound, DigestMismatch: an uploaded object is missing or was changed.
        """
        read: dict[Hashable, Layers] = {}
        samples = []
        for source in sources:
            if isinstance(source, Sample):
                samples.append(self._share_arrays(source))
                continue
            if by_layer and isinstance(source, Stored):
                samples.append(self._open(source))
                continue
            if source.key not in read:
                read[source.key] = self._cache.get_or_create(source.key, partial(self._layers, source, context), _bytes)
            labels = self._manifests[source.key] if isinstance(source, Stored) else source
            samples.append(Sample(source.name, read[source.key], labels.groups, labels.case_ids, source.field))
        return samples

    def _open(self, source: Stored) -> Sample:
        """Returns a stored feature set as one stream per layer."""
        manifest = self._manifests[source.key]
        layers = {spec.name: StoredRows(self._store, manifest, spec.name) for spec in manifest.layers}
        return Sample(source.name, layers, manifest.groups, manifest.case_ids, source.field)

    def _get_shape(self, source: Source) -> SampleShape:
        if isinstance(source, Sample):
            return memory_budget.get_sample_shape(source)
        self._require_store(source)
        if isinstance(source, Uploaded):
            if source.key not in self._headers:
                self._headers[source.key] = self._read_header(source)
            if source.size_bytes not in (0, size_bytes := self._headers[source.key].total_bytes):
                raise BadOption(
                    f"the object has {size_bytes:,} bytes, but the request states {source.size_bytes:,}",
                    field=f"{source.name}.uploaded.object.size_bytes",
                    remedy="send the object that CreateUpload returned, or leave out its size",
                )
            shapes = {name: entry.shape for name, entry in self._headers[source.key].tensors.items()}
            rows = max((shape[0] for shape in shapes.values()), default=0)
            channels = {name: shape[1] for name, shape in shapes.items()}
            types = {_DTYPES[entry.dtype].itemsize for entry in self._headers[source.key].tensors.values()}
            return SampleShape(rows, channels, len(set(source.groups)) or rows, max(types, default=8))
        if not is_id(source.feature_set):
            raise BadOption(
                "is not the id of a feature set",
                field=f"{source.name}.feature_set_id",
                remedy="send the id that ExtractDataset returned",
            )
        if source.manifest_sha256 and not SHA256.matches(source.manifest_sha256):
            raise BadOption(
                "is not a SHA-256 digest in hexadecimal",
                field=f"{source.name}.manifest_sha256",
                remedy="send the digest of the manifest",
            )
        if source.key not in self._manifests:
            committed = read_named(self._store, source.feature_set, source.manifest_sha256)
            self._manifests[source.key] = committed.manifest
        manifest = self._manifests[source.key]
        channels = {layer.name: layer.channels for layer in manifest.layers}
        return SampleShape(manifest.rows, channels, len(set(manifest.groups)), _STORED_BYTES, in_parts=True)

    @property
    def _store(self) -> ObjectStore:
        if self._optional_store is None:
            raise TypeError("the sizes of stored samples have not been read")
        return self._optional_store

    def _require_store(self, source: Stored | Uploaded) -> None:
        if self._optional_store is None:
            raise get_missing_store(f"{source.name}.{source.field}")

    def _read_header(self, source: Uploaded) -> SafetensorsHeader:
        """Reads an object's header and checks that it matches the object's size."""
        field = f"{source.name}.uploaded.object"
        if not SHA256.matches(source.sha256):
            raise BadOption(
                "is not a SHA-256 digest in hexadecimal",
                field=f"{field}.sha256",
                remedy="send the digest of the object",
            )
        try:
            header = read_header(self._store, self._key(source))
        except MalformedHeader as error:
            raise _not_safetensors(error, field) from None
        _check_tensors(header, field)
        return header

    def _key(self, source: Uploaded) -> str:
        try:
            return self._store.key(source.uri, STORE_ACCESS["mmd"].read)
        except InvalidInput as error:
            field = f"{source.name}.uploaded.object.uri"
            raise BadOption(error.message, field=field, remedy=error.remedy) from None

    def _layers(self, source: Stored | Uploaded, context: WorkContext) -> Layers:
        """Reads the features of a source."""
        if isinstance(source, Uploaded):
            context.checkpoint()
            header, field = self._headers[source.key], f"{source.name}.uploaded.object"
            # The digest covers the whole object, which may have been replaced since its header was read.
            data = self._store.get_large(
                self._key(source), sha256=source.sha256, max_bytes=header.total_bytes, context=context
            )
            try:
                header = parse_header(data, len(data))
            except MalformedHeader as error:
                raise _not_safetensors(error, field) from None
            if header != self._headers[source.key]:
                raise BadTensor("was replaced while it was read", field=field, remedy="send the request again")
            return dict(sorted(_get_arrays(header, data).items()))  # the file has no order of its own
        manifest = self._manifests[source.key]
        layers = {spec.name: np.empty((manifest.rows, spec.channels), np.float32) for spec in manifest.layers}
        for index, part in enumerate(manifest.parts):
            context.checkpoint()
            for name, rows_NC in read_part(self._store, manifest, index).items():
                layers[name][part.start_row : part.start_row + part.rows] = rows_NC
        return layers

    def _share_arrays(self, sample: Sample) -> Sample:
        """Replaces arrays with byte-identical arrays of an earlier pair."""
        if not self._cache.max_bytes:
            return sample
        layers = dict(sample.layers)
        for name, array in sample.layers.items():
            if not isinstance(array, np.ndarray):
                continue  # a stream has no bytes in memory
            key = ("inline", array.dtype.str, array.shape, hashlib.sha256(np.ascontiguousarray(array).data).digest())
            layers[name] = self._cache.get_or_create(key, partial(_identity, array), _size)
        return replace(sample, layers=layers)


def get_missing_store(subject: str) -> PreconditionFailed:
    """Returns the error for requests that need object storage if the service has none."""
    return PreconditionFailed(
        "the request refers to object storage, but this service has none",
        subject=subject,
        remedy="send the features inline, or set AWS_ENDPOINT_URL_S3 for the MMD service; "
        "`vfmalign up` without --only starts both",
        reason="NO_OBJECT_STORAGE",
    )


def _not_safetensors(error: MalformedHeader, field: str) -> BadTensor:
    return BadTensor(f"is not a safetensors file: {error}", field=field, remedy="save it with safetensors")


def _check_tensors(header: SafetensorsHeader, field: str) -> None:
    """Checks that each tensor would also be valid as an inline layer. Errors do not contain rejected names."""
    if len(header.tensors) > _MAX_LAYERS:
        raise BadTensor(
            f"has {len(header.tensors):,} tensors, more than {_MAX_LAYERS}", field=field, remedy="save fewer layers"
        )
    for name, entry in header.tensors.items():
        if not (0 < len(name) <= _MAX_LAYER_NAME and name.isprintable()):
            raise BadTensor(
                f"contains a tensor without a printable name of 1 to {_MAX_LAYER_NAME} characters",
                field=field,
                remedy="name it by its layer",
            )
        if entry.dtype not in _DTYPES:
            raise BadTensor("contains tensors of another type", field=field, remedy="save float16, float32 or float64")
        if len(entry.shape) != 2:
            raise BadTensor(
                f"contains a tensor with {len(entry.shape)} axes", field=field, remedy="save (rows, channels)"
            )


def _get_arrays(header: SafetensorsHeader, data: memoryview) -> Layers:
    """Returns the arrays of a safetensors file as views of its bytes.

    The safetensors library would copy these bytes and hold the interpreter lock meanwhile.
    """
    content = data[header.content_offset :]
    return {
        name: np.ndarray(entry.shape, _DTYPES[entry.dtype], content, entry.begin)
        for name, entry in header.tensors.items()
    }


def _identity(array: FeatureArray) -> FeatureArray:
    return array


def _size(array: FeatureArray) -> int:
    return int(array.nbytes)


def _bytes(layers: Layers) -> int:
    return sum(map(_size, layers.values()))
