"""Reads, decodes and prepares the study of a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from vfmalign.client.messages.features import Pooling, StudyObservation
from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.errors import BadVolume, InvalidInput
from vfmalign.core.domain.modality_map import check_units
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.preprocessing import GLAND, PreparedStudy, needed_kinds, prepare_study
from vfmalign.imaging.volumes import MAX_ENCODED_BYTES, Volume, check_study_size, decode


@dataclass(frozen=True)
class Source:
    """One volume of a request.

    Attributes:
        kind: modality or label map.
        field: field of the request, which errors name.
        content: NIfTI bytes, or a reference to the stored object.
        unit: `HU`, or empty for arbitrary units.
    """

    kind: VolumeKind
    field: str
    content: bytes | StoredObject
    unit: str = ""


@dataclass(frozen=True)
class StudyRequest:
    """A checked request of Extract.

    Attributes:
        model: id of a published model.
        model_sha256: expected digest of the model's weights; empty accepts any digest.
        sources: volumes of the study; empty if the study is sent as DICOM.
        layers: requested layers; if empty, the primary layer of the card.
        pooling: `mean`, or `none` for whole feature maps.
        input_transform: name in `imaging.input_transforms.INPUT_TRANSFORMS`.
        store_as: id under which the features are stored; empty returns them in the response.
        store_group: the patient's group, which is stored with the features.
        observation: names the monitor that observes the features; None for none.
    """

    model: str
    model_sha256: str
    sources: tuple[Source, ...]
    layers: tuple[str, ...]
    pooling: Pooling
    input_transform: str
    store_as: str
    store_group: str
    observation: StudyObservation | None = None


def prepare_sources(
    store: ObjectStore,
    sources: Sequence[Source],
    preprocessing: Preprocessing,
    input_transform: str,
    stages: Stages,
    *,
    context: WorkContext = UNLIMITED,
) -> PreparedStudy:
    """Reads, decodes and prepares a study.

    Args:
        store: object store that contains the stored volumes.
        sources: the study's volumes.
        preprocessing: input format of the model.
        input_transform: name in `imaging.input_transforms`.
        stages: records the time of each stage in seconds.
        context: checked before every volume and while it is decompressed.

    Raises:
        BadVolume: a volume is missing, is sent twice, cannot be decoded, or does not overlap the other volumes; or all
            volumes together are too large.
        BadOption: the input transform is unknown, or the unit of a volume does not fit the model's normalisation.
        NotFound: a stored volume does not exist.
        DigestMismatch: the digest of a stored volume differs from the expected one.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    needed = needed_kinds(preprocessing)
    _check_kinds([source.kind for source in sources], sources, needed)
    check_units(preprocessing, {source.kind: source.unit for source in sources}, "study.volumes")
    volumes: dict[VolumeKind, Volume] = {}
    for source in sources:
        if source.kind in {*needed, GLAND.name}:
            with in_field(source.field):
                volumes[source.kind] = _read(store, source, stages, context)
            check_study_size((volume.size_bytes for volume in volumes.values()), "study")
    with stages.stage("prepare"):
        return prepare_study(volumes, preprocessing, input_transform, subject="study", labels=(GLAND,), context=context)


def _check_kinds(kinds: Sequence[VolumeKind], sources: Sequence[Source], needed: Sequence[VolumeKind]) -> None:
    """Checks that a study has every volume that the model needs, and none twice."""
    for place, source in enumerate(sources):
        if source.kind in kinds[:place]:
            raise BadVolume(f"{source.kind} is sent twice", field=source.field, remedy="send each volume once")
    if missing := [kind for kind in needed if kind not in kinds]:
        others = [kind for kind in kinds if kind not in needed]
        raise BadVolume(
            f"no {missing[0]} volume; the model takes {', '.join(needed)}",
            subject="study",
            remedy=f"send {missing[0]}" + (f", or name {others[0]} as the model does" if others else ""),
        )


def _read(store: ObjectStore, source: Source, stages: Stages, context: WorkContext) -> Volume:
    context.checkpoint()
    data: bytes | memoryview
    if isinstance(source.content, bytes):
        data, name = source.content, source.field
    else:
        with stages.stage("read"):
            data = store.get_large(
                source.content.key, sha256=source.content.sha256, max_bytes=MAX_ENCODED_BYTES, context=context
            )
        name = store.uri(source.content.key)
    with stages.stage("decode"):
        return decode(data, name, source.kind, is_label=source.kind == "gland", context=context)


@contextmanager
def in_field(field: str) -> Iterator[None]:
    """Adds the field of the request to errors, so that errors about a stored object also name this field."""
    try:
        yield
    except InvalidInput as error:
        error.field = field
        raise
