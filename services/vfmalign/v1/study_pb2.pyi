import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from vfmalign.v1 import alignment_pb2 as _alignment_pb2
from vfmalign.v1 import common_pb2 as _common_pb2
from vfmalign.v1 import finetuning_pb2 as _finetuning_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StudyState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STUDY_STATE_UNSPECIFIED: _ClassVar[StudyState]
    STUDY_STATE_QUEUED: _ClassVar[StudyState]
    STUDY_STATE_RUNNING: _ClassVar[StudyState]
    STUDY_STATE_SUCCEEDED: _ClassVar[StudyState]
    STUDY_STATE_FAILED: _ClassVar[StudyState]
    STUDY_STATE_CANCELLED: _ClassVar[StudyState]
STUDY_STATE_UNSPECIFIED: StudyState
STUDY_STATE_QUEUED: StudyState
STUDY_STATE_RUNNING: StudyState
STUDY_STATE_SUCCEEDED: StudyState
STUDY_STATE_FAILED: StudyState
STUDY_STATE_CANCELLED: StudyState

class StudySpec(_message.Message):
    __slots__ = ("model_ids", "dataset_id", "dataset_digest", "tasks", "seeds", "recipe", "relabellings", "bootstrap_resamples", "interval_level", "max_running", "title")
    MODEL_IDS_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    RELABELLINGS_FIELD_NUMBER: _ClassVar[int]
    BOOTSTRAP_RESAMPLES_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_LEVEL_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    model_ids: _containers.RepeatedScalarFieldContainer[str]
    dataset_id: str
    dataset_digest: str
    tasks: _containers.RepeatedScalarFieldContainer[str]
    seeds: _containers.RepeatedScalarFieldContainer[int]
    recipe: _finetuning_pb2.Recipe
    relabellings: int
    bootstrap_resamples: int
    interval_level: float
    max_running: int
    title: str
    def __init__(self, model_ids: _Optional[_Iterable[str]] = ..., dataset_id: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., tasks: _Optional[_Iterable[str]] = ..., seeds: _Optional[_Iterable[int]] = ..., recipe: _Optional[_Union[_finetuning_pb2.Recipe, _Mapping]] = ..., relabellings: _Optional[int] = ..., bootstrap_resamples: _Optional[int] = ..., interval_level: _Optional[float] = ..., max_running: _Optional[int] = ..., title: _Optional[str] = ...) -> None: ...

class StudyCell(_message.Message):
    __slots__ = ("model_id", "task", "seed", "check_id", "state", "status", "end_time", "failure")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CHECK_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    task: str
    seed: int
    check_id: str
    state: _alignment_pb2.CheckState
    status: str
    end_time: _timestamp_pb2.Timestamp
    failure: _finetuning_pb2.Failure
    def __init__(self, model_id: _Optional[str] = ..., task: _Optional[str] = ..., seed: _Optional[int] = ..., check_id: _Optional[str] = ..., state: _Optional[_Union[_alignment_pb2.CheckState, str]] = ..., status: _Optional[str] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., failure: _Optional[_Union[_finetuning_pb2.Failure, _Mapping]] = ...) -> None: ...

class StudyCounts(_message.Message):
    __slots__ = ("queued", "running", "succeeded", "failed", "cancelled")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    def __init__(self, queued: _Optional[int] = ..., running: _Optional[int] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., cancelled: _Optional[int] = ...) -> None: ...

class AlignmentStudy(_message.Message):
    __slots__ = ("study_id", "spec", "state", "status", "create_time", "start_time", "end_time", "cells", "counts", "progress", "failure", "report_json", "report_html", "cells_csv")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    REPORT_HTML_FIELD_NUMBER: _ClassVar[int]
    CELLS_CSV_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    spec: StudySpec
    state: StudyState
    status: str
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    cells: _containers.RepeatedCompositeFieldContainer[StudyCell]
    counts: StudyCounts
    progress: _common_pb2.Progress
    failure: _finetuning_pb2.Failure
    report_json: _common_pb2.ObjectRef
    report_html: _common_pb2.ObjectRef
    cells_csv: _common_pb2.ObjectRef
    def __init__(self, study_id: _Optional[str] = ..., spec: _Optional[_Union[StudySpec, _Mapping]] = ..., state: _Optional[_Union[StudyState, str]] = ..., status: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cells: _Optional[_Iterable[_Union[StudyCell, _Mapping]]] = ..., counts: _Optional[_Union[StudyCounts, _Mapping]] = ..., progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., failure: _Optional[_Union[_finetuning_pb2.Failure, _Mapping]] = ..., report_json: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., report_html: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., cells_csv: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ...) -> None: ...

class CreateStudyRequest(_message.Message):
    __slots__ = ("study_id", "spec")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    spec: StudySpec
    def __init__(self, study_id: _Optional[str] = ..., spec: _Optional[_Union[StudySpec, _Mapping]] = ...) -> None: ...

class CreateStudyResponse(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: AlignmentStudy
    def __init__(self, study: _Optional[_Union[AlignmentStudy, _Mapping]] = ...) -> None: ...

class GetStudyRequest(_message.Message):
    __slots__ = ("study_id",)
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    def __init__(self, study_id: _Optional[str] = ...) -> None: ...

class GetStudyResponse(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: AlignmentStudy
    def __init__(self, study: _Optional[_Union[AlignmentStudy, _Mapping]] = ...) -> None: ...

class ListStudiesRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[StudyState]
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[StudyState, str]]] = ...) -> None: ...

class ListStudiesResponse(_message.Message):
    __slots__ = ("studies", "next_page_token")
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[AlignmentStudy]
    next_page_token: str
    def __init__(self, studies: _Optional[_Iterable[_Union[AlignmentStudy, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelStudyRequest(_message.Message):
    __slots__ = ("study_id",)
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    def __init__(self, study_id: _Optional[str] = ...) -> None: ...

class CancelStudyResponse(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: AlignmentStudy
    def __init__(self, study: _Optional[_Union[AlignmentStudy, _Mapping]] = ...) -> None: ...

class WatchStudyRequest(_message.Message):
    __slots__ = ("study_id",)
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    def __init__(self, study_id: _Optional[str] = ...) -> None: ...

class WatchStudyResponse(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: AlignmentStudy
    def __init__(self, study: _Optional[_Union[AlignmentStudy, _Mapping]] = ...) -> None: ...
