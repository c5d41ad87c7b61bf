"""Between the API's messages and the plain values of this room: parse, check and pack; nothing is computed here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from vfmalign.core.domain.artifacts import (
    LayerSpec,
    Modality,
    ModelCard,
    Objective,
    Split,
    VolumeKind,
    VolumeRef,
    features_prefix,
    is_id,
)
from vfmalign.core.domain.errors import BadOption, Exhausted
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.features.dataset_extraction import BulkRequest, BulkResult
from vfmalign.features.extractor import Pooling
from vfmalign.features.listing import ModelPage
from vfmalign.features.parts import Features
from vfmalign.features.study import Source, StudyRequest, in_field
from vfmalign.features.study_store import StoredFeatures, check_study_id
from vfmalign.imaging.input_transforms import input_transform as find_input_transform
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.v1 import common_pb2, features_pb2

MAX_SEED = 2**63 - 1

_MODALITY_NUMBERS: dict[Modality, common_pb2.Modality] = {
    "t2w": common_pb2.MODALITY_T2W,
    "dwi": common_pb2.MODALITY_DWI,
    "adc": common_pb2.MODALITY_ADC,
}
_MODALITIES: dict[int, Modality] = {number: name for name, number in _MODALITY_NUMBERS.items()}
_SPLITS: dict[int, Split] = {
    common_pb2.SPLIT_PRETRAIN: "pretrain",
    common_pb2.SPLIT_TRAIN: "train",
    common_pb2.SPLIT_VAL: "val",
    common_pb2.SPLIT_TEST: "test",
}
_POOLINGS: dict[int, Pooling] = {
    features_pb2.POOLING_UNSPECIFIED: "mean",
    features_pb2.POOLING_MEAN: "mean",
    features_pb2.POOLING_NONE: "none",
}
_OBJECTIVE_NUMBERS: dict[Objective, features_pb2.Objective] = {
    "masked_reconstruction": features_pb2.OBJECTIVE_MASKED_RECONSTRUCTION,
    "contrastive": features_pb2.OBJECTIVE_CONTRASTIVE,
    "supervised": features_pb2.OBJECTIVE_SUPERVISED,
    "random": features_pb2.OBJECTIVE_RANDOM,
}

T = TypeVar("T")
KeyOf = Callable[[str], str]
"""Takes a URI of our own bucket to its key; raises for any other."""
UriOf = Callable[[str], str]
"""Takes a key to its URI."""


def parse_pooling(number: int) -> Pooling:
    """The pooling of a request; unspecified means the mean."""
    return _known(_POOLINGS, number, "pooling", "choose POOLING_MEAN or POOLING_NONE")


def parse_id(text: str, field: str) -> str:
    """An id of a request."""
    if not is_id(text):
        raise BadOption(
            f"{text[:64]!r} is no id" if text else "no id is given",
            field=field,
            remedy="use lower-case letters, digits, `_`, `.` and `-`, at most 128 characters",
        )
    return text


def parse_sha256(text: str, field: str, *, required: bool = False) -> str:
    """A digest of a request; may be empty unless it is required."""
    if re.fullmatch("[0-9a-f]{64}", text) or (not text and not required):
        return text
    raise BadOption("not a SHA-256", field=field, remedy="give 64 lower-case hex digits")


def parse_extract(request: features_pb2.ExtractRequest, key_of: KeyOf) -> StudyRequest:
    """The plain request of Extract."""
    if request.store_as:
        check_study_id(parse_id(request.store_as, "store_as"))
    find_input_transform(request.input_transform or "identity")
    return StudyRequest(
        model=parse_id(request.model_id, "model_id"),
        model_sha256=parse_sha256(request.checkpoint_sha256, "checkpoint_sha256"),
        sources=tuple(_parse_study(request.study, key_of)),
        layers=tuple(request.layers),
        pooling=parse_pooling(request.pooling),
        input_transform=request.input_transform or "identity",
        store_as=request.store_as,
    )


def _parse_study(study: features_pb2.Study, key_of: KeyOf) -> list[Source]:
    """A study's volumes and mask, with the request's field names."""
    sources = []
    for i, volume in enumerate(study.volumes):
        field = f"study.volumes[{i}]"
        remedy = "choose MODALITY_T2W, MODALITY_DWI or MODALITY_ADC"
        kind = _known(_MODALITIES, volume.modality, f"{field}.modality", remedy)
        sources.append(_parse_source(volume, kind, field, key_of))
    if study.HasField("gland_mask"):
        sources.append(_parse_source(study.gland_mask, "gland", "study.gland_mask", key_of))
    return sources


def parse_bulk(request: features_pb2.ExtractDatasetRequest) -> BulkRequest:
    """The plain request of ExtractDataset."""
    if _POOLINGS.get(request.pooling) != "mean":
        raise BadOption("feature sets hold pooled rows", field="pooling", remedy="choose POOLING_MEAN")
    initialisations: dict[int, Literal["checkpoint", "random"]] = {
        features_pb2.INITIALISATION_UNSPECIFIED: "checkpoint",
        features_pb2.INITIALISATION_CHECKPOINT: "checkpoint",
        features_pb2.INITIALISATION_RANDOM: "random",
    }
    remedy = "choose INITIALISATION_CHECKPOINT or INITIALISATION_RANDOM"
    initialisation = _known(initialisations, request.initialisation, "initialisation", remedy)
    if request.initialisation_seed < 0:
        raise BadOption("negative seed", field="initialisation_seed", remedy=f"choose one from 0 to {MAX_SEED}")
    return BulkRequest(
        model=parse_id(request.model_id, "model_id"),
        model_sha256=parse_sha256(request.checkpoint_sha256, "checkpoint_sha256"),
        dataset=parse_id(request.dataset_id, "dataset_id"),
        dataset_digest=parse_sha256(request.dataset_digest, "dataset_digest"),
        split=_known(_SPLITS, request.split, "split", "choose SPLIT_PRETRAIN, SPLIT_TRAIN, SPLIT_VAL or SPLIT_TEST"),
        layers=tuple(request.layers),
        input_transform=request.input_transform or "identity",
        initialisation=initialisation,
        init_seed=request.initialisation_seed,
    )


def pack_model(card: ModelCard, uri_of: UriOf) -> features_pb2.Model:
    """A model card as a message."""
    return features_pb2.Model(
        model_id=card.id,
        architecture=card.architecture,
        objective=_OBJECTIVE_NUMBERS[card.objective],
        checkpoint=_pack_ref(card.checkpoint, uri_of),
        preprocessing=features_pb2.Preprocessing(
            modalities=[_MODALITY_NUMBERS[modality] for modality in card.preprocessing.modalities],
            spacing_mm=card.preprocessing.spacing_mm or (),
            shape_dhw=card.preprocessing.shape_DHW,
            normalisation=card.preprocessing.normalisation,
        ),
        layers=[_pack_layer(layer) for layer in card.layers],
        primary_layer=card.primary_layer,
        pretraining=[
            features_pb2.Pretraining(
                dataset_id=seen.dataset,
                dataset_digest=seen.dataset_digest,
                volume_count=len(seen.volume_sha256),
                group_count=len(seen.groups),
            )
            for seen in card.pretraining
        ],
        parent_model_id=card.parent,
        source=card.source,
    )


def pack_models(page: ModelPage, uri_of: UriOf) -> features_pb2.ListModelsResponse:
    """One page of models, with the architectures that can be built."""
    return features_pb2.ListModelsResponse(
        models=[pack_model(card, uri_of) for card in page.cards],
        next_page_token=page.next_token,
        architectures=list(ARCHITECTURES),
    )


def pack_inline(features: Features, limit_bytes: int) -> list[features_pb2.LayerFeatures]:
    """A study's features in the response itself.

    Raises:
        Exhausted: they do not fit one message.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in features.values())
    if size > limit_bytes:
        error = Exhausted(
            f"the features take {size} bytes, a message at most {limit_bytes}",
            subject="layers",
            remedy="set `store_as` to have them stored, ask for fewer layers, or pool them",
            reason="MESSAGE_TOO_LARGE",
        )
        error.retry_after_s = None
        raise error
    return [
        features_pb2.LayerFeatures(layer=layer, tensor=to_tensor(tensor.numpy())) for layer, tensor in features.items()
    ]


