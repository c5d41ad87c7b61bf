"""Records of `features.proto`, by `make proto`; do not edit."""

from __future__ import annotations

from typing import ClassVar, Literal

from google.protobuf.message import Message
from pydantic import Field

from vfmalign.client.messages.base import ApiMessage, Time
from vfmalign.client.messages.generated.common import Cost, FileContent, FileUpload, ObjectRef, ObservedStudy, Progress
from vfmalign.core.domain.datasets import Split, TakenSeries
from vfmalign.core.domain.declarations import DatasetDeclaration, VolumeKind
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.models import Layer, Objective, Preprocessing
from vfmalign.core.domain.record import Id, OptionalSha256, Uid
from vfmalign.v1 import features_pb2

__all__ = [
    "Pretraining",
    "Model",
    "UnreadableObject",
    "ListModelsResponse",
    "SplitSize",
    "ClassCount",
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
    "ExtractDatasetResponse",
    "CreateStudyUploadRequest",
    "CreateStudyUploadResponse",
    "Pooling",
    "ObservationDelivery",
    "Initialisation",
]
Pooling = Literal["mean", "none"]
"""How a feature map becomes a feature vector."""
ObservationDelivery = Literal["recorded", "queued", "dropped"]
"""What became of an observation by the end of Extract."""
Initialisation = Literal["checkpoint", "random"]
"""Which weights a feature set is extracted with."""


class Pretraining(ApiMessage):
    """A set a model was pretrained on."""

    PROTO: ClassVar[type[Message]] = features_pb2.Pretraining

    dataset_id: str
    """Dataset id."""
    dataset_digest: str
    """SHA-256 of the dataset's description, hex."""
    volume_count: int = 0
    """Number of volumes whose digests the card lists."""
    group_count: int = 0
    """Number of patients whose group ids the card lists."""


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
    """The layer declared in advance for a check's main number."""
    pretraining: tuple[Pretraining, ...] = ()
    """Sets seen in pretraining; empty where unknown, then leakage cannot be excluded."""
    parent_model_id: str = ""
    """Id of the model this one was fine-tuned from; empty for a pretrained one."""
    source: str = ""
    """Where the weights come from and under which licence."""
    has_dicom_rules: bool = False
    """Whether the card has rules by which Extract reads the model's inputs from DICOM."""


class UnreadableObject(ApiMessage):
    """A stored object that a list cannot describe."""

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
    """Names of the architectures this server can build."""
    unreadable: tuple[UnreadableObject, ...] = ()
    """Models of this page whose card cannot be read."""


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
    """How many cases of a dataset belong to a class. Of the other cases it is unknown."""

    PROTO: ClassVar[type[Message]] = features_pb2.ClassCount

    name: str
    """Id of the class."""
    positive: int = 0
    """Cases that belong to it."""
    negative: int = 0
    """Cases that do not."""
    test_positive: int = 0
    """Test patients with a case that belongs to it."""
    test_negative: int = 0
    """Test patients with known cases, none of which belongs to it."""


class NumberRange(ApiMessage):
    """A number that cases have, such as an age in years."""

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
    """How many cases were acquired in one way."""

    PROTO: ClassVar[type[Message]] = features_pb2.StratumCount

    name: str
    """Id of the stratum, such as `scanner`, `field_strength` or `site`."""
    value: str
    """Its value: 1 to 64 printable characters. A stratum has at most 64 values."""
    cases: int
    """Cases with this value."""


class Dataset(ApiMessage):
    """Description of a dataset: what it holds, without its cases. A case that stands in several splits counts once."""

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
    """False where cases stand in several splits on purpose, so that nothing is held out."""
    phantom: bool = False
    """True where the cases are generated: results are a rehearsal, not evidence."""
    declaration: DatasetDeclaration
    """Modalities, label maps and classes that the dataset declares."""
    classes: tuple[ClassCount, ...] = ()
    """Counts of the classes that cases state, in the declared order; without those that derive from a label map."""
    numbers: tuple[NumberRange, ...] = ()
    """Numbers that cases have, in order of id; at most 64."""
    strata: tuple[StratumCount, ...] = ()
    """Values of the strata, in order of id and value; at most 16 strata."""
    cases_without: dict[str, int] = Field(default_factory=dict)
    """Number of cases without a label map, by name, 1 to the number of cases; label maps that every case has are left
    out.
    """
    has_dicom_rules: bool = False
    """Whether the dataset has the rules by which its volumes were chosen among DICOM series, which Extract can follow.
    """


class ListDatasetsResponse(ApiMessage):
    """Response of ListDatasets."""

    PROTO: ClassVar[type[Message]] = features_pb2.ListDatasetsResponse

    datasets: tuple[Dataset, ...] = ()
    """Datasets in order of id."""
    next_page_token: str = ""
    """Token of the next page; empty on the last."""
    unreadable: tuple[UnreadableObject, ...] = ()
    """Datasets of this page whose description cannot be read."""


