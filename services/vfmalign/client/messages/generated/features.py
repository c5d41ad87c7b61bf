"""Records of `features.proto`, by `make proto`; do not edit."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from google.protobuf.message import Message
from pydantic import Field

from vfmalign.client.messages.base import ApiMessage, Time, unset_means
from vfmalign.client.messages.generated.common import (
    Cost,
    Deletion,
    FileContent,
    FileUpload,
    ObjectRef,
    ObservedStudy,
    Progress,
)
from vfmalign.core.domain.datasets import Split, TakenSeries
from vfmalign.core.domain.declarations import DatasetDeclaration, VolumeKind
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.models import Layer, Objective, Preprocessing, TensorCounts
from vfmalign.core.domain.record import Id, OptionalId, OptionalSha256, Uid
from vfmalign.v1 import features_pb2

__all__ = [
    "Pretraining",
    "Model",
    "UnreadableObject",
    "ListModelsResponse",
    "SplitSize",
    "ClassCount",
    "GradeCount",
    "NumberRange",
    "StratumCount",
    "Dataset",
    "ListDatasetsResponse",
    "PacsReference",
    "StudyObservation",
    "DeliveredObservation",
    "ExtractedStudy",
    "ExtractDatasetRequest",
    "FeatureSet",
    "ListFeatureSetsRequest",
    "ListFeatureSetsResponse",
    "ExtractDatasetResponse",
    "CreateStudyUploadRequest",
    "CreateStudyUploadResponse",
    "DeleteDatasetRequest",
    "DeleteDatasetResponse",
    "DeleteModelRequest",
    "DeleteModelResponse",
    "DeleteFeatureSetRequest",
    "DeleteFeatureSetResponse",
    "Pooling",
    "ObservationDelivery",
    "Initialisation",
]
Pooling = Literal["mean", "none"]
"""Reduction of a feature map to a feature vector."""
ObservationDelivery = Literal["queued", "dropped"]
"""State of an observation when Extract returns."""
Initialisation = Literal["checkpoint", "random"]
"""Weights of the encoder that extracts a feature set."""


class Pretraining(ApiMessage):
    """A dataset that a model was pretrained on."""

    PROTO: ClassVar[type[Message]] = features_pb2.Pretraining

    dataset_id: str
    """Dataset id."""
    dataset_digest: str
    """SHA-256 of the dataset's description, hex."""
    volume_count: int = 0
    """Number of volumes listed on the card by their digests."""
    group_count: int = 0
    """Number of patients listed on the card by their group ids."""


class Model(ApiMessage):
    """A model card."""

    PROTO: ClassVar[type[Message]] = features_pb2.Model

    model_id: str
    """Model id."""
    architecture: str
    """Architecture name in the registry."""
    objective: Objective
    """Training objective."""
    checkpoint: ObjectRef
    """Weights and their digest."""
    preprocessing: Preprocessing
    """Input preparation."""
    layers: tuple[Layer, ...] = ()
    """Layers that checks may compare. `pooled`, the encoder's own pooled feature, may be requested too."""
    primary_layer: str
    """The layer of a check's main number, declared in advance."""
    pretraining: tuple[Pretraining, ...] = ()
    """Datasets seen in pretraining; empty if unknown, so that leakage cannot be excluded."""
    parent_model_id: str = ""
    """Id of the model this one was fine-tuned from; empty for a pretrained one."""
    source: str = ""
    """Origin of the weights."""
    has_dicom_rules: bool = False
    """Whether the card has rules for reading the model's inputs from DICOM in Extract."""
    create_time: Time | None = None
    """When it was published; absent if unknown."""
    created_by: str = ""
    """Who imported it, or created the job that published it: issuer and subject of the token, as `issuer#subject`;
    empty if unknown.
    """
    parent_sha256: str = ""
    """Digest of the weights of `parent_model_id` that it was fine-tuned from, hex; empty if unknown or without a
    parent.
    """
    licence: str = ""
    """SPDX id of the licence of the weights; empty if unknown."""
    tensors: TensorCounts | None = None
    """What the import did with the tensors of the file; absent for a model that was trained here, and for an exported
    program.
    """


class UnreadableObject(ApiMessage):
    """A stored object that is missing from a list because it cannot be read."""

    PROTO: ClassVar[type[Message]] = features_pb2.UnreadableObject

    id: str
    """Id of the object."""
    message: str
    """Why it cannot be read, and what to do about it."""


class ListModelsResponse(ApiMessage):
    """Response of ListModels."""

    PROTO: ClassVar[type[Message]] = features_pb2.ListModelsResponse

    models: tuple[Model, ...] = ()
    """Models in order of id."""
    next_page_token: str = ""
    """Token of the next page; empty on the last."""
    architectures: tuple[str, ...] = ()
    """Names of the architectures that this server can build."""
    unreadable: tuple[UnreadableObject, ...] = ()
    """Models of this page with an unreadable card."""