def pack_stored(stored: Mapping[str, StoredFeatures], uri_of: UriOf) -> list[features_pb2.LayerFeatures]:
    """A study's features by reference."""
    return [
        features_pb2.LayerFeatures(layer=layer, stored=_pack_ref(one.ref, uri_of, one.size_bytes))
        for layer, one in stored.items()
    ]


def pack_progress(done: int, total: int, elapsed_s: float) -> features_pb2.ExtractDatasetResponse:
    """How far a dataset's extraction has come."""
    progress = common_pb2.Progress(phase="extract", done=done, total=total, unit="case", elapsed_seconds=elapsed_s)
    return features_pb2.ExtractDatasetResponse(progress=progress)


def pack_feature_set(result: BulkResult, uri_of: UriOf, cost: common_pb2.Cost) -> features_pb2.ExtractDatasetResponse:
    """The last message of a dataset's extraction."""
    manifest = result.manifest
    data = manifest.to_json()
    ref = VolumeRef(key=f"{features_prefix(result.feature_set)}manifest.json", sha256=hashlib.sha256(data).hexdigest())
    return features_pb2.ExtractDatasetResponse(
        feature_set=features_pb2.FeatureSet(
            feature_set_id=result.feature_set,
            manifest=_pack_ref(ref, uri_of, len(data)),
            rows=manifest.rows,
            groups=len(set(manifest.groups)),
            layers=[_pack_layer(layer) for layer in manifest.layers],
            checkpoint_sha256=result.checkpoint_sha256,
            dataset_digest=manifest.request.dataset_digest,
        ),
        cost=cost,
        computed_cases=result.computed_cases,
    )


