"""One study of a request, from bytes or stored objects to a prepared tensor.

Knows volumes, the object store and preprocessing; knows nothing of gRPC, and of models only how they want their input.

Legend: C channels (modalities), D slices, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from vfmalign.client.messages.features import Pooling
from vfmalign.core.domain.artifacts import Preprocessing, VolumeKind, VolumeRef
from vfmalign.core.domain.errors import BadVolume, InvalidInput
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import MAX_ENCODED_BYTES, Volume, decode


@dataclass(frozen=True)
class Source:
    """One volume of a request.

    Attributes:
        kind: what it shows.
        field: the request's field, for errors.
        content: the NIfTI bytes themselves, or where they are stored.
    """

    kind: VolumeKind
    field: str
    content: bytes | VolumeRef


@dataclass(frozen=True)
class StudyRequest:
    """What Extract asks for.

    Attributes:
        model: id of a published model.
        model_sha256: digest its weights must have; empty accepts the card's.
        sources: the study's volumes.
        layers: empty means the card's primary layer.
        pooling: `mean`, or `none` for whole maps.
        input_transform: a name in `imaging.transforms.INPUT_TRANSFORMS`.
        store_as: id to store the features under; empty returns them.
    """

    model: str
    model_sha256: str
    sources: tuple[Source, ...]
    layers: tuple[str, ...]
    pooling: Pooling
    input_transform: str
    store_as: str


def prepare_sources(
    store: ObjectStore,
    sources: Sequence[Source],
    preprocessing: Preprocessing,
    input_transform: str,
    stages: Stages,
) -> Tensor:
    """Reads, decodes and prepares a study.

    Returns:
        The encoder's input, (C, D, H, W) float32.

    Raises:
        BadVolume: a volume is missing, sent twice, cannot be decoded, or does not lie on the others.
        BadOption: the input transform is unknown.
        NotFound: a stored volume does not exist.
        DigestMismatch: a stored volume is not the one the request means.
    """
    volumes: dict[VolumeKind, Volume] = {}
    for source in sources:
        if source.kind in volumes:
            raise BadVolume(f"{source.kind} is sent twice", field=source.field, remedy="send each volume once")
        with in_field(source.field):
            volumes[source.kind] = _read(store, source, stages)
    with stages.stage("prepare"):
        return prepare_study(volumes, preprocessing, input_transform, subject="study").input_CDHW


def _read(store: ObjectStore, source: Source, stages: Stages) -> Volume:
    if isinstance(source.content, bytes):
        data, name = source.content, source.field
    else:
        with stages.stage("read"):
            data = store.get(source.content.key, sha256=source.content.sha256, max_bytes=MAX_ENCODED_BYTES)
        name = store.uri(source.content.key)
    with stages.stage("decode"):
        return decode(data, name, source.kind)


@contextmanager
def in_field(field: str) -> Iterator[None]:
    """Names the request's field in errors whose subject is the object that the field refers to."""
    try:
        yield
    except InvalidInput as error:
        error.field = field
        raise