class SplitSize(ApiMessage):
    """Number of cases in one split of a dataset."""

    PROTO: ClassVar[type[Message]] = features_pb2.SplitSize

    split: Split
    """The split."""
    cases: int
    """Cases."""
    patients: int
    """Patients; several cases may come from one patient."""


class ClassCount(ApiMessage):
    """Numbers of cases in a class and outside it. The class of all other cases is unknown."""

    PROTO: ClassVar[type[Message]] = features_pb2.ClassCount

    name: str
    """Id of the class."""
    positive: int = 0
    """Cases that belong to it."""
    negative: int = 0
    """Cases that do not."""
    test_positive: int = 0
    """Test patients with at least one case that belongs to it."""
    test_negative: int = 0
    """Test patients with known cases, but without a case that belongs to it."""


class GradeCount(ApiMessage):
    """Number of cases of one grade."""

    PROTO: ClassVar[type[Message]] = features_pb2.GradeCount

    name: str
    """Id of what is graded, such as `pirads`."""
    grade: int = 0
    """The grade, 0 to 15."""
    cases: int = 0
    """Cases of this grade."""
    test_patients: int = 0
    """Test patients whose highest grade is this."""


class NumberRange(ApiMessage):
    """Range of a number that the dataset states for its cases, such as the age in years."""

    PROTO: ClassVar[type[Message]] = features_pb2.NumberRange

    name: str
    """Id of the number."""
    cases: int
    """Cases that have it."""
    minimum: float
    """Lowest value."""
    maximum: float
    """Highest value."""


class StratumCount(ApiMessage):
    """Number of cases with one value of a stratum."""

    PROTO: ClassVar[type[Message]] = features_pb2.StratumCount

    name: str
    """Id of the stratum, such as `scanner`, `field_strength` or `site`."""
    value: str
    """Its value: 1 to 64 printable characters. A stratum has at most 64 values."""
    cases: int
    """Cases with this value."""


class Dataset(ApiMessage):
    """Description of a dataset without its cases. A case in several splits counts once."""

    PROTO: ClassVar[type[Message]] = features_pb2.Dataset

    dataset_id: str
    """Dataset id."""
    dataset_digest: str
    """SHA-256 of the dataset's canonical description, hex."""
    splits: tuple[SplitSize, ...] = ()
    """Size of every split that has cases."""
    modalities: tuple[str, ...] = ()
    """Ids of the modalities that every case has."""
    label_maps: tuple[str, ...] = ()
    """Names of the label maps that every case has, such as `gland`."""
    held_out: bool
    """False if cases are in several splits on purpose, so that nothing is held out."""
    phantom: bool = False
    """True if the cases are generated: results are a rehearsal, not evidence."""
    declaration: DatasetDeclaration
    """Modalities, label maps, classes, grades and numbers that the dataset declares."""
    classes: tuple[ClassCount, ...] = ()
    """Counts of the classes that cases state, in the declared order, without classes derived from a label map."""
    numbers: tuple[NumberRange, ...] = ()
    """Numbers that cases have, in order of id; at most 64."""
    strata: tuple[StratumCount, ...] = ()
    """Values of the strata, in order of id and value; at most 16 strata."""
    cases_without: dict[str, int] = Field(default_factory=dict)
    """Number of cases without a label map, by name of the map, from 1 to the number of cases; maps that every case has
    are left out.
    """
    has_dicom_rules: bool = False
    """Whether the dataset has the rules that selected its volumes from DICOM series, so that Extract can use them."""
    create_time: Time | None = None
    """When it was published; absent if unknown."""
    created_by: str = ""
    """Who published it: issuer and subject of the token, as `issuer#subject`; empty if unknown."""
    grades: tuple[GradeCount, ...] = ()
    """Counts of the grades that cases state, in the declared order and by grade."""


class ListDatasetsResponse(ApiMessage):
    """Response of ListDatasets."""

    PROTO: ClassVar[type[Message]] = features_pb2.ListDatasetsResponse

    datasets: tuple[Dataset, ...] = ()
    """Datasets in order of id."""
    next_page_token: str = ""
    """Token of the next page; empty on the last."""
    unreadable: tuple[UnreadableObject, ...] = ()
    """Datasets of this page with an unreadable description."""


class PacsReference(ApiMessage):
    """A study, or some of its series, on a PACS (DICOMweb)."""

    PROTO: ClassVar[type[Message]] = features_pb2.PacsReference

    server: VolumeKind
    """Name of the PACS in the service's configuration (VFMALIGN_DICOMWEB__NAME__URL), in lower case."""
    study_uid: Uid
    """StudyInstanceUID. It appears in no log and no error."""
    series_uids: tuple[Uid, ...] = ()
    """SeriesInstanceUID of each series to read; empty, the default, reads the whole study."""


