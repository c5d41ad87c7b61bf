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

class ModelPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_POLICY_UNSPECIFIED: _ClassVar[ModelPolicy]
    MODEL_POLICY_KEEP: _ClassVar[ModelPolicy]
    MODEL_POLICY_DELETE: _ClassVar[ModelPolicy]

class ErasureOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERASURE_OUTCOME_UNSPECIFIED: _ClassVar[ErasureOutcome]
    ERASURE_OUTCOME_REMOVED: _ClassVar[ErasureOutcome]
    ERASURE_OUTCOME_CHANGED: _ClassVar[ErasureOutcome]
    ERASURE_OUTCOME_KEPT: _ClassVar[ErasureOutcome]
MODEL_POLICY_UNSPECIFIED: ModelPolicy
MODEL_POLICY_KEEP: ModelPolicy
MODEL_POLICY_DELETE: ModelPolicy
ERASURE_OUTCOME_UNSPECIFIED: ErasureOutcome
ERASURE_OUTCOME_REMOVED: ErasureOutcome
ERASURE_OUTCOME_CHANGED: ErasureOutcome
ERASURE_OUTCOME_KEPT: ErasureOutcome

class PatientDigest(_message.Message):
    __slots__ = ("key", "hmac", "identifiers")
    KEY_FIELD_NUMBER: _ClassVar[int]
    HMAC_FIELD_NUMBER: _ClassVar[int]
    IDENTIFIERS_FIELD_NUMBER: _ClassVar[int]
    key: str
    hmac: str
    identifiers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, key: _Optional[str] = ..., hmac: _Optional[str] = ..., identifiers: _Optional[_Iterable[str]] = ...) -> None: ...

class ErasedDataset(_message.Message):
    __slots__ = ("dataset_id", "dataset_digest")
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    dataset_id: str
    dataset_digest: str
    def __init__(self, dataset_id: _Optional[str] = ..., dataset_digest: _Optional[str] = ...) -> None: ...

class ErasedObject(_message.Message):
    __slots__ = ("kind", "id", "outcome", "count", "size_bytes", "note")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    outcome: ErasureOutcome
    count: int
    size_bytes: int
    note: str
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ..., outcome: _Optional[_Union[ErasureOutcome, str]] = ..., count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class Erasure(_message.Message):
    __slots__ = ("erasure_id", "service", "patient", "models", "requested_by", "create_time", "complete_time", "datasets", "objects")
    ERASURE_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    PATIENT_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_TIME_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    erasure_id: str
    service: str
    patient: PatientDigest
    models: ModelPolicy
    requested_by: str
    create_time: _timestamp_pb2.Timestamp
    complete_time: _timestamp_pb2.Timestamp
    datasets: _containers.RepeatedCompositeFieldContainer[ErasedDataset]
    objects: _containers.RepeatedCompositeFieldContainer[ErasedObject]
    def __init__(self, erasure_id: _Optional[str] = ..., service: _Optional[str] = ..., patient: _Optional[_Union[PatientDigest, _Mapping]] = ..., models: _Optional[_Union[ModelPolicy, str]] = ..., requested_by: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., complete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., datasets: _Optional[_Iterable[_Union[ErasedDataset, _Mapping]]] = ..., objects: _Optional[_Iterable[_Union[ErasedObject, _Mapping]]] = ...) -> None: ...

class ErasePatientRequest(_message.Message):
    __slots__ = ("erasure_id", "group", "patient", "models", "datasets", "observation_ids", "dry_run")
    ERASURE_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PATIENT_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_IDS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    erasure_id: str
    group: str
    patient: PatientDigest
    models: ModelPolicy
    datasets: _containers.RepeatedCompositeFieldContainer[ErasedDataset]
    observation_ids: _containers.RepeatedScalarFieldContainer[str]
    dry_run: bool
    def __init__(self, erasure_id: _Optional[str] = ..., group: _Optional[str] = ..., patient: _Optional[_Union[PatientDigest, _Mapping]] = ..., models: _Optional[_Union[ModelPolicy, str]] = ..., datasets: _Optional[_Iterable[_Union[ErasedDataset, _Mapping]]] = ..., observation_ids: _Optional[_Iterable[str]] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class ErasePatientResponse(_message.Message):
    __slots__ = ("erasure",)
    ERASURE_FIELD_NUMBER: _ClassVar[int]
    erasure: Erasure
    def __init__(self, erasure: _Optional[_Union[Erasure, _Mapping]] = ...) -> None: ...

class GetErasureRequest(_message.Message):
    __slots__ = ("erasure_id",)
    ERASURE_ID_FIELD_NUMBER: _ClassVar[int]
    erasure_id: str
    def __init__(self, erasure_id: _Optional[str] = ...) -> None: ...

class GetErasureResponse(_message.Message):
    __slots__ = ("erasure",)
    ERASURE_FIELD_NUMBER: _ClassVar[int]
    erasure: Erasure
    def __init__(self, erasure: _Optional[_Union[Erasure, _Mapping]] = ...) -> None: ...
