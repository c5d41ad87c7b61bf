import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from vfmalign.v1 import alignment_pb2 as _alignment_pb2
from vfmalign.v1 import bounds_pb2 as _bounds_pb2
from vfmalign.v1 import common_pb2 as _common_pb2
from vfmalign.v1 import finetuning_pb2 as _finetuning_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExperimentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPERIMENT_STATE_UNSPECIFIED: _ClassVar[ExperimentState]
    EXPERIMENT_STATE_QUEUED: _ClassVar[ExperimentState]
    EXPERIMENT_STATE_RUNNING: _ClassVar[ExperimentState]
    EXPERIMENT_STATE_SUCCEEDED: _ClassVar[ExperimentState]
    EXPERIMENT_STATE_FAILED: _ClassVar[ExperimentState]
    EXPERIMENT_STATE_CANCELLED: _ClassVar[ExperimentState]
EXPERIMENT_STATE_UNSPECIFIED: ExperimentState
EXPERIMENT_STATE_QUEUED: ExperimentState
EXPERIMENT_STATE_RUNNING: ExperimentState
EXPERIMENT_STATE_SUCCEEDED: ExperimentState
EXPERIMENT_STATE_FAILED: ExperimentState
EXPERIMENT_STATE_CANCELLED: ExperimentState

class ExperimentSpec(_message.Message):
    __slots__ = ("model_ids", "dataset_id", "dataset_digest", "tasks", "seeds", "recipe", "permutations", "bootstrap_resamples", "interval_level", "max_running", "title", "smallest_differences", "modality_map", "shuffled_labels", "allow_cut_organs", "frozen", "train_cases")
    class ModalityMapEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_IDS_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    PERMUTATIONS_FIELD_NUMBER: _ClassVar[int]
    BOOTSTRAP_RESAMPLES_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_LEVEL_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    MODALITY_MAP_FIELD_NUMBER: _ClassVar[int]
    SHUFFLED_LABELS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_CUT_ORGANS_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    TRAIN_CASES_FIELD_NUMBER: _ClassVar[int]
    model_ids: _containers.RepeatedScalarFieldContainer[str]
    dataset_id: str
    dataset_digest: str
    tasks: _containers.RepeatedCompositeFieldContainer[_common_pb2.Task]
    seeds: _containers.RepeatedScalarFieldContainer[int]
    recipe: _finetuning_pb2.Recipe
    permutations: int
    bootstrap_resamples: int
    interval_level: float
    max_running: int
    title: str
    smallest_differences: _containers.RepeatedCompositeFieldContainer[SmallestDifference]
    modality_map: _containers.ScalarMap[str, str]
    shuffled_labels: bool
    allow_cut_organs: bool
    frozen: bool
    train_cases: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, model_ids: _Optional[_Iterable[str]] = ..., dataset_id: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[_common_pb2.Task, _Mapping]]] = ..., seeds: _Optional[_Iterable[int]] = ..., recipe: _Optional[_Union[_finetuning_pb2.Recipe, _Mapping]] = ..., permutations: _Optional[int] = ..., bootstrap_resamples: _Optional[int] = ..., interval_level: _Optional[float] = ..., max_running: _Optional[int] = ..., title: _Optional[str] = ..., smallest_differences: _Optional[_Iterable[_Union[SmallestDifference, _Mapping]]] = ..., modality_map: _Optional[_Mapping[str, str]] = ..., shuffled_labels: _Optional[bool] = ..., allow_cut_organs: _Optional[bool] = ..., frozen: _Optional[bool] = ..., train_cases: _Optional[_Iterable[int]] = ...) -> None: ...

