from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Format(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FORMAT_UNSPECIFIED: _ClassVar[Format]
    FORMAT_ID: _ClassVar[Format]
    FORMAT_SHA256: _ClassVar[Format]
    FORMAT_VOLUME_KIND: _ClassVar[Format]
    FORMAT_UID: _ClassVar[Format]
    FORMAT_LICENCE: _ClassVar[Format]
FORMAT_UNSPECIFIED: Format
FORMAT_ID: Format
FORMAT_SHA256: Format
FORMAT_VOLUME_KIND: Format
FORMAT_UID: Format
FORMAT_LICENCE: Format
BOUNDS_FIELD_NUMBER: _ClassVar[int]
bounds: _descriptor.FieldDescriptor
SECRET_FIELD_NUMBER: _ClassVar[int]
secret: _descriptor.FieldDescriptor
AUDIT_FIELD_NUMBER: _ClassVar[int]
audit: _descriptor.FieldDescriptor

class Bounds(_message.Message):
    __slots__ = ("max_length", "max_count", "min", "max", "above_min", "below_max", "format", "required", "unset_means")
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_COUNT_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    ABOVE_MIN_FIELD_NUMBER: _ClassVar[int]
    BELOW_MAX_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    UNSET_MEANS_FIELD_NUMBER: _ClassVar[int]
    max_length: int
    max_count: int
    min: float
    max: float
    above_min: bool
    below_max: bool
    format: Format
    required: bool
    unset_means: str
    def __init__(self, max_length: _Optional[int] = ..., max_count: _Optional[int] = ..., min: _Optional[float] = ..., max: _Optional[float] = ..., above_min: _Optional[bool] = ..., below_max: _Optional[bool] = ..., format: _Optional[_Union[Format, str]] = ..., required: _Optional[bool] = ..., unset_means: _Optional[str] = ...) -> None: ...

class Audit(_message.Message):
    __slots__ = ("kind", "digest_field")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_FIELD_NUMBER: _ClassVar[int]
    kind: str
    digest_field: str
    def __init__(self, kind: _Optional[str] = ..., digest_field: _Optional[str] = ...) -> None: ...