def pack_cost(seconds: Mapping[str, float], device: str, peak_bytes: int) -> common_pb2.Cost:
    """What a response cost."""
    stages = [common_pb2.StageTiming(stage=stage, seconds=spent) for stage, spent in seconds.items()]
    return common_pb2.Cost(stages=stages, device=device, peak_device_memory_bytes=peak_bytes)


def _pack_ref(ref: VolumeRef, uri_of: UriOf, size_bytes: int = 0) -> common_pb2.ObjectRef:
    return common_pb2.ObjectRef(uri=uri_of(ref.key), sha256=ref.sha256, size_bytes=size_bytes)


def _pack_layer(layer: LayerSpec) -> features_pb2.Layer:
    return features_pb2.Layer(name=layer.name, channels=layer.channels)


def _parse_source(
    message: features_pb2.StudyVolume | features_pb2.GlandMask, kind: VolumeKind, field: str, key_of: KeyOf
) -> Source:
    source = message.WhichOneof("source")
    if source is None:
        raise BadOption(f"{kind} has no source", field=field, remedy="set `nifti` or `stored`")
    if source == "nifti":
        return Source(kind, field, message.nifti)
    sha256 = parse_sha256(message.stored.sha256, f"{field}.stored.sha256", required=True)
    with in_field(f"{field}.stored.uri"):
        key = key_of(message.stored.uri)
    return Source(kind, field, VolumeRef(key=key, sha256=sha256))


def _known(table: Mapping[int, T], number: int, field: str, remedy: str) -> T:
    if number not in table:
        problem = "nothing is chosen" if number == 0 else f"{number} is no choice"
        raise BadOption(problem, field=field, remedy=remedy)
    return table[number]