class SmallestDifference(_message.Message):
    __slots__ = ("metric", "value")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    metric: str
    value: float
    def __init__(self, metric: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class ExperimentCell(_message.Message):
    __slots__ = ("model_id", "task", "seed", "check_id", "state", "progress", "end_time", "failure", "shuffled_labels", "frozen", "train_cases")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CHECK_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    SHUFFLED_LABELS_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    TRAIN_CASES_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    task: str
    seed: int
    check_id: str
    state: _alignment_pb2.CheckState
    progress: _common_pb2.Progress
    end_time: _timestamp_pb2.Timestamp
    failure: _finetuning_pb2.Failure
    shuffled_labels: bool
    frozen: bool
    train_cases: int
    def __init__(self, model_id: _Optional[str] = ..., task: _Optional[str] = ..., seed: _Optional[int] = ..., check_id: _Optional[str] = ..., state: _Optional[_Union[_alignment_pb2.CheckState, str]] = ..., progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., failure: _Optional[_Union[_finetuning_pb2.Failure, _Mapping]] = ..., shuffled_labels: _Optional[bool] = ..., frozen: _Optional[bool] = ..., train_cases: _Optional[int] = ...) -> None: ...

class ExperimentCounts(_message.Message):
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

class Experiment(_message.Message):
    __slots__ = ("experiment_id", "spec", "state", "progress", "create_time", "start_time", "end_time", "cells", "counts", "failure", "report_json", "report_html", "cells_csv", "created_by", "dataset_digest", "model_sha256")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    REPORT_HTML_FIELD_NUMBER: _ClassVar[int]
    CELLS_CSV_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    spec: ExperimentSpec
    state: ExperimentState
    progress: _common_pb2.Progress
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    cells: _containers.RepeatedCompositeFieldContainer[ExperimentCell]
    counts: ExperimentCounts
    failure: _finetuning_pb2.Failure
    report_json: _common_pb2.ObjectRef
    report_html: _common_pb2.ObjectRef
    cells_csv: _common_pb2.ObjectRef
    created_by: str
    dataset_digest: str
    model_sha256: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, experiment_id: _Optional[str] = ..., spec: _Optional[_Union[ExperimentSpec, _Mapping]] = ..., state: _Optional[_Union[ExperimentState, str]] = ..., progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cells: _Optional[_Iterable[_Union[ExperimentCell, _Mapping]]] = ..., counts: _Optional[_Union[ExperimentCounts, _Mapping]] = ..., failure: _Optional[_Union[_finetuning_pb2.Failure, _Mapping]] = ..., report_json: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., report_html: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., cells_csv: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., created_by: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., model_sha256: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateExperimentRequest(_message.Message):
    __slots__ = ("experiment_id", "spec")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    spec: ExperimentSpec
    def __init__(self, experiment_id: _Optional[str] = ..., spec: _Optional[_Union[ExperimentSpec, _Mapping]] = ...) -> None: ...

class CreateExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class GetExperimentRequest(_message.Message):
    __slots__ = ("experiment_id",)
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    def __init__(self, experiment_id: _Optional[str] = ...) -> None: ...

class GetExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class ListExperimentsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states", "model_id", "dataset_id", "created_after", "created_before")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[ExperimentState]
    model_id: str
    dataset_id: str
    created_after: _timestamp_pb2.Timestamp
    created_before: _timestamp_pb2.Timestamp
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[ExperimentState, str]]] = ..., model_id: _Optional[str] = ..., dataset_id: _Optional[str] = ..., created_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListExperimentsResponse(_message.Message):
    __slots__ = ("experiments", "next_page_token")
    EXPERIMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    experiments: _containers.RepeatedCompositeFieldContainer[Experiment]
    next_page_token: str
    def __init__(self, experiments: _Optional[_Iterable[_Union[Experiment, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelExperimentRequest(_message.Message):
    __slots__ = ("experiment_id",)
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    def __init__(self, experiment_id: _Optional[str] = ...) -> None: ...

class CancelExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class RetryExperimentRequest(_message.Message):
    __slots__ = ("experiment_id",)
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    def __init__(self, experiment_id: _Optional[str] = ...) -> None: ...

class RetryExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class WatchExperimentRequest(_message.Message):
    __slots__ = ("experiment_id",)
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    def __init__(self, experiment_id: _Optional[str] = ...) -> None: ...

class WatchExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class GetExperimentReportRequest(_message.Message):
    __slots__ = ("experiment_id", "format")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    format: _common_pb2.ReportFormat
    def __init__(self, experiment_id: _Optional[str] = ..., format: _Optional[_Union[_common_pb2.ReportFormat, str]] = ...) -> None: ...

class GetExperimentReportResponse(_message.Message):
    __slots__ = ("content",)
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    def __init__(self, content: _Optional[bytes] = ...) -> None: ...

class DeleteExperimentRequest(_message.Message):
    __slots__ = ("experiment_id", "dry_run")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    dry_run: bool
    def __init__(self, experiment_id: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class DeleteExperimentResponse(_message.Message):
    __slots__ = ("deletion",)
    DELETION_FIELD_NUMBER: _ClassVar[int]
    deletion: _common_pb2.Deletion
    def __init__(self, deletion: _Optional[_Union[_common_pb2.Deletion, _Mapping]] = ...) -> None: ...
