import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from vfmalign.v1 import bounds_pb2 as _bounds_pb2
from vfmalign.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Pairing(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAIRING_UNSPECIFIED: _ClassVar[Pairing]
    PAIRING_PAIRED: _ClassVar[Pairing]
    PAIRING_INDEPENDENT: _ClassVar[Pairing]

class Estimator(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ESTIMATOR_UNSPECIFIED: _ClassVar[Estimator]
    ESTIMATOR_BIASED: _ClassVar[Estimator]
    ESTIMATOR_UNBIASED_PAIRED: _ClassVar[Estimator]
    ESTIMATOR_UNBIASED_INDEPENDENT: _ClassVar[Estimator]
    ESTIMATOR_RANDOM_FOURIER: _ClassVar[Estimator]

class KernelFamily(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KERNEL_FAMILY_UNSPECIFIED: _ClassVar[KernelFamily]
    KERNEL_FAMILY_GAUSSIAN: _ClassVar[KernelFamily]
    KERNEL_FAMILY_GAUSSIAN_MIXTURE: _ClassVar[KernelFamily]
    KERNEL_FAMILY_LAPLACIAN: _ClassVar[KernelFamily]
    KERNEL_FAMILY_RATIONAL_QUADRATIC: _ClassVar[KernelFamily]
    KERNEL_FAMILY_INVERSE_MULTIQUADRIC: _ClassVar[KernelFamily]
    KERNEL_FAMILY_POLYNOMIAL: _ClassVar[KernelFamily]
    KERNEL_FAMILY_LINEAR: _ClassVar[KernelFamily]

class BandwidthRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BANDWIDTH_RULE_UNSPECIFIED: _ClassVar[BandwidthRule]
    BANDWIDTH_RULE_FIXED: _ClassVar[BandwidthRule]
    BANDWIDTH_RULE_REFERENCE_MEDIAN: _ClassVar[BandwidthRule]
    BANDWIDTH_RULE_POOLED_MEDIAN: _ClassVar[BandwidthRule]

class TestMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TEST_METHOD_UNSPECIFIED: _ClassVar[TestMethod]
    TEST_METHOD_PERMUTATION: _ClassVar[TestMethod]
    TEST_METHOD_WILD_BOOTSTRAP: _ClassVar[TestMethod]

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_UNSPECIFIED: _ClassVar[Precision]
    PRECISION_FAST: _ClassVar[Precision]
    PRECISION_HIGH: _ClassVar[Precision]
    PRECISION_EXACT: _ClassVar[Precision]

class Measure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEASURE_UNSPECIFIED: _ClassVar[Measure]
    MEASURE_CKA: _ClassVar[Measure]
    MEASURE_FRECHET: _ClassVar[Measure]
    MEASURE_ENERGY: _ClassVar[Measure]
PAIRING_UNSPECIFIED: Pairing
PAIRING_PAIRED: Pairing
PAIRING_INDEPENDENT: Pairing
ESTIMATOR_UNSPECIFIED: Estimator
ESTIMATOR_BIASED: Estimator
ESTIMATOR_UNBIASED_PAIRED: Estimator
ESTIMATOR_UNBIASED_INDEPENDENT: Estimator
ESTIMATOR_RANDOM_FOURIER: Estimator
KERNEL_FAMILY_UNSPECIFIED: KernelFamily
KERNEL_FAMILY_GAUSSIAN: KernelFamily
KERNEL_FAMILY_GAUSSIAN_MIXTURE: KernelFamily
KERNEL_FAMILY_LAPLACIAN: KernelFamily
KERNEL_FAMILY_RATIONAL_QUADRATIC: KernelFamily
KERNEL_FAMILY_INVERSE_MULTIQUADRIC: KernelFamily
KERNEL_FAMILY_POLYNOMIAL: KernelFamily
KERNEL_FAMILY_LINEAR: KernelFamily
BANDWIDTH_RULE_UNSPECIFIED: BandwidthRule
BANDWIDTH_RULE_FIXED: BandwidthRule
BANDWIDTH_RULE_REFERENCE_MEDIAN: BandwidthRule
BANDWIDTH_RULE_POOLED_MEDIAN: BandwidthRule
TEST_METHOD_UNSPECIFIED: TestMethod
TEST_METHOD_PERMUTATION: TestMethod
TEST_METHOD_WILD_BOOTSTRAP: TestMethod
PRECISION_UNSPECIFIED: Precision
PRECISION_FAST: Precision
PRECISION_HIGH: Precision
PRECISION_EXACT: Precision
MEASURE_UNSPECIFIED: Measure
MEASURE_CKA: Measure
MEASURE_FRECHET: Measure
MEASURE_ENERGY: Measure

class InlineLayer(_message.Message):
    __slots__ = ("layer", "features")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    layer: str
    features: _common_pb2.Tensor
    def __init__(self, layer: _Optional[str] = ..., features: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ...) -> None: ...

class InlineFeatures(_message.Message):
    __slots__ = ("layers", "groups", "case_ids")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    CASE_IDS_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[InlineLayer]
    groups: _containers.RepeatedScalarFieldContainer[str]
    case_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, layers: _Optional[_Iterable[_Union[InlineLayer, _Mapping]]] = ..., groups: _Optional[_Iterable[str]] = ..., case_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class UploadedFeatures(_message.Message):
    __slots__ = ("object", "groups", "case_ids")
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    CASE_IDS_FIELD_NUMBER: _ClassVar[int]
    object: _common_pb2.ObjectRef
    groups: _containers.RepeatedScalarFieldContainer[str]
    case_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, object: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., groups: _Optional[_Iterable[str]] = ..., case_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class FeatureSource(_message.Message):
    __slots__ = ("feature_set_id", "inline", "uploaded", "manifest_sha256")
    FEATURE_SET_ID_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    UPLOADED_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    feature_set_id: str
    inline: InlineFeatures
    uploaded: UploadedFeatures
    manifest_sha256: str
    def __init__(self, feature_set_id: _Optional[str] = ..., inline: _Optional[_Union[InlineFeatures, _Mapping]] = ..., uploaded: _Optional[_Union[UploadedFeatures, _Mapping]] = ..., manifest_sha256: _Optional[str] = ...) -> None: ...

class Kernel(_message.Message):
    __slots__ = ("family", "bandwidth_rule", "fixed_sigma")
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_RULE_FIELD_NUMBER: _ClassVar[int]
    FIXED_SIGMA_FIELD_NUMBER: _ClassVar[int]
    family: KernelFamily
    bandwidth_rule: BandwidthRule
    fixed_sigma: float
    def __init__(self, family: _Optional[_Union[KernelFamily, str]] = ..., bandwidth_rule: _Optional[_Union[BandwidthRule, str]] = ..., fixed_sigma: _Optional[float] = ...) -> None: ...

class TestOptions(_message.Message):
    __slots__ = ("permutations", "seed", "method", "aggregated")
    PERMUTATIONS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    AGGREGATED_FIELD_NUMBER: _ClassVar[int]
    permutations: int
    seed: int
    method: TestMethod
    aggregated: bool
    def __init__(self, permutations: _Optional[int] = ..., seed: _Optional[int] = ..., method: _Optional[_Union[TestMethod, str]] = ..., aggregated: _Optional[bool] = ...) -> None: ...

class ComputeRequest(_message.Message):
    __slots__ = ("x", "y", "reference", "pairing", "estimator", "kernel", "layers", "primary_layer", "test", "interval_level", "projection", "precision", "frequencies", "measures", "first_groups")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    PAIRING_FIELD_NUMBER: _ClassVar[int]
    ESTIMATOR_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_LAYER_FIELD_NUMBER: _ClassVar[int]
    TEST_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_LEVEL_FIELD_NUMBER: _ClassVar[int]
    PROJECTION_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    FREQUENCIES_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    FIRST_GROUPS_FIELD_NUMBER: _ClassVar[int]
    x: FeatureSource
    y: FeatureSource
    reference: FeatureSource
    pairing: Pairing
    estimator: Estimator
    kernel: Kernel
    layers: _containers.RepeatedScalarFieldContainer[str]
    primary_layer: str
    test: TestOptions
    interval_level: float
    projection: bool
    precision: Precision
    frequencies: int
    measures: _containers.RepeatedScalarFieldContainer[Measure]
    first_groups: int
    def __init__(self, x: _Optional[_Union[FeatureSource, _Mapping]] = ..., y: _Optional[_Union[FeatureSource, _Mapping]] = ..., reference: _Optional[_Union[FeatureSource, _Mapping]] = ..., pairing: _Optional[_Union[Pairing, str]] = ..., estimator: _Optional[_Union[Estimator, str]] = ..., kernel: _Optional[_Union[Kernel, _Mapping]] = ..., layers: _Optional[_Iterable[str]] = ..., primary_layer: _Optional[str] = ..., test: _Optional[_Union[TestOptions, _Mapping]] = ..., interval_level: _Optional[float] = ..., projection: _Optional[bool] = ..., precision: _Optional[_Union[Precision, str]] = ..., frequencies: _Optional[int] = ..., measures: _Optional[_Iterable[_Union[Measure, str]]] = ..., first_groups: _Optional[int] = ...) -> None: ...

class MeasureResult(_message.Message):
    __slots__ = ("measure", "value", "dimension")
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    measure: Measure
    value: _common_pb2.Estimate
    dimension: int
    def __init__(self, measure: _Optional[_Union[Measure, str]] = ..., value: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., dimension: _Optional[int] = ...) -> None: ...

class ShiftResult(_message.Message):
    __slots__ = ("mmd2", "sigma", "p_value", "p_value_max_t", "permutations", "enumerated", "error_bound", "below_error_bound", "aggregated_p_value", "approximation_error", "precision")
    MMD2_FIELD_NUMBER: _ClassVar[int]
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_MAX_T_FIELD_NUMBER: _ClassVar[int]
    PERMUTATIONS_FIELD_NUMBER: _ClassVar[int]
    ENUMERATED_FIELD_NUMBER: _ClassVar[int]
    ERROR_BOUND_FIELD_NUMBER: _ClassVar[int]
    BELOW_ERROR_BOUND_FIELD_NUMBER: _ClassVar[int]
    AGGREGATED_P_VALUE_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    mmd2: _common_pb2.Estimate
    sigma: float
    p_value: _common_pb2.Estimate
    p_value_max_t: _common_pb2.Estimate
    permutations: int
    enumerated: bool
    error_bound: float
    below_error_bound: bool
    aggregated_p_value: _common_pb2.Estimate
    approximation_error: float
    precision: str
    def __init__(self, mmd2: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., sigma: _Optional[float] = ..., p_value: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., p_value_max_t: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., permutations: _Optional[int] = ..., enumerated: _Optional[bool] = ..., error_bound: _Optional[float] = ..., below_error_bound: _Optional[bool] = ..., aggregated_p_value: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., approximation_error: _Optional[float] = ..., precision: _Optional[str] = ...) -> None: ...

class TopChannels(_message.Message):
    __slots__ = ("count", "displacement_share", "shift_without", "caution")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DISPLACEMENT_SHARE_FIELD_NUMBER: _ClassVar[int]
    SHIFT_WITHOUT_FIELD_NUMBER: _ClassVar[int]
    CAUTION_FIELD_NUMBER: _ClassVar[int]
    count: int
    displacement_share: _common_pb2.Estimate
    shift_without: ShiftResult
    caution: str
    def __init__(self, count: _Optional[int] = ..., displacement_share: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., shift_without: _Optional[_Union[ShiftResult, _Mapping]] = ..., caution: _Optional[str] = ...) -> None: ...

class ExcludedMovement(_message.Message):
    __slots__ = ("count", "displacement", "caution")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DISPLACEMENT_FIELD_NUMBER: _ClassVar[int]
    CAUTION_FIELD_NUMBER: _ClassVar[int]
    count: int
    displacement: _common_pb2.Estimate
    caution: str
    def __init__(self, count: _Optional[int] = ..., displacement: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., caution: _Optional[str] = ...) -> None: ...

class LayerResult(_message.Message):
    __slots__ = ("layer", "channels", "channels_excluded", "raw", "standardised", "measures", "channels_at_floor", "top_channels", "excluded_movement")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    STANDARDISED_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_AT_FLOOR_FIELD_NUMBER: _ClassVar[int]
    TOP_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_MOVEMENT_FIELD_NUMBER: _ClassVar[int]
    layer: str
    channels: int
    channels_excluded: int
    raw: ShiftResult
    standardised: ShiftResult
    measures: _containers.RepeatedCompositeFieldContainer[MeasureResult]
    channels_at_floor: int
    top_channels: TopChannels
    excluded_movement: ExcludedMovement
    def __init__(self, layer: _Optional[str] = ..., channels: _Optional[int] = ..., channels_excluded: _Optional[int] = ..., raw: _Optional[_Union[ShiftResult, _Mapping]] = ..., standardised: _Optional[_Union[ShiftResult, _Mapping]] = ..., measures: _Optional[_Iterable[_Union[MeasureResult, _Mapping]]] = ..., channels_at_floor: _Optional[int] = ..., top_channels: _Optional[_Union[TopChannels, _Mapping]] = ..., excluded_movement: _Optional[_Union[ExcludedMovement, _Mapping]] = ...) -> None: ...

class ProjectionPoint(_message.Message):
    __slots__ = ("u", "v")
    U_FIELD_NUMBER: _ClassVar[int]
    V_FIELD_NUMBER: _ClassVar[int]
    u: float
    v: float
    def __init__(self, u: _Optional[float] = ..., v: _Optional[float] = ...) -> None: ...

class Projection(_message.Message):
    __slots__ = ("x", "y", "explained_variance")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    EXPLAINED_VARIANCE_FIELD_NUMBER: _ClassVar[int]
    x: _containers.RepeatedCompositeFieldContainer[ProjectionPoint]
    y: _containers.RepeatedCompositeFieldContainer[ProjectionPoint]
    explained_variance: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, x: _Optional[_Iterable[_Union[ProjectionPoint, _Mapping]]] = ..., y: _Optional[_Iterable[_Union[ProjectionPoint, _Mapping]]] = ..., explained_variance: _Optional[_Iterable[float]] = ...) -> None: ...

class ComputeResponse(_message.Message):
    __slots__ = ("layers", "primary_layer", "estimator", "rows_x", "rows_y", "groups", "precision", "projection", "cost", "backend", "backend_note", "reference_caution")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_LAYER_FIELD_NUMBER: _ClassVar[int]
    ESTIMATOR_FIELD_NUMBER: _ClassVar[int]
    ROWS_X_FIELD_NUMBER: _ClassVar[int]
    ROWS_Y_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PROJECTION_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    BACKEND_NOTE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_CAUTION_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[LayerResult]
    primary_layer: str
    estimator: Estimator
    rows_x: int
    rows_y: int
    groups: int
    precision: str
    projection: Projection
    cost: _common_pb2.Cost
    backend: str
    backend_note: str
    reference_caution: str
    def __init__(self, layers: _Optional[_Iterable[_Union[LayerResult, _Mapping]]] = ..., primary_layer: _Optional[str] = ..., estimator: _Optional[_Union[Estimator, str]] = ..., rows_x: _Optional[int] = ..., rows_y: _Optional[int] = ..., groups: _Optional[int] = ..., precision: _Optional[str] = ..., projection: _Optional[_Union[Projection, _Mapping]] = ..., cost: _Optional[_Union[_common_pb2.Cost, _Mapping]] = ..., backend: _Optional[str] = ..., backend_note: _Optional[str] = ..., reference_caution: _Optional[str] = ...) -> None: ...

class ComputeBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ComputeRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ComputeRequest, _Mapping]]] = ...) -> None: ...

class PairError(_message.Message):
    __slots__ = ("code", "reason", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ComputeBatchResponse(_message.Message):
    __slots__ = ("index", "response", "error")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    index: int
    response: ComputeResponse
    error: PairError
    def __init__(self, index: _Optional[int] = ..., response: _Optional[_Union[ComputeResponse, _Mapping]] = ..., error: _Optional[_Union[PairError, _Mapping]] = ...) -> None: ...

class CreateUploadRequest(_message.Message):
    __slots__ = ("file",)
    FILE_FIELD_NUMBER: _ClassVar[int]
    file: _common_pb2.FileContent
    def __init__(self, file: _Optional[_Union[_common_pb2.FileContent, _Mapping]] = ...) -> None: ...

class CreateUploadResponse(_message.Message):
    __slots__ = ("upload", "object", "expire_time")
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    upload: _common_pb2.FileUpload
    object: _common_pb2.ObjectRef
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, upload: _Optional[_Union[_common_pb2.FileUpload, _Mapping]] = ..., object: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
