import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from vfmalign.v1 import bounds_pb2 as _bounds_pb2
from vfmalign.v1 import common_pb2 as _common_pb2
from vfmalign.v1 import features_pb2 as _features_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateDatasetUploadsRequest(_message.Message):
    __slots__ = ("import_id", "files")
    IMPORT_ID_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    import_id: str
    files: _containers.RepeatedCompositeFieldContainer[_common_pb2.FileContent]
    def __init__(self, import_id: _Optional[str] = ..., files: _Optional[_Iterable[_Union[_common_pb2.FileContent, _Mapping]]] = ...) -> None: ...

class CreateDatasetUploadsResponse(_message.Message):
    __slots__ = ("uploads", "expire_time")
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    uploads: _containers.RepeatedCompositeFieldContainer[_common_pb2.FileUpload]
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, uploads: _Optional[_Iterable[_Union[_common_pb2.FileUpload, _Mapping]]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PublishDatasetRequest(_message.Message):
    __slots__ = ("import_id", "dataset_id", "datalist_sha256")
    IMPORT_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    DATALIST_SHA256_FIELD_NUMBER: _ClassVar[int]
    import_id: str
    dataset_id: str
    datalist_sha256: str
    def __init__(self, import_id: _Optional[str] = ..., dataset_id: _Optional[str] = ..., datalist_sha256: _Optional[str] = ...) -> None: ...

class PublishDatasetResponse(_message.Message):
    __slots__ = ("progress", "dataset")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    dataset: _features_pb2.Dataset
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., dataset: _Optional[_Union[_features_pb2.Dataset, _Mapping]] = ...) -> None: ...

class CreateModelUploadsRequest(_message.Message):
    __slots__ = ("import_id", "weights")
    IMPORT_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    import_id: str
    weights: _common_pb2.FileContent
    def __init__(self, import_id: _Optional[str] = ..., weights: _Optional[_Union[_common_pb2.FileContent, _Mapping]] = ...) -> None: ...

class CreateModelUploadsResponse(_message.Message):
    __slots__ = ("upload", "expire_time")
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    upload: _common_pb2.FileUpload
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, upload: _Optional[_Union[_common_pb2.FileUpload, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PublishModelRequest(_message.Message):
    __slots__ = ("import_id", "model_id", "weights_sha256", "architecture", "objective", "preprocessing", "primary_layer", "source", "declaration", "licence", "tensors")
    IMPORT_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_LAYER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DECLARATION_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    import_id: str
    model_id: str
    weights_sha256: str
    architecture: str
    objective: _features_pb2.Objective
    preprocessing: _features_pb2.Preprocessing
    primary_layer: str
    source: str
    declaration: str
    licence: str
    tensors: _features_pb2.TensorCounts
    def __init__(self, import_id: _Optional[str] = ..., model_id: _Optional[str] = ..., weights_sha256: _Optional[str] = ..., architecture: _Optional[str] = ..., objective: _Optional[_Union[_features_pb2.Objective, str]] = ..., preprocessing: _Optional[_Union[_features_pb2.Preprocessing, _Mapping]] = ..., primary_layer: _Optional[str] = ..., source: _Optional[str] = ..., declaration: _Optional[str] = ..., licence: _Optional[str] = ..., tensors: _Optional[_Union[_features_pb2.TensorCounts, _Mapping]] = ...) -> None: ...

class PublishModelResponse(_message.Message):
    __slots__ = ("progress", "model")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    progress: _common_pb2.Progress
    model: _features_pb2.Model
    def __init__(self, progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., model: _Optional[_Union[_features_pb2.Model, _Mapping]] = ...) -> None: ...