class PacsReference(ApiMessage):
    """A study, or some of its series, at a PACS (DICOMweb)."""

    PROTO: ClassVar[type[Message]] = features_pb2.PacsReference

    server: VolumeKind
    """Name by which the service's operator has configured the PACS (VFMALIGN_DICOMWEB__NAME__URL), in lower case."""
    study_uid: Uid
    """StudyInstanceUID. It appears in no log and no error."""
    series_uids: tuple[Uid, ...] = ()
    """SeriesInstanceUID of each series to read; empty, the default, reads all of the study."""


class StudyObservation(ApiMessage):
    """A study whose features a drift monitor observes."""

    PROTO: ClassVar[type[Message]] = features_pb2.StudyObservation

    monitor_id: Id
    """Id of the monitor, whose layers are among those of the request."""
    study: ObservedStudy
    """The study."""


class DeliveredObservation(ApiMessage):
    """What became of an observation. It never fails the extraction."""

    PROTO: ClassVar[type[Message]] = features_pb2.DeliveredObservation

    delivery: ObservationDelivery
    """What became of it."""
    reason: str = ""
    """UPPER_SNAKE_CASE constant where it was dropped, such as `OUTBOX_FULL`, `NO_MONITORING` or the reason of the
    monitor's refusal; where it was queued, why it could not be recorded, such as `UNAVAILABLE`; else empty.
    """
    detail: str = ""
    """The same in a sentence, with what to do about it."""


class ExtractedStudy(ApiMessage):
    """Response of Extract."""

    PROTO: ClassVar[type[Message]] = features_pb2.ExtractResponse
    OMITTED: ClassVar[frozenset[str]] = frozenset(("layers",))

    checkpoint_sha256: str = ""
    """Digest of the weights that were used, hex."""
    cost: Cost
    """What it cost."""
    preprocessing_sha256: str = ""
    """Digest of the preprocessing, hex, without the names of the modalities: for FeatureOrigin of Observe."""
    observation: DeliveredObservation | None = None
    """What became of the observation; absent where the request names none."""
    series: tuple[TakenSeries, ...] = ()
    """The series that each modality of the model was read from, where the study was sent as DICOM."""


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
    """Layers, in any order: the set holds the primary layer first. Empty means every layer of the card."""
    pooling: Pooling = "mean"
    """Pooling; only the mean is offered for feature sets."""
    input_transform: str = ""
    """Deterministic input transform of a task, as in ExtractRequest; empty means `identity`."""
    initialisation: Initialisation = "checkpoint"
    """Weights."""
    initialisation_seed: int = Field(default=0, ge=0, le=9223372036854775807)
    """Seed of random weights; ignored with the checkpoint."""
    verify: bool = False
    """Reads and verifies every part of a stored set, which finds changed bytes. Without it, parts are checked for
    presence and size.
    """
    modality_map: ModalityMap = Field(default_factory=dict)
    """Which modality of the dataset feeds which input of the model, such as `t1w` to `input`; inputs that are not named
    take the modality of the same name. No input occurs twice.
    """
    allow_cut_organs: bool = False
    """Use cases of which less than half of the gland mask, by which some models normalise, lies in the model's field of
    view; false by default, which refuses them. It does not change the features of other cases, nor the id of the set.
    """


class FeatureSet(ApiMessage):
    """A stored feature set."""

    PROTO: ClassVar[type[Message]] = features_pb2.FeatureSet

    feature_set_id: str
    """Id: 32 hex digits, a digest of everything that determines the features."""
    manifest: ObjectRef
    """Its manifest; writing it committed the set."""
    rows: int
    """Rows, one per case."""
    groups: int
    """Patients."""
    layers: tuple[Layer, ...]
    """Layers with their channels, the primary layer first."""
    checkpoint_sha256: str
    """Digest of the weights, hex; of the random weights' architecture and seed where re-initialised."""
    dataset_digest: str
    """Digest of the dataset, hex."""


class ExtractDatasetResponse(ApiMessage):
    """One message of ExtractDataset: progress any number of times, then the feature set once."""

    PROTO: ClassVar[type[Message]] = features_pb2.ExtractDatasetResponse

    progress: Progress | None = None
    """Cases done so far; the unit is `case`."""
    feature_set: FeatureSet | None = None
    """The committed feature set; the last message."""
    cost: Cost | None = None
    """What it cost; set with the feature set."""
    computed_cases: int = 0
    """With the feature set: cases computed by this call; 0 where everything was already stored."""
    recomputed_parts: int = 0
    """With the feature set: parts that had been committed before, were lost or damaged since, and were computed again.
    """


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
    """Where the file is uploaded."""
    object: ObjectRef
    """What DicomStudy refers to once the file is uploaded."""
    expire_time: Time
    """When the URL expires. An upload that has begun goes on."""
