import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from vfmalign.v1 import bounds_pb2 as _bounds_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]

class Split(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPLIT_UNSPECIFIED: _ClassVar[Split]
    SPLIT_PRETRAIN: _ClassVar[Split]
    SPLIT_TRAIN: _ClassVar[Split]
    SPLIT_VAL: _ClassVar[Split]
    SPLIT_TEST: _ClassVar[Split]

class ReportFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPORT_FORMAT_UNSPECIFIED: _ClassVar[ReportFormat]
    REPORT_FORMAT_HTML: _ClassVar[ReportFormat]
    REPORT_FORMAT_JSON: _ClassVar[ReportFormat]
    REPORT_FORMAT_CSV: _ClassVar[ReportFormat]
    REPORT_FORMAT_DSSE: _ClassVar[ReportFormat]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT64: DataType
SPLIT_UNSPECIFIED: Split
SPLIT_PRETRAIN: Split
SPLIT_TRAIN: Split
SPLIT_VAL: Split
SPLIT_TEST: Split
REPORT_FORMAT_UNSPECIFIED: ReportFormat
REPORT_FORMAT_HTML: ReportFormat
REPORT_FORMAT_JSON: ReportFormat
REPORT_FORMAT_CSV: ReportFormat
REPORT_FORMAT_DSSE: ReportFormat

class Tensor(_message.Message):
    __slots__ = ("data_type", "shape", "data")
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    data_type: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, data_type: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ObjectRef(_message.Message):
    __slots__ = ("uri", "sha256", "size_bytes")
    URI_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    uri: str
    sha256: str
    size_bytes: int
    def __init__(self, uri: _Optional[str] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Deletion(_message.Message):
    __slots__ = ("objects", "size_bytes")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    objects: int
    size_bytes: int
    def __init__(self, objects: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class LabelMap(_message.Message):
    __slots__ = ("name", "values", "may_be_empty", "weight", "within")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MAY_BE_EMPTY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    WITHIN_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.ScalarMap[int, str]
    may_be_empty: bool
    weight: float
    within: str
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Mapping[int, str]] = ..., may_be_empty: _Optional[bool] = ..., weight: _Optional[float] = ..., within: _Optional[str] = ...) -> None: ...

class CaseClass(_message.Message):
    __slots__ = ("name", "label", "at_least")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    at_least: int
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., at_least: _Optional[int] = ...) -> None: ...

class CaseGrade(_message.Message):
    __slots__ = ("name", "at_least")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    name: str
    at_least: int
    def __init__(self, name: _Optional[str] = ..., at_least: _Optional[int] = ...) -> None: ...

class CaseNumber(_message.Message):
    __slots__ = ("name", "unit", "smallest_difference")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    unit: str
    smallest_difference: float
    def __init__(self, name: _Optional[str] = ..., unit: _Optional[str] = ..., smallest_difference: _Optional[float] = ...) -> None: ...

