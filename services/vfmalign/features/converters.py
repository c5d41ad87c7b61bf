"""Converts between protobuf messages of the feature service and plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from google.protobuf.json_format import SerializeToJsonError

from vfmalign.client.messages import features as messages
from vfmalign.client.messages.base import get_enum_label
from vfmalign.client.messages.common import Cost, ObjectRef, Progress, StageTiming
from vfmalign.client.messages.monitors import FeatureOrigin
from vfmalign.client.monitors import Observation
from vfmalign.core.domain.declarations import HU, SUVBW, VolumeKind
from vfmalign.core.domain.errors import BadOption, TooLarge
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.record import VOLUME_KIND
from vfmalign.core.domain.stored_objects import StoredFile, StoredObject
from vfmalign.core.formats.bounds import get_bounds
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.core.storage.provenance import Provenance
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.dicom.reader import DicomRequest
from vfmalign.features.extraction.dataset_extraction import ExtractionResult
from vfmalign.features.extraction.parts import Features
from vfmalign.features.extraction.study import Source, StudyRequest, in_field
from vfmalign.features.extraction.study_store import check_study_id
from vfmalign.features.listing import ObjectPage, describe_feature_set
from vfmalign.features.outbox.entries import OutboxEntry
from vfmalign.imaging.input_transforms import get_input_transform
from vfmalign.models.registry import list_architectures
from vfmalign.v1 import features_pb2, monitoring_pb2

ToKey = Callable[[str], str]
"""Converts a URI in this deployment's bucket to its key; raises for any other URI."""
ToUri = Callable[[str], str]
"""Converts a key to its URI."""


MAX_OBSERVED_LAYERS = get_bounds(monitoring_pb2.Observation.DESCRIPTOR.fields_by_name["layers"]).max_count


# --- requests ---------------------------------------------------------------------------------------------------------


def to_study_request(request: features_pb2.ExtractRequest, to_key: ToKey) -> StudyRequest:
    """Checks a request of Extract.

    Raises:
        BadOption: a field is missing or invalid. The error names the field.
        InvalidInput: a stored volume is in another bucket.
    """
    if request.store_as:
        check_study_id(request.store_as)
    if bool(request.store_as) != bool(request.store_group):
        raise BadOption(
            "stored features need an id and the patient's group",
            field="store_group" if request.store_as else "store_as",
            remedy="set both, or neither",
        )
    input_transform = request.input_transform or "identity"
    get_input_transform(input_transform)
    pooling = get_enum_label(features_pb2.Pooling.DESCRIPTOR, request.pooling) or "mean"
    if pooling not in {"mean", "none"}:
        raise BadOption("unknown pooling", field="pooling", remedy="choose POOLING_MEAN or POOLING_NONE")
    observation = _to_observation(request.observation) if request.HasField("observation") else None
    if observation is not None and pooling != "mean":
        raise BadOption(
            "monitors observe pooled features",
            field="pooling",
            remedy="choose POOLING_MEAN, or leave out `observation`",
        )
    if observation is not None and len(request.layers) > MAX_OBSERVED_LAYERS:
        raise BadOption(
            f"a monitor observes at most {MAX_OBSERVED_LAYERS} layers",
            field="layers",
            remedy="request the layers that the monitor watches",
        )
    return StudyRequest(
        model=request.model_id,
        model_sha256=request.checkpoint_sha256,
        sources=tuple(_to_sources(request.study, to_key)),
        layers=tuple(request.layers),
        pooling=cast(messages.Pooling, pooling),
        input_transform=input_transform,
        store_as=request.store_as,
        store_group=request.store_group,
        observation=observation,
    )


def _to_observation(message: features_pb2.StudyObservation) -> messages.StudyObservation:
    if message.study.HasField("acquire_time") and not message.study.acquire_time.ByteSize():
        raise BadOption(
            "the time is empty",
            field="observation.study.acquire_time",
            remedy="set seconds since 1970 in UTC, or omit the field",
        )
    try:
        observation = messages.StudyObservation.from_proto(message, "observation")
    except SerializeToJsonError:  # the time is the only field that protobuf itself rejects
        raise BadOption(
            "not a time between the years 1 and 9999",
            field="observation.study.acquire_time",
            remedy="set seconds since 1970 in UTC and nanoseconds from 0 to 999,999,999, or omit the field",
        ) from None
    if not all(value and value.isprintable() for value in observation.study.strata.values()):
        raise BadOption(
            "a value is empty or not printable",
            field="observation.study.strata",
            remedy="send 1 to 64 printable characters, or leave the stratum out",
        )
    return observation


