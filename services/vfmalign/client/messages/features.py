"""Messages of `FeatureService`; fields and units are documented in `features.proto`.

`Extract` has no records here: its volumes and feature maps are too large for a detour through JSON.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from google.protobuf.message import Message
from pydantic import Field, ValidationError

from vfmalign.client.messages.base import ApiMessage, to_bad_option
from vfmalign.client.messages.common import Cost, ObjectRef, Progress
from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.declarations import DatasetDeclaration
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.models import QUANTILES, Objective, PreprocessingSpec
from vfmalign.core.domain.record import Id, OptionalSha256
from vfmalign.v1 import features_pb2

Initialisation = Literal["checkpoint", "random"]
Pooling = Literal["mean", "none"]


class Layer(ApiMessage):
    """A layer and its number of channels."""

    PROTO: ClassVar[type[Message]] = features_pb2.Layer

    name: str
    channels: int


class Preprocessing(ApiMessage):
    """The input that an encoder expects.

    Attributes:
        modalities: ids in channel order.
        spacing_mm: along D, H, W; empty keeps the reference's own.
        shape_dhw: size along D, H, W after centre crop and zero padding, in voxels.
        normalisation: of the intensities, such as `zscore_nonzero`.
        quantiles: of `quantile_range`; empty for other normalisations.
        reference: modality that defines the grid.
    """

    PROTO: ClassVar[type[Message]] = features_pb2.Preprocessing

    modalities: tuple[str, ...]
    spacing_mm: tuple[float, ...] = ()
    shape_dhw: tuple[int, ...]
    normalisation: str
    quantiles: tuple[float, ...] = ()
    reference: str = ""

    @classmethod
    def from_spec(cls, spec: PreprocessingSpec) -> Self:
        """Converts the input of a model to publish, of which defaults stay empty."""
        return cls(
            modalities=spec.modalities,
            spacing_mm=spec.spacing_mm or (),
            shape_dhw=spec.shape_DHW,
            normalisation=spec.normalisation,
            quantiles=() if spec.quantiles == QUANTILES else spec.quantiles,
            reference=spec.reference_modality,
        )

    def to_spec(self, field: str) -> PreprocessingSpec:
        """Converts to the input of a model; the inverse of `from_spec`.

        Raises:
            BadOption: a value is wrong; the error names it as a part of `field`.
        """
        content = {
            "modalities": self.modalities,
            "spacing_mm": self.spacing_mm or None,
            "shape_DHW": self.shape_dhw,
            "normalisation": self.normalisation,
            "quantiles": self.quantiles or QUANTILES,
            "reference_modality": self.reference,
        }
        try:
            return PreprocessingSpec.model_validate(content)
        except ValidationError as error:
            names = {"shape_DHW": "shape_dhw", "reference_modality": "reference"}
            raise to_bad_option(error, field, names) from None


class Pretraining(ApiMessage):
    """A dataset that a model was pretrained on, with the number of its volumes and patients."""

    PROTO: ClassVar[type[Message]] = features_pb2.Pretraining

    dataset_id: str
    dataset_digest: str
    volume_count: int = 0
    group_count: int = 0


class Model(ApiMessage):
    """A model card.

    Attributes:
        layers: layers whose features can be extracted.
        primary_layer: the layer declared in advance for a check's main number.
        pretraining: datasets seen in pretraining; empty where unknown, so that leakage cannot be excluded.
        parent_model_id: the model this one was fine-tuned from; empty for a pretrained one.
        source: origin and licence of the weights.
    """

    PROTO: ClassVar[type[Message]] = features_pb2.Model

    model_id: str
    architecture: str
    objective: Objective
    checkpoint: ObjectRef
    preprocessing: Preprocessing
    layers: tuple[Layer, ...] = ()
    primary_layer: str
    pretraining: tuple[Pretraining, ...] = ()
    parent_model_id: str = ""
    source: str = ""


class UnreadableObject(ApiMessage):
    """A stored object that a list cannot describe; `message` gives the reason and the remedy."""

    PROTO: ClassVar[type[Message]] = features_pb2.UnreadableObject

    id: str
    message: str


class ListModelsResponse(ApiMessage):
    """One page of models.

    Attributes:
        models: in order of id.
        next_page_token: empty on the last page.
        architectures: names of the architectures that the server can build.
        unreadable: models of this page whose card cannot be read.
    """

    PROTO: ClassVar[type[Message]] = features_pb2.ListModelsResponse

    models: tuple[Model, ...] = ()
    next_page_token: str = ""
    architectures: tuple[str, ...] = ()
    unreadable: tuple[UnreadableObject, ...] = ()


class SplitSize(ApiMessage):
    """Number of cases and of patients in one split."""

    PROTO: ClassVar[type[Message]] = features_pb2.SplitSize

    split: Split
    cases: int
    patients: int


class ClassCount(ApiMessage):
    """Number of cases that belong to a class, and of those that do not; of the others it is unknown.

    Attributes:
        test_positive: test patients with a case that belongs to it.
        test_negative: test patients with known cases, none of which belongs to it.
    """

    PROTO: ClassVar[type[Message]] = features_pb2.ClassCount

    name: str
    positive: int = 0
    negative: int = 0
    test_positive: int = 0
    test_negative: int = 0


class NumberRange(ApiMessage):
    """A number of the cases: how many cases have it, and its lowest and highest value."""

    PROTO: ClassVar[type[Message]] = features_pb2.NumberRange

    name: str
    cases: int
    minimum: float
    maximum: float


class StratumCount(ApiMessage):
    """Number of cases that were acquired in one way, such as on one scanner."""

    PROTO: ClassVar[type[Message]] = features_pb2.StratumCount

    name: str
    value: str
    cases: int


class Dataset(ApiMessage):
    """What a dataset holds, without its cases.

    Attributes:
        splits: size of every split that has cases.
        modalities, label_maps: ids of those that every case has.
        held_out: False where cases stand in several splits on purpose.
        phantom: True where the cases are generated.
        declaration: modalities, label maps and classes that the dataset declares.
        classes: counts of the classes that cases state, without those that derive from a label map.
        numbers: numbers of the cases, in order of id.
        strata: counts of the strata's values, in order of id and value.
        cases_without: number of cases without a label map, for those that some cases lack.
    """

    PROTO: ClassVar[type[Message]] = features_pb2.Dataset

    dataset_id: str
    dataset_digest: str
    splits: tuple[SplitSize, ...] = ()
    modalities: tuple[str, ...] = ()
    label_maps: tuple[str, ...] = ()
    held_out: bool = True
    phantom: bool = False
    declaration: DatasetDeclaration
    classes: tuple[ClassCount, ...] = ()
    numbers: tuple[NumberRange, ...] = ()
    strata: tuple[StratumCount, ...] = ()
    cases_without: dict[str, int] = Field(default_factory=dict)


class ListDatasetsResponse(ApiMessage):
    """One page of datasets.

    Attributes:
        datasets: in order of id.
        next_page_token: empty on the last page.
        unreadable: datasets of this page whose description cannot be read.
    """

    PROTO: ClassVar[type[Message]] = features_pb2.ListDatasetsResponse

    datasets: tuple[Dataset, ...] = ()
    next_page_token: str = ""
    unreadable: tuple[UnreadableObject, ...] = ()


class ExtractDatasetRequest(ApiMessage):
    """A feature set to extract.

    Attributes:
        model_id: a published model.
        checkpoint_sha256: digest its weights must have; empty accepts the stored ones.
        dataset_id: a stored dataset.
        dataset_digest: digest it must have; empty accepts the stored one.
        split: its cases become the rows, in the dataset's order.
        layers: empty means every layer of the model's card.
        pooling: feature sets hold `mean`; the service refuses `none`.
        input_transform: a task's deterministic input transform; empty means `identity`.
        initialisation: `random` takes the model's architecture with random weights from `initialisation_seed`.
        initialisation_seed: ignored with `checkpoint`.
        verify: reads every part of a stored set, which finds changed bytes.
        modality_map: inputs of the model by the modality of the dataset that feeds them.
        allow_cut_organs: whether a mask that normalises the input may lie outside the field of view.
    """

    PROTO: ClassVar[type[Message]] = features_pb2.ExtractDatasetRequest

    model_id: Id
    checkpoint_sha256: OptionalSha256 = ""
    dataset_id: Id
    dataset_digest: OptionalSha256 = ""
    split: Split
    layers: tuple[str, ...] = ()
    pooling: Pooling = "mean"
    input_transform: str = ""
    initialisation: Initialisation = "checkpoint"
    initialisation_seed: int = Field(default=0, ge=0, lt=2**63)
    verify: bool = False
    modality_map: ModalityMap = Field(default_factory=dict)
    allow_cut_organs: bool = False


class FeatureSet(ApiMessage):
    """A stored feature set.

    Attributes:
        feature_set_id: 32 hex digits, a digest of everything that determines the features.
        manifest: the object whose write committed the set.
        rows: one per case.
        groups: number of patients.
        checkpoint_sha256: of the weights; of architecture and seed where the weights are random.
    """

    PROTO: ClassVar[type[Message]] = features_pb2.FeatureSet

    feature_set_id: str
    manifest: ObjectRef
    rows: int
    groups: int
    layers: tuple[Layer, ...]
    checkpoint_sha256: str
    dataset_digest: str


class ExtractDatasetResponse(ApiMessage):
    """One message of ExtractDataset: progress any number of times, then the feature set once.

    Attributes:
        progress: absent in the last message.
        feature_set: the committed set; in the last message alone.
        cost: with the feature set.
        computed_cases: with the feature set: cases that this call computed; 0 where the set was stored already.
        recomputed_parts: with the feature set: parts that had been committed and were lost or damaged since.
    """

    PROTO: ClassVar[type[Message]] = features_pb2.ExtractDatasetResponse

    progress: Progress | None = None
    feature_set: FeatureSet | None = None
    cost: Cost | None = None
    computed_cases: int = 0
    recomputed_parts: int = 0