class TaskParameters(_message.Message):
    __slots__ = ("labels", "structures", "class_name", "inputs", "target", "modalities", "grade", "at_least", "number")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STRUCTURES_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    GRADE_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedScalarFieldContainer[str]
    structures: _containers.RepeatedScalarFieldContainer[str]
    class_name: str
    inputs: _containers.RepeatedScalarFieldContainer[str]
    target: str
    modalities: _containers.RepeatedScalarFieldContainer[str]
    grade: str
    at_least: int
    number: str
    def __init__(self, labels: _Optional[_Iterable[str]] = ..., structures: _Optional[_Iterable[str]] = ..., class_name: _Optional[str] = ..., inputs: _Optional[_Iterable[str]] = ..., target: _Optional[str] = ..., modalities: _Optional[_Iterable[str]] = ..., grade: _Optional[str] = ..., at_least: _Optional[int] = ..., number: _Optional[str] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("name", "parameters")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    parameters: TaskParameters
    def __init__(self, name: _Optional[str] = ..., parameters: _Optional[_Union[TaskParameters, _Mapping]] = ...) -> None: ...

class DatasetDeclaration(_message.Message):
    __slots__ = ("name", "modalities", "labels", "classes", "defaults", "units", "grades", "numbers")
    class DefaultsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: TaskParameters
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[TaskParameters, _Mapping]] = ...) -> None: ...
    class UnitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    GRADES_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    modalities: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.RepeatedCompositeFieldContainer[LabelMap]
    classes: _containers.RepeatedCompositeFieldContainer[CaseClass]
    defaults: _containers.MessageMap[str, TaskParameters]
    units: _containers.ScalarMap[str, str]
    grades: _containers.RepeatedCompositeFieldContainer[CaseGrade]
    numbers: _containers.RepeatedCompositeFieldContainer[CaseNumber]
    def __init__(self, name: _Optional[str] = ..., modalities: _Optional[_Iterable[str]] = ..., labels: _Optional[_Iterable[_Union[LabelMap, _Mapping]]] = ..., classes: _Optional[_Iterable[_Union[CaseClass, _Mapping]]] = ..., defaults: _Optional[_Mapping[str, TaskParameters]] = ..., units: _Optional[_Mapping[str, str]] = ..., grades: _Optional[_Iterable[_Union[CaseGrade, _Mapping]]] = ..., numbers: _Optional[_Iterable[_Union[CaseNumber, _Mapping]]] = ...) -> None: ...

class StageTiming(_message.Message):
    __slots__ = ("stage", "seconds")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    seconds: float
    def __init__(self, stage: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("stages", "device", "peak_device_memory_bytes")
    STAGES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PEAK_DEVICE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    stages: _containers.RepeatedCompositeFieldContainer[StageTiming]
    device: str
    peak_device_memory_bytes: int
    def __init__(self, stages: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., device: _Optional[str] = ..., peak_device_memory_bytes: _Optional[int] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("lower", "upper", "level", "method", "degenerate")
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    DEGENERATE_FIELD_NUMBER: _ClassVar[int]
    lower: float
    upper: float
    level: float
    method: str
    degenerate: bool
    def __init__(self, lower: _Optional[float] = ..., upper: _Optional[float] = ..., level: _Optional[float] = ..., method: _Optional[str] = ..., degenerate: _Optional[bool] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("value", "interval", "absent_reason")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    ABSENT_REASON_FIELD_NUMBER: _ClassVar[int]
    value: float
    interval: Interval
    absent_reason: str
    def __init__(self, value: _Optional[float] = ..., interval: _Optional[_Union[Interval, _Mapping]] = ..., absent_reason: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("phase", "done", "total", "unit", "elapsed_seconds", "detail", "reason")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    phase: str
    done: int
    total: int
    unit: str
    elapsed_seconds: float
    detail: str
    reason: str
    def __init__(self, phase: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., unit: _Optional[str] = ..., elapsed_seconds: _Optional[float] = ..., detail: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class SoftwareVersion(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class FileContent(_message.Message):
    __slots__ = ("sha256", "size_bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class FileUpload(_message.Message):
    __slots__ = ("sha256", "url", "headers", "complete")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SHA256_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    url: str
    headers: _containers.ScalarMap[str, str]
    complete: bool
    def __init__(self, sha256: _Optional[str] = ..., url: _Optional[str] = ..., headers: _Optional[_Mapping[str, str]] = ..., complete: _Optional[bool] = ...) -> None: ...

class ObservedStudy(_message.Message):
    __slots__ = ("observation_id", "group", "strata", "acquire_time")
    class StrataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    OBSERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    STRATA_FIELD_NUMBER: _ClassVar[int]
    ACQUIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    observation_id: str
    group: str
    strata: _containers.ScalarMap[str, str]
    acquire_time: _timestamp_pb2.Timestamp
    def __init__(self, observation_id: _Optional[str] = ..., group: _Optional[str] = ..., strata: _Optional[_Mapping[str, str]] = ..., acquire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