class StudyObservation(ApiMessage):
    """A study to be observed by a drift monitor."""

    PROTO: ClassVar[type[Message]] = features_pb2.StudyObservation

    monitor_id: Id
    """Id of the monitor. The request must include its layers."""
    study: ObservedStudy
    """The study."""


class DeliveredObservation(ApiMessage):
    """Delivery of an observation. If the delivery fails, the extraction still succeeds."""

    PROTO: ClassVar[type[Message]] = features_pb2.DeliveredObservation

    delivery: ObservationDelivery
    """State of the observation."""
    reason: str = ""
    """UPPER_SNAKE_CASE constant if it was dropped: `OUTBOX_FULL`, `NO_MONITORING`, `STORE_UNAVAILABLE`, `NOT_FOUND` or
    `WRONG_ORIGIN`; else empty.
    """
    detail: str = ""
    """The reason in a sentence, with the remedy."""


class ExtractedStudy(ApiMessage):
    """Response of Extract."""

    PROTO: ClassVar[type[Message]] = features_pb2.ExtractResponse
    OMITTED: ClassVar[frozenset[str]] = frozenset(("layers",))

    checkpoint_sha256: str = ""
    """Digest of the weights that were used, hex."""
    cost: Cost
    """Cost of the call."""
    preprocessing_sha256: str = ""
    """Digest of the preprocessing without the names of the modalities, hex, for `FeatureOrigin` of Observe."""
    observation: DeliveredObservation | None = None
    """Delivery of the observation; absent if the request has none."""
    series: tuple[TakenSeries, ...] = ()
    """The series that each modality of the model was read from, if the study was sent as DICOM."""


class ExtractDatasetRequest(ApiMessage):
    """Request of ExtractDataset."""

    PROTO: ClassVar[type[Message]] = features_pb2.ExtractDatasetRequest

    model_id: Id
    """Model id."""
    checkpoint_sha256: OptionalSha256 = ""
    """Expected digest of its weights, hex; empty accepts the stored one."""
    dataset_id: Id
    """Dataset id."""
    dataset_digest: OptionalSha256 = ""
    """Expected digest of the dataset, hex; empty accepts the stored one."""
    split: Split
    """Split to extract."""
    layers: tuple[str, ...] = ()
    """Layers, in any order; the set contains the primary layer first. Empty means every layer of the card."""
    pooling: Pooling = "mean"
    """Pooling; feature sets only support the mean."""
    input_transform: str = ""
    """Deterministic input transform of a task, as in ExtractRequest; empty means `identity`."""
    initialisation: Initialisation = "checkpoint"
    """Weights."""
    initialisation_seed: int = Field(default=0, ge=0, le=9223372036854775807)
    """Seed of random weights; ignored with the checkpoint."""
    verify: bool = False
    """Whether to read every part of a stored set to find changed bytes. Otherwise, only presence and size of the parts
    are checked.
    """
    modality_map: ModalityMap = Field(default_factory=dict)
    """Maps modalities of the dataset to inputs of the model, such as `t1w` to `input`. Inputs that are not named take
    the modality of the same name. No input occurs twice.
    """
    allow_cut_organs: bool = False
    """Accept cases with less than half of the gland mask, by which some models normalise, in the model's field of view.
    False, the default, rejects them. The option does not change the features of other cases or the id of the set.
    """
    created_by: str = ""
    """Who asked for the features, as `FeatureSet.created_by`. Only the service finetuning may set it, for the creator
    of a check; empty, the default, means the caller.
    """


class FeatureSet(ApiMessage):
    """A stored feature set."""

    PROTO: ClassVar[type[Message]] = features_pb2.FeatureSet

    feature_set_id: str
    """Id: 32 hex digits, a digest of everything that determines the features."""
    manifest: ObjectRef
    """Its manifest; the set is committed by writing it."""
    rows: int
    """Rows, one per case."""
    groups: int
    """Patients."""
    layers: tuple[Layer, ...]
    """Layers with their channels, the primary layer first."""
    checkpoint_sha256: str
    """Digest of the weights, hex; for random weights, digest of their architecture and seed."""
    dataset_digest: str
    """Digest of the dataset, hex."""
    model_id: str = ""
    """Model id."""
    dataset_id: str = ""
    """Dataset id."""
    split: Split | None = None
    """Split of the dataset."""
    initialisation: Initialisation | None = None
    """Weights."""
    initialisation_seed: int = 0
    """Seed of random weights."""
    input_transform: str = ""
    """Input transform."""
    create_time: Time | None = None
    """When the manifest was last written; absent in ExtractDataset."""
    created_by: str = ""
    """Who first had it extracted, directly or by a check: issuer and subject of the token, as `issuer#subject`; empty
    if unknown.
    """


