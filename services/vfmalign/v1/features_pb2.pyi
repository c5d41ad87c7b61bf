import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from vfmalign.v1 import bounds_pb2 as _bounds_pb2
from vfmalign.v1 import common_pb2 as _common_pb2
from vfmalign.v1 import erasure_pb2 as _erasure_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Objective(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OBJECTIVE_UNSPECIFIED: _ClassVar[Objective]
    OBJECTIVE_MASKED_RECONSTRUCTION: _ClassVar[Objective]
    OBJECTIVE_CONTRASTIVE: _ClassVar[Objective]
    OBJECTIVE_SUPERVISED: _ClassVar[Objective]
    OBJECTIVE_RANDOM: _ClassVar[Objective]
    OBJECTIVE_UNKNOWN: _ClassVar[Objective]

class Pooling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POOLING_UNSPECIFIED: _ClassVar[Pooling]
    POOLING_MEAN: _ClassVar[Pooling]
    POOLING_NONE: _ClassVar[Pooling]

class ObservationDelivery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OBSERVATION_DELIVERY_UNSPECIFIED: _ClassVar[ObservationDelivery]
    OBSERVATION_DELIVERY_QUEUED: _ClassVar[ObservationDelivery]
    OBSERVATION_DELIVERY_DROPPED: _ClassVar[ObservationDelivery]

class Initialisation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INITIALISATION_UNSPECIFIED: _ClassVar[Initialisation]
    INITIALISATION_CHECKPOINT: _ClassVar[Initialisation]
    INITIALISATION_RANDOM: _ClassVar[Initialisation]
OBJECTIVE_UNSPECIFIED: Objective
OBJECTIVE_MASKED_RECONSTRUCTION: Objective
OBJECTIVE_CONTRASTIVE: Objective
OBJECTIVE_SUPERVISED: Objective
OBJECTIVE_RANDOM: Objective
OBJECTIVE_UNKNOWN: Objective
POOLING_UNSPECIFIED: Pooling
POOLING_MEAN: Pooling
POOLING_NONE: Pooling
OBSERVATION_DELIVERY_UNSPECIFIED: ObservationDelivery
OBSERVATION_DELIVERY_QUEUED: ObservationDelivery
OBSERVATION_DELIVERY_DROPPED: ObservationDelivery
INITIALISATION_UNSPECIFIED: Initialisation
INITIALISATION_CHECKPOINT: Initialisation
INITIALISATION_RANDOM: Initialisation

class Layer(_message.Message):
    __slots__ = ("name", "channels")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    channels: int
    def __init__(self, name: _Optional[str] = ..., channels: _Optional[int] = ...) -> None: ...

class TensorCounts(_message.Message):
    __slots__ = ("loaded", "dropped", "initialised")
    LOADED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    INITIALISED_FIELD_NUMBER: _ClassVar[int]
    loaded: int
    dropped: int
    initialised: int
    def __init__(self, loaded: _Optional[int] = ..., dropped: _Optional[int] = ..., initialised: _Optional[int] = ...) -> None: ...

class Preprocessing(_message.Message):
    __slots__ = ("modalities", "spacing_mm", "shape_dhw", "normalisation", "quantiles", "reference", "window", "patch_shape_dhw")
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    SPACING_MM_FIELD_NUMBER: _ClassVar[int]
    SHAPE_DHW_FIELD_NUMBER: _ClassVar[int]
    NORMALISATION_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    PATCH_SHAPE_DHW_FIELD_NUMBER: _ClassVar[int]
    modalities: _containers.RepeatedScalarFieldContainer[str]
    spacing_mm: _containers.RepeatedScalarFieldContainer[float]
    shape_dhw: _containers.RepeatedScalarFieldContainer[int]
    normalisation: str
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    reference: str
    window: _containers.RepeatedScalarFieldContainer[float]
    patch_shape_dhw: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, modalities: _Optional[_Iterable[str]] = ..., spacing_mm: _Optional[_Iterable[float]] = ..., shape_dhw: _Optional[_Iterable[int]] = ..., normalisation: _Optional[str] = ..., quantiles: _Optional[_Iterable[float]] = ..., reference: _Optional[str] = ..., window: _Optional[_Iterable[float]] = ..., patch_shape_dhw: _Optional[_Iterable[int]] = ...) -> None: ...