def to_dicom_request(study: features_pb2.Study, to_key: ToKey) -> DicomRequest | None:
    """Checks the DICOM study of a request. Returns None if the request sends the study as volumes.

    Args:
        study: study of the request.
        to_key: converts a reference to a key; accepts only uploads of the caller.

    Raises:
        BadOption: a field is missing or invalid. The error names the field.
        InvalidInput: the upload belongs to another caller.
    """
    if not study.HasField("dicom"):
        return None
    if study.volumes or study.HasField("gland_mask"):
        raise BadOption(
            "the study is sent both as DICOM and as volumes", field="study", remedy="send `dicom` or `volumes`"
        )
    dicom = study.dicom
    source = dicom.WhichOneof("source")
    if source is None:
        raise BadOption(
            "the study has no source", field="study.dicom", remedy="set `instances`, `uploaded` or `reference`"
        )
    if source == "instances":
        return DicomRequest(tuple(dicom.instances.instances), dicom.rules_dataset_id)
    if source == "reference":
        return DicomRequest(
            messages.PacsReference.from_proto(dicom.reference, "study.dicom.reference"), dicom.rules_dataset_id
        )
    with in_field("study.dicom.uploaded.uri"):
        key = to_key(dicom.uploaded.uri)
    return DicomRequest(StoredObject(key=key, sha256=dicom.uploaded.sha256), dicom.rules_dataset_id)


def to_extraction_request(request: features_pb2.ExtractDatasetRequest) -> messages.ExtractDatasetRequest:
    """Checks a request of ExtractDataset.

    Raises:
        BadOption: a field is missing or invalid. The error names the field.
    """
    record = messages.ExtractDatasetRequest.from_proto(request)
    if record.pooling != "mean":
        raise BadOption("feature sets hold pooled rows", field="pooling", remedy="choose POOLING_MEAN")
    return record


def _to_sources(study: features_pb2.Study, to_key: ToKey) -> list[Source]:
    sources = []
    for i, volume in enumerate(study.volumes):
        field = f"study.volumes[{i}]"
        if not VOLUME_KIND.matches(volume.modality) or volume.modality == "gland":
            raise BadOption(
                f"{volume.modality[:64]!r} is not a modality" if volume.modality else "no modality is given",
                field=f"{field}.modality",
                remedy="choose a modality of the model's card, and send a gland mask as `gland_mask`",
            )
        if volume.unit not in {"", HU, SUVBW}:
            raise BadOption("unknown unit", field=f"{field}.unit", remedy=f"choose {HU} or {SUVBW}, or leave it empty")
        sources.append(replace(_to_source(volume, volume.modality, field, to_key), unit=volume.unit))
    if study.HasField("gland_mask"):
        sources.append(_to_source(study.gland_mask, "gland", "study.gland_mask", to_key))
    return sources


def _to_source(
    message: features_pb2.StudyVolume | features_pb2.GlandMask, kind: VolumeKind, field: str, to_key: ToKey
) -> Source:
    source = message.WhichOneof("source")
    if source is None:
        raise BadOption(f"{kind} has no source", field=field, remedy="set `nifti` or `stored`")
    if source == "nifti":
        return Source(kind, field, message.nifti)
    with in_field(f"{field}.stored.uri"):
        key = to_key(message.stored.uri)
    return Source(kind, field, StoredObject(key=key, sha256=message.stored.sha256))


# --- responses --------------------------------------------------------------------------------------------------------


def to_model(card: ModelCard, to_uri: ToUri, provenance: Provenance) -> messages.Model:
    """Describes a model."""
    return messages.Model(
        model_id=card.id,
        architecture=card.architecture,
        objective=card.objective,
        checkpoint=ObjectRef.of(card.checkpoint, to_uri),
        preprocessing=card.preprocessing,
        layers=card.layers,
        primary_layer=card.primary_layer,
        pretraining=tuple(
            messages.Pretraining(
                dataset_id=source.dataset_id,
                dataset_digest=source.dataset_digest,
                volume_count=len(source.volume_sha256),
                group_count=len(source.groups),
            )
            for source in card.pretraining
        ),
        parent_model_id=card.parent_model_id,
        source=card.source,
        has_dicom_rules=bool(card.declaration),
        create_time=provenance.created_at,
        created_by=provenance.created_by,
        parent_sha256=provenance.parent_sha256,
        licence=card.licence,
        tensors=card.tensors,
    )