class ListFeatureSetsRequest(ApiMessage):
    """Request of ListFeatureSets."""

    PROTO: ClassVar[type[Message]] = features_pb2.ListFeatureSetsRequest

    page_size: Annotated[int, unset_means(100)] = Field(default=100, ge=1, le=1000)
    """Feature sets per page."""
    page_token: str = ""
    """`next_page_token` of the previous page; empty for the first."""
    model_id: OptionalId = ""
    """Model of the feature sets; empty lists all."""
    dataset_id: OptionalId = ""
    """Dataset of the feature sets; empty lists all."""
    created_after: Time | None = None
    """Earliest time of creation; absent lists all."""
    created_before: Time | None = None
    """Time before which the feature sets were created; absent lists all."""


class ListFeatureSetsResponse(ApiMessage):
    """Response of ListFeatureSets."""

    PROTO: ClassVar[type[Message]] = features_pb2.ListFeatureSetsResponse

    feature_sets: tuple[FeatureSet, ...] = ()
    """Feature sets in order of id. The service reads `page_size` sets for each page and leaves out those that the
    filters exclude, so that a page may have fewer, or none, although another page follows.
    """
    next_page_token: str = ""
    """Token of the next page; empty on the last."""
    unreadable: tuple[UnreadableObject, ...] = ()
    """Feature sets of this page with an unreadable manifest."""


class ExtractDatasetResponse(ApiMessage):
    """One message of ExtractDataset. The stream reports progress and ends with the feature set."""

    PROTO: ClassVar[type[Message]] = features_pb2.ExtractDatasetResponse

    progress: Progress | None = None
    """Cases done so far; the unit is `case`."""
    feature_set: FeatureSet | None = None
    """The committed feature set; the last message."""
    cost: Cost | None = None
    """Cost of the call; set with the feature set."""
    computed_cases: int = 0
    """With the feature set: cases computed by this call; 0 if everything was already stored."""
    recomputed_parts: int = 0
    """With the feature set: committed parts that were lost or damaged, and computed again."""


class CreateStudyUploadRequest(ApiMessage):
    """Request of CreateStudyUpload."""

    PROTO: ClassVar[type[Message]] = features_pb2.CreateStudyUploadRequest

    file: FileContent
    """A zip of the DICOM files of one study, stored or deflated. The service limits its size
    (VFMALIGN_FEATURES__DICOM_STUDY_BYTES).
    """


class CreateStudyUploadResponse(ApiMessage):
    """Response of CreateStudyUpload."""

    PROTO: ClassVar[type[Message]] = features_pb2.CreateStudyUploadResponse

    upload: FileUpload
    """Destination of the upload."""
    object: ObjectRef
    """Reference to the uploaded file, for `DicomStudy`."""
    expire_time: Time
    """When the URL expires. An upload that has begun continues."""


class DeleteDatasetRequest(ApiMessage):
    """Request of DeleteDataset."""

    PROTO: ClassVar[type[Message]] = features_pb2.DeleteDatasetRequest

    dataset_id: Id
    """Dataset id."""
    dry_run: bool = False
    """Delete nothing; return what the call would delete."""


class DeleteDatasetResponse(ApiMessage):
    """Response of DeleteDataset."""

    PROTO: ClassVar[type[Message]] = features_pb2.DeleteDatasetResponse

    deletion: Deletion = Deletion()
    """The deleted objects. After an interrupted deletion, those that were left."""


class DeleteModelRequest(ApiMessage):
    """Request of DeleteModel."""

    PROTO: ClassVar[type[Message]] = features_pb2.DeleteModelRequest

    model_id: Id
    """Model id."""
    dry_run: bool = False
    """Delete nothing; return what the call would delete."""


class DeleteModelResponse(ApiMessage):
    """Response of DeleteModel."""

    PROTO: ClassVar[type[Message]] = features_pb2.DeleteModelResponse

    deletion: Deletion = Deletion()
    """The deleted objects. After an interrupted deletion, those that were left."""


class DeleteFeatureSetRequest(ApiMessage):
    """Request of DeleteFeatureSet."""

    PROTO: ClassVar[type[Message]] = features_pb2.DeleteFeatureSetRequest

    feature_set_id: Id
    """Feature set id, or the id of a stored study."""
    dry_run: bool = False
    """Delete nothing; return what the call would delete."""


class DeleteFeatureSetResponse(ApiMessage):
    """Response of DeleteFeatureSet."""

    PROTO: ClassVar[type[Message]] = features_pb2.DeleteFeatureSetResponse

    deletion: Deletion = Deletion()
    """The deleted objects. After an interrupted deletion, those that were left."""