class Pretraining(_message.Message):
    __slots__ = ("dataset_id", "dataset_digest", "volume_count", "group_count")
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VOLUME_COUNT_FIELD_NUMBER: _ClassVar[int]
    GROUP_COUNT_FIELD_NUMBER: _ClassVar[int]
    dataset_id: str
    dataset_digest: str
    volume_count: int
    group_count: int
    def __init__(self, dataset_id: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., volume_count: _Optional[int] = ..., group_count: _Optional[int] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("model_id", "architecture", "objective", "checkpoint", "preprocessing", "layers", "primary_layer", "pretraining", "parent_model_id", "source", "has_dicom_rules", "create_time", "created_by", "parent_sha256", "licence", "tensors")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_LAYER_FIELD_NUMBER: _ClassVar[int]
    PRETRAINING_FIELD_NUMBER: _ClassVar[int]
    PARENT_MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    HAS_DICOM_RULES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    PARENT_SHA256_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    architecture: str
    objective: Objective
    checkpoint: _common_pb2.ObjectRef
    preprocessing: Preprocessing
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    primary_layer: str
    pretraining: _containers.RepeatedCompositeFieldContainer[Pretraining]
    parent_model_id: str
    source: str
    has_dicom_rules: bool
    create_time: _timestamp_pb2.Timestamp
    created_by: str
    parent_sha256: str
    licence: str
    tensors: TensorCounts
    def __init__(self, model_id: _Optional[str] = ..., architecture: _Optional[str] = ..., objective: _Optional[_Union[Objective, str]] = ..., checkpoint: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., preprocessing: _Optional[_Union[Preprocessing, _Mapping]] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., primary_layer: _Optional[str] = ..., pretraining: _Optional[_Iterable[_Union[Pretraining, _Mapping]]] = ..., parent_model_id: _Optional[str] = ..., source: _Optional[str] = ..., has_dicom_rules: _Optional[bool] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_by: _Optional[str] = ..., parent_sha256: _Optional[str] = ..., licence: _Optional[str] = ..., tensors: _Optional[_Union[TensorCounts, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token", "architectures", "unreadable")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURES_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    architectures: _containers.RepeatedScalarFieldContainer[str]
    unreadable: _containers.RepeatedCompositeFieldContainer[UnreadableObject]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., architectures: _Optional[_Iterable[str]] = ..., unreadable: _Optional[_Iterable[_Union[UnreadableObject, _Mapping]]] = ...) -> None: ...

class UnreadableObject(_message.Message):
    __slots__ = ("id", "message")
    ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    message: str
    def __init__(self, id: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model_id",)
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    def __init__(self, model_id: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class SplitSize(_message.Message):
    __slots__ = ("split", "cases", "patients")
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    CASES_FIELD_NUMBER: _ClassVar[int]
    PATIENTS_FIELD_NUMBER: _ClassVar[int]
    split: _common_pb2.Split
    cases: int
    patients: int
    def __init__(self, split: _Optional[_Union[_common_pb2.Split, str]] = ..., cases: _Optional[int] = ..., patients: _Optional[int] = ...) -> None: ...

class ClassCount(_message.Message):
    __slots__ = ("name", "positive", "negative", "test_positive", "test_negative")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POSITIVE_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_FIELD_NUMBER: _ClassVar[int]
    TEST_POSITIVE_FIELD_NUMBER: _ClassVar[int]
    TEST_NEGATIVE_FIELD_NUMBER: _ClassVar[int]
    name: str
    positive: int
    negative: int
    test_positive: int
    test_negative: int
    def __init__(self, name: _Optional[str] = ..., positive: _Optional[int] = ..., negative: _Optional[int] = ..., test_positive: _Optional[int] = ..., test_negative: _Optional[int] = ...) -> None: ...

class GradeCount(_message.Message):
    __slots__ = ("name", "grade", "cases", "test_patients")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GRADE_FIELD_NUMBER: _ClassVar[int]
    CASES_FIELD_NUMBER: _ClassVar[int]
    TEST_PATIENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    grade: int
    cases: int
    test_patients: int
    def __init__(self, name: _Optional[str] = ..., grade: _Optional[int] = ..., cases: _Optional[int] = ..., test_patients: _Optional[int] = ...) -> None: ...

class NumberRange(_message.Message):
    __slots__ = ("name", "cases", "minimum", "maximum")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CASES_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    name: str
    cases: int
    minimum: float
    maximum: float
    def __init__(self, name: _Optional[str] = ..., cases: _Optional[int] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ...) -> None: ...

class StratumCount(_message.Message):
    __slots__ = ("name", "value", "cases")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CASES_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    cases: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., cases: _Optional[int] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("dataset_id", "dataset_digest", "splits", "modalities", "label_maps", "held_out", "phantom", "declaration", "classes", "numbers", "strata", "cases_without", "has_dicom_rules", "create_time", "created_by", "grades")
    class CasesWithoutEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    LABEL_MAPS_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    PHANTOM_FIELD_NUMBER: _ClassVar[int]
    DECLARATION_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    STRATA_FIELD_NUMBER: _ClassVar[int]
    CASES_WITHOUT_FIELD_NUMBER: _ClassVar[int]
    HAS_DICOM_RULES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    GRADES_FIELD_NUMBER: _ClassVar[int]
    dataset_id: str
    dataset_digest: str
    splits: _containers.RepeatedCompositeFieldContainer[SplitSize]
    modalities: _containers.RepeatedScalarFieldContainer[str]
    label_maps: _containers.RepeatedScalarFieldContainer[str]
    held_out: bool
    phantom: bool
    declaration: _common_pb2.DatasetDeclaration
    classes: _containers.RepeatedCompositeFieldContainer[ClassCount]
    numbers: _containers.RepeatedCompositeFieldContainer[NumberRange]
    strata: _containers.RepeatedCompositeFieldContainer[StratumCount]
    cases_without: _containers.ScalarMap[str, int]
    has_dicom_rules: bool
    create_time: _timestamp_pb2.Timestamp
    created_by: str
    grades: _containers.RepeatedCompositeFieldContainer[GradeCount]
    def __init__(self, dataset_id: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., splits: _Optional[_Iterable[_Union[SplitSize, _Mapping]]] = ..., modalities: _Optional[_Iterable[str]] = ..., label_maps: _Optional[_Iterable[str]] = ..., held_out: _Optional[bool] = ..., phantom: _Optional[bool] = ..., declaration: _Optional[_Union[_common_pb2.DatasetDeclaration, _Mapping]] = ..., classes: _Optional[_Iterable[_Union[ClassCount, _Mapping]]] = ..., numbers: _Optional[_Iterable[_Union[NumberRange, _Mapping]]] = ..., strata: _Optional[_Iterable[_Union[StratumCount, _Mapping]]] = ..., cases_without: _Optional[_Mapping[str, int]] = ..., has_dicom_rules: _Optional[bool] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_by: _Optional[str] = ..., grades: _Optional[_Iterable[_Union[GradeCount, _Mapping]]] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets", "next_page_token", "unreadable")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    next_page_token: str
    unreadable: _containers.RepeatedCompositeFieldContainer[UnreadableObject]
    def __init__(self, datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., unreadable: _Optional[_Iterable[_Union[UnreadableObject, _Mapping]]] = ...) -> None: ...

class GetDatasetRequest(_message.Message):
    __slots__ = ("dataset_id",)
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    dataset_id: str
    def __init__(self, dataset_id: _Optional[str] = ...) -> None: ...

class GetDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class StudyVolume(_message.Message):
    __slots__ = ("modality", "nifti", "stored", "unit")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    NIFTI_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    modality: str
    nifti: bytes
    stored: _common_pb2.ObjectRef
    unit: str
    def __init__(self, modality: _Optional[str] = ..., nifti: _Optional[bytes] = ..., stored: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., unit: _Optional[str] = ...) -> None: ...

class GlandMask(_message.Message):
    __slots__ = ("nifti", "stored")
    NIFTI_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    nifti: bytes
    stored: _common_pb2.ObjectRef
    def __init__(self, nifti: _Optional[bytes] = ..., stored: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ...) -> None: ...

class InlineInstances(_message.Message):
    __slots__ = ("instances",)
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    instances: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, instances: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PacsReference(_message.Message):
    __slots__ = ("server", "study_uid", "series_uids")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    STUDY_UID_FIELD_NUMBER: _ClassVar[int]
    SERIES_UIDS_FIELD_NUMBER: _ClassVar[int]
    server: str
    study_uid: str
    series_uids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, server: _Optional[str] = ..., study_uid: _Optional[str] = ..., series_uids: _Optional[_Iterable[str]] = ...) -> None: ...

class DicomStudy(_message.Message):
    __slots__ = ("instances", "uploaded", "reference", "rules_dataset_id")
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    UPLOADED_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    RULES_DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    instances: InlineInstances
    uploaded: _common_pb2.ObjectRef
    reference: PacsReference
    rules_dataset_id: str
    def __init__(self, instances: _Optional[_Union[InlineInstances, _Mapping]] = ..., uploaded: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., reference: _Optional[_Union[PacsReference, _Mapping]] = ..., rules_dataset_id: _Optional[str] = ...) -> None: ...

class Study(_message.Message):
    __slots__ = ("volumes", "gland_mask", "dicom")
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    GLAND_MASK_FIELD_NUMBER: _ClassVar[int]
    DICOM_FIELD_NUMBER: _ClassVar[int]
    volumes: _containers.RepeatedCompositeFieldContainer[StudyVolume]
    gland_mask: GlandMask
    dicom: DicomStudy
    def __init__(self, volumes: _Optional[_Iterable[_Union[StudyVolume, _Mapping]]] = ..., gland_mask: _Optional[_Union[GlandMask, _Mapping]] = ..., dicom: _Optional[_Union[DicomStudy, _Mapping]] = ...) -> None: ...

class ExtractRequest(_message.Message):
    __slots__ = ("model_id", "checkpoint_sha256", "study", "layers", "pooling", "input_transform", "store_as", "observation", "store_group")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SHA256_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    INPUT_TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    STORE_AS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    STORE_GROUP_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    checkpoint_sha256: str
    study: Study
    layers: _containers.RepeatedScalarFieldContainer[str]
    pooling: Pooling
    input_transform: str
    store_as: str
    observation: StudyObservation
    store_group: str
    def __init__(self, model_id: _Optional[str] = ..., checkpoint_sha256: _Optional[str] = ..., study: _Optional[_Union[Study, _Mapping]] = ..., layers: _Optional[_Iterable[str]] = ..., pooling: _Optional[_Union[Pooling, str]] = ..., input_transform: _Optional[str] = ..., store_as: _Optional[str] = ..., observation: _Optional[_Union[StudyObservation, _Mapping]] = ..., store_group: _Optional[str] = ...) -> None: ...

class StudyObservation(_message.Message):
    __slots__ = ("monitor_id", "study")
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    study: _common_pb2.ObservedStudy
    def __init__(self, monitor_id: _Optional[str] = ..., study: _Optional[_Union[_common_pb2.ObservedStudy, _Mapping]] = ...) -> None: ...

class DeliveredObservation(_message.Message):
    __slots__ = ("delivery", "reason", "detail")
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    delivery: ObservationDelivery
    reason: str
    detail: str
    def __init__(self, delivery: _Optional[_Union[ObservationDelivery, str]] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class LayerFeatures(_message.Message):
    __slots__ = ("layer", "tensor", "stored")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    layer: str
    tensor: _common_pb2.Tensor
    stored: _common_pb2.ObjectRef
    def __init__(self, layer: _Optional[str] = ..., tensor: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., stored: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ...) -> None: ...

class TakenSeries(_message.Message):
    __slots__ = ("modality", "number", "b_value", "calculated", "echo_time_ms", "orientation", "spacing_mm")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    B_VALUE_FIELD_NUMBER: _ClassVar[int]
    CALCULATED_FIELD_NUMBER: _ClassVar[int]
    ECHO_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    ORIENTATION_FIELD_NUMBER: _ClassVar[int]
    SPACING_MM_FIELD_NUMBER: _ClassVar[int]
    modality: str
    number: int
    b_value: float
    calculated: bool
    echo_time_ms: float
    orientation: str
    spacing_mm: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, modality: _Optional[str] = ..., number: _Optional[int] = ..., b_value: _Optional[float] = ..., calculated: _Optional[bool] = ..., echo_time_ms: _Optional[float] = ..., orientation: _Optional[str] = ..., spacing_mm: _Optional[_Iterable[float]] = ...) -> None: ...

class ExtractResponse(_message.Message):
    __slots__ = ("layers", "checkpoint_sha256", "cost", "preprocessing_sha256", "observation", "series")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SHA256_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_SHA256_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[LayerFeatures]
    checkpoint_sha256: str
    cost: _common_pb2.Cost
    preprocessing_sha256: str
    observation: DeliveredObservation
    series: _containers.RepeatedCompositeFieldContainer[TakenSeries]
    def __init__(self, layers: _Optional[_Iterable[_Union[LayerFeatures, _Mapping]]] = ..., checkpoint_sha256: _Optional[str] = ..., cost: _Optional[_Union[_common_pb2.Cost, _Mapping]] = ..., preprocessing_sha256: _Optional[str] = ..., observation: _Optional[_Union[DeliveredObservation, _Mapping]] = ..., series: _Optional[_Iterable[_Union[TakenSeries, _Mapping]]] = ...) -> None: ...

class ExtractDatasetRequest(_message.Message):
    __slots__ = ("model_id", "checkpoint_sha256", "dataset_id", "dataset_digest", "split", "layers", "pooling", "input_transform", "initialisation", "initialisation_seed", "verify", "modality_map", "allow_cut_organs", "created_by")
    class ModalityMapEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SHA256_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    INPUT_TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    INITIALISATION_FIELD_NUMBER: _ClassVar[int]
    INITIALISATION_SEED_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    MODALITY_MAP_FIELD_NUMBER: _ClassVar[int]
    ALLOW_CUT_ORGANS_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    checkpoint_sha256: str
    dataset_id: str
    dataset_digest: str
    split: _common_pb2.Split
    layers: _containers.RepeatedScalarFieldContainer[str]
    pooling: Pooling
    input_transform: str
    initialisation: Initialisation
    initialisation_seed: int
    verify: bool
    modality_map: _containers.ScalarMap[str, str]
    allow_cut_organs: bool
    created_by: str
    def __init__(self, model_id: _Optional[str] = ..., checkpoint_sha256: _Optional[str] = ..., dataset_id: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., split: _Optional[_Union[_common_pb2.Split, str]] = ..., layers: _Optional[_Iterable[str]] = ..., pooling: _Optional[_Union[Pooling, str]] = ..., input_transform: _Optional[str] = ..., initialisation: _Optional[_Union[Initialisation, str]] = ..., initialisation_seed: _Optional[int] = ..., verify: _Optional[bool] = ..., modality_map: _Optional[_Mapping[str, str]] = ..., allow_cut_organs: _Optional[bool] = ..., created_by: _Optional[str] = ...) -> None: ...

class FeatureSet(_message.Message):
    __slots__ = ("feature_set_id", "manifest", "rows", "groups", "layers", "checkpoint_sha256", "dataset_digest", "model_id", "dataset_id", "split", "initialisation", "initialisation_seed", "input_transform", "create_time", "created_by")
    FEATURE_SET_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SHA256_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    INITIALISATION_FIELD_NUMBER: _ClassVar[int]
    INITIALISATION_SEED_FIELD_NUMBER: _ClassVar[int]
    INPUT_TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    feature_set_id: str
    manifest: _common_pb2.ObjectRef
    rows: int
    groups: int
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    checkpoint_sha256: str
    dataset_digest: str
    model_id: str
    dataset_id: str
    split: _common_pb2.Split
    initialisation: Initialisation
    initialisation_seed: int
    input_transform: str
    create_time: _timestamp_pb2.Timestamp
    created_by: str
    def __init__(self, feature_set_id: _Optional[str] = ..., manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., rows: _Optional[int] = ..., groups: _Optional[int] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., checkpoint_sha256: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., model_id: _Optional[str] = ..., dataset_id: _Optional[str] = ..., split: _Optional[_Union[_common_pb2.Split, str]] = ..., initialisation: _Optional[_Union[Initialisation, str]] = ..., initialisation_seed: _Optional[int] = ..., input_transform: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_by: _Optional[str] = ...) -> None: ...

class ListFeatureSetsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "model_id", "dataset_id", "created_after", "created_before")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    model_id: str
    dataset_id: str
    created_after: _timestamp_pb2.Timestamp
    created_before: _timestamp_pb2.Timestamp
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., model_id: _Optional[str] = ..., dataset_id: _Optional[str] = ..., created_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListFeatureSetsResponse(_message.Message):
    __slots__ = ("feature_sets", "next_page_token", "unreadable")
    FEATURE_SETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    feature_sets: _containers.RepeatedCompositeFieldContainer[FeatureSet]
    next_page_token: str
    unreadable: _containers.RepeatedCompositeFieldContainer[UnreadableObject]
    def __init__(self, feature_sets: _Optional[_Iterable[_Union[FeatureSet, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., unreadable: _Optional[_Iterable[_Union[UnreadableObject, _Mapping]]] = ...) -> None: ...

class GetFeatureSetRequest(_message.Message):
    __slots__ = ("feature_set_id",)
    FEATURE_SET_ID_FIELD_NUMBER: _ClassVar[int]
    feature_set_id: str
    def __init__(self, feature_set_id: _Optional[str] = ...) -> None: ...

class GetFeatureSetResponse(_message.Message):
    __slots__ = ("feature_set",)
    FEATURE_SET_FIELD_NUMBER: _ClassVar[int]
    feature_set: FeatureSet
    def __init__(self, feature_set: _Optional[_Union[FeatureSet, _Mapping]] = ...) -> None: ...

class ExtractDatasetResponse(_message.Message):
    __slots__ = ("progress", "feature_set", "cost", "computed_cases", "recomputed_parts")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SET_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_CASES_FIELD_NUMBER: _ClassVar[int]
    RECOMPUTED_PARTS_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    feature_set: FeatureSet
    cost: _common_pb2.Cost
    computed_cases: int
    recomputed_parts: int
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., feature_set: _Optional[_Union[FeatureSet, _Mapping]] = ..., cost: _Optional[_Union[_common_pb2.Cost, _Mapping]] = ..., computed_cases: _Optional[int] = ..., recomputed_parts: _Optional[int] = ...) -> None: ...

class CreateStudyUploadRequest(_message.Message):
    __slots__ = ("file",)
    FILE_FIELD_NUMBER: _ClassVar[int]
    file: _common_pb2.FileContent
    def __init__(self, file: _Optional[_Union[_common_pb2.FileContent, _Mapping]] = ...) -> None: ...

class CreateStudyUploadResponse(_message.Message):
    __slots__ = ("upload", "object", "expire_time")
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    upload: _common_pb2.FileUpload
    object: _common_pb2.ObjectRef
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, upload: _Optional[_Union[_common_pb2.FileUpload, _Mapping]] = ..., object: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DeleteDatasetRequest(_message.Message):
    __slots__ = ("dataset_id", "dry_run")
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    dataset_id: str
    dry_run: bool
    def __init__(self, dataset_id: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class DeleteDatasetResponse(_message.Message):
    __slots__ = ("deletion",)
    DELETION_FIELD_NUMBER: _ClassVar[int]
    deletion: _common_pb2.Deletion
    def __init__(self, deletion: _Optional[_Union[_common_pb2.Deletion, _Mapping]] = ...) -> None: ...

class DeleteModelRequest(_message.Message):
    __slots__ = ("model_id", "dry_run")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    dry_run: bool
    def __init__(self, model_id: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class DeleteModelResponse(_message.Message):
    __slots__ = ("deletion",)
    DELETION_FIELD_NUMBER: _ClassVar[int]
    deletion: _common_pb2.Deletion
    def __init__(self, deletion: _Optional[_Union[_common_pb2.Deletion, _Mapping]] = ...) -> None: ...

class DeleteFeatureSetRequest(_message.Message):
    __slots__ = ("feature_set_id", "dry_run")
    FEATURE_SET_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    feature_set_id: str
    dry_run: bool
    def __init__(self, feature_set_id: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class DeleteFeatureSetResponse(_message.Message):
    __slots__ = ("deletion",)
    DELETION_FIELD_NUMBER: _ClassVar[int]
    deletion: _common_pb2.Deletion
    def __init__(self, deletion: _Optional[_Union[_common_pb2.Deletion, _Mapping]] = ...) -> None: ...