def to_models(page: ObjectPage[tuple[ModelCard, Provenance]], to_uri: ToUri) -> messages.ListModelsResponse:
    """Builds the response with one page of models and the available architectures."""
    return messages.ListModelsResponse(
        models=tuple(to_model(card, to_uri, provenance) for card, provenance in page.items),
        next_page_token=page.next_token,
        architectures=list_architectures(),
        unreadable=_to_unreadable(page),
    )


def to_datasets(page: ObjectPage[messages.Dataset]) -> messages.ListDatasetsResponse:
    """Describes one page of datasets."""
    return messages.ListDatasetsResponse(
        datasets=page.items,
        next_page_token=page.next_token,
        unreadable=_to_unreadable(page),
    )


def to_inline_layers(features: Features, limit_bytes: int) -> list[features_pb2.LayerFeatures]:
    """Builds the response that contains a study's features.

    Raises:
        TooLarge: the features do not fit into one message.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in features.values())
    if size > limit_bytes:
        raise TooLarge(
            f"the features need {size:,} bytes, and a message at most {limit_bytes:,}",
            subject="layers",
            remedy="set `store_as` to store them, request fewer layers, or pool them",
            reason="MESSAGE_TOO_LARGE",
        )
    return [
        features_pb2.LayerFeatures(layer=layer, tensor=to_tensor(tensor.numpy())) for layer, tensor in features.items()
    ]


def to_stored_layers(stored: Mapping[str, StoredFile], to_uri: ToUri) -> list[features_pb2.LayerFeatures]:
    """Builds the response that refers to a study's stored features."""
    return [
        features_pb2.LayerFeatures(layer=layer, stored=ObjectRef.of(file, to_uri).to_proto())
        for layer, file in stored.items()
    ]


def to_origin(card: ModelCard, input_transform: str) -> FeatureOrigin:
    """Describes the origin of the features of a study."""
    return FeatureOrigin(
        checkpoint_sha256=card.checkpoint.sha256,
        preprocessing_sha256=card.preprocessing.content_digest(),
        input_transform=input_transform,
    )


def to_observed(
    observation: messages.StudyObservation,
    features: Features,
    origin: FeatureOrigin,
    b_values: Mapping[VolumeKind, str],
) -> OutboxEntry:
    """Describes the pooled features of a study for a monitor.

    Adds the b-values of the study's DICOM as further strata, up to the maximum number of strata.
    """
    strata = {**observation.study.strata, **b_values, **observation.study.strata}
    room = observation.study.get_bounds("strata").max_count
    study = observation.study.model_copy(update={"strata": dict(list(strata.items())[:room])})
    layers = {layer: tensor.numpy() for layer, tensor in features.items()}
    return OutboxEntry(observation.monitor_id, origin, Observation(study, layers))


def to_progress(done: int, total: int, elapsed_s: float) -> messages.ExtractDatasetResponse:
    """Builds a progress message of a dataset's extraction."""
    progress = Progress(phase="extract", done=done, total=total, unit="case", elapsed_seconds=elapsed_s)
    return messages.ExtractDatasetResponse(progress=progress)


def to_feature_sets(page: ObjectPage[messages.FeatureSet]) -> messages.ListFeatureSetsResponse:
    """Builds the response with one page of feature sets."""
    return messages.ListFeatureSetsResponse(
        feature_sets=page.items,
        next_page_token=page.next_token,
        unreadable=_to_unreadable(page),
    )


def to_feature_set(store: ObjectStore, result: ExtractionResult, cost: Cost) -> messages.ExtractDatasetResponse:
    """Builds the last message of a dataset's extraction."""
    return messages.ExtractDatasetResponse(
        feature_set=describe_feature_set(store, result.committed, result.checkpoint_sha256),
        cost=cost,
        computed_cases=result.computed_cases,
        recomputed_parts=result.recomputed_parts,
    )


def to_cost(seconds: Mapping[str, float], device: str, peak_bytes: int) -> Cost:
    """Describes the cost of a response."""
    stages = tuple(StageTiming(stage=stage, seconds=spent) for stage, spent in seconds.items())
    return Cost(stages=stages, device=device, peak_device_memory_bytes=peak_bytes)


def _to_unreadable(page: ObjectPage[Any]) -> tuple[messages.UnreadableObject, ...]:
    return tuple(messages.UnreadableObject(id=name, message=str(error)) for name, error in page.unreadable.items())
