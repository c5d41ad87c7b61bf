import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from vfmalign.v1 import bounds_pb2 as _bounds_pb2
from vfmalign.v1 import common_pb2 as _common_pb2
from vfmalign.v1 import erasure_pb2 as _erasure_pb2
from vfmalign.v1 import features_pb2 as _features_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MonitorState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MONITOR_STATE_UNSPECIFIED: _ClassVar[MonitorState]
    MONITOR_STATE_ACTIVE: _ClassVar[MonitorState]
    MONITOR_STATE_PAUSED: _ClassVar[MonitorState]

class EvidenceComponent(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVIDENCE_COMPONENT_UNSPECIFIED: _ClassVar[EvidenceComponent]
    EVIDENCE_COMPONENT_ROWS: _ClassVar[EvidenceComponent]
    EVIDENCE_COMPONENT_BLOCKS_OF_4: _ClassVar[EvidenceComponent]
    EVIDENCE_COMPONENT_BLOCKS_OF_16: _ClassVar[EvidenceComponent]
    EVIDENCE_COMPONENT_CHANNELS: _ClassVar[EvidenceComponent]
    EVIDENCE_COMPONENT_FIRST_PATIENTS: _ClassVar[EvidenceComponent]

class EpochStart(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EPOCH_START_UNSPECIFIED: _ClassVar[EpochStart]
    EPOCH_START_FIXED: _ClassVar[EpochStart]
    EPOCH_START_UNSEEN_REFERENCE: _ClassVar[EpochStart]
    EPOCH_START_RESET: _ClassVar[EpochStart]

class ObservationOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OBSERVATION_OUTCOME_UNSPECIFIED: _ClassVar[ObservationOutcome]
    OBSERVATION_OUTCOME_ENTERED: _ClassVar[ObservationOutcome]
    OBSERVATION_OUTCOME_REPEATED_PATIENT: _ClassVar[ObservationOutcome]
    OBSERVATION_OUTCOME_REFERENCE_PATIENT: _ClassVar[ObservationOutcome]
    OBSERVATION_OUTCOME_NOT_FINITE: _ClassVar[ObservationOutcome]
    OBSERVATION_OUTCOME_PAUSED: _ClassVar[ObservationOutcome]
    OBSERVATION_OUTCOME_CONFLICT: _ClassVar[ObservationOutcome]
MONITOR_STATE_UNSPECIFIED: MonitorState
MONITOR_STATE_ACTIVE: MonitorState
MONITOR_STATE_PAUSED: MonitorState
EVIDENCE_COMPONENT_UNSPECIFIED: EvidenceComponent
EVIDENCE_COMPONENT_ROWS: EvidenceComponent
EVIDENCE_COMPONENT_BLOCKS_OF_4: EvidenceComponent
EVIDENCE_COMPONENT_BLOCKS_OF_16: EvidenceComponent
EVIDENCE_COMPONENT_CHANNELS: EvidenceComponent
EVIDENCE_COMPONENT_FIRST_PATIENTS: EvidenceComponent
EPOCH_START_UNSPECIFIED: EpochStart
EPOCH_START_FIXED: EpochStart
EPOCH_START_UNSEEN_REFERENCE: EpochStart
EPOCH_START_RESET: EpochStart
OBSERVATION_OUTCOME_UNSPECIFIED: ObservationOutcome
OBSERVATION_OUTCOME_ENTERED: ObservationOutcome
OBSERVATION_OUTCOME_REPEATED_PATIENT: ObservationOutcome
OBSERVATION_OUTCOME_REFERENCE_PATIENT: ObservationOutcome
OBSERVATION_OUTCOME_NOT_FINITE: ObservationOutcome
OBSERVATION_OUTCOME_PAUSED: ObservationOutcome
OBSERVATION_OUTCOME_CONFLICT: ObservationOutcome

class MonitorReference(_message.Message):
    __slots__ = ("feature_set_id", "manifest_sha256")
    FEATURE_SET_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    feature_set_id: str
    manifest_sha256: str
    def __init__(self, feature_set_id: _Optional[str] = ..., manifest_sha256: _Optional[str] = ...) -> None: ...

class MonitorSpec(_message.Message):
    __slots__ = ("reference", "layer", "descriptive_layers", "stratum", "alpha", "run_length", "patient_window_days", "seed", "window_rows", "max_silence_hours", "title", "first_patients")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTIVE_LAYERS_FIELD_NUMBER: _ClassVar[int]
    STRATUM_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    RUN_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PATIENT_WINDOW_DAYS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    WINDOW_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_SILENCE_HOURS_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    FIRST_PATIENTS_FIELD_NUMBER: _ClassVar[int]
    reference: MonitorReference
    layer: str
    descriptive_layers: _containers.RepeatedScalarFieldContainer[str]
    stratum: str
    alpha: float
    run_length: int
    patient_window_days: int
    seed: int
    window_rows: int
    max_silence_hours: int
    title: str
    first_patients: int
    def __init__(self, reference: _Optional[_Union[MonitorReference, _Mapping]] = ..., layer: _Optional[str] = ..., descriptive_layers: _Optional[_Iterable[str]] = ..., stratum: _Optional[str] = ..., alpha: _Optional[float] = ..., run_length: _Optional[int] = ..., patient_window_days: _Optional[int] = ..., seed: _Optional[int] = ..., window_rows: _Optional[int] = ..., max_silence_hours: _Optional[int] = ..., title: _Optional[str] = ..., first_patients: _Optional[int] = ...) -> None: ...

class FeatureOrigin(_message.Message):
    __slots__ = ("checkpoint_sha256", "preprocessing_sha256", "input_transform")
    CHECKPOINT_SHA256_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_SHA256_FIELD_NUMBER: _ClassVar[int]
    INPUT_TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    checkpoint_sha256: str
    preprocessing_sha256: str
    input_transform: str
    def __init__(self, checkpoint_sha256: _Optional[str] = ..., preprocessing_sha256: _Optional[str] = ..., input_transform: _Optional[str] = ...) -> None: ...

class ComponentEvidence(_message.Message):
    __slots__ = ("component", "log_evidence", "log_threshold")
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    LOG_EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    LOG_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    component: EvidenceComponent
    log_evidence: float
    log_threshold: float
    def __init__(self, component: _Optional[_Union[EvidenceComponent, str]] = ..., log_evidence: _Optional[float] = ..., log_threshold: _Optional[float] = ...) -> None: ...

class EvidencePeak(_message.Message):
    __slots__ = ("row", "component", "log_evidence")
    ROW_FIELD_NUMBER: _ClassVar[int]
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    LOG_EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    row: int
    component: EvidenceComponent
    log_evidence: float
    def __init__(self, row: _Optional[int] = ..., component: _Optional[_Union[EvidenceComponent, str]] = ..., log_evidence: _Optional[float] = ...) -> None: ...

class MonitorAlarm(_message.Message):
    __slots__ = ("row", "observation_id", "components", "raise_time", "acknowledge_time", "acknowledged_by", "note")
    ROW_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    RAISE_TIME_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGE_TIME_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_BY_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    row: int
    observation_id: str
    components: _containers.RepeatedScalarFieldContainer[EvidenceComponent]
    raise_time: _timestamp_pb2.Timestamp
    acknowledge_time: _timestamp_pb2.Timestamp
    acknowledged_by: str
    note: str
    def __init__(self, row: _Optional[int] = ..., observation_id: _Optional[str] = ..., components: _Optional[_Iterable[_Union[EvidenceComponent, str]]] = ..., raise_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., acknowledge_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., acknowledged_by: _Optional[str] = ..., note: _Optional[str] = ...) -> None: ...

class MonitorEpoch(_message.Message):
    __slots__ = ("number", "start", "has_guarantee", "reference", "start_time", "rows", "alarm")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    HAS_GUARANTEE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ALARM_FIELD_NUMBER: _ClassVar[int]
    number: int
    start: EpochStart
    has_guarantee: bool
    reference: MonitorReference
    start_time: _timestamp_pb2.Timestamp
    rows: int
    alarm: MonitorAlarm
    def __init__(self, number: _Optional[int] = ..., start: _Optional[_Union[EpochStart, str]] = ..., has_guarantee: _Optional[bool] = ..., reference: _Optional[_Union[MonitorReference, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., rows: _Optional[int] = ..., alarm: _Optional[_Union[MonitorAlarm, _Mapping]] = ...) -> None: ...

class WindowedShift(_message.Message):
    __slots__ = ("layer", "stratum", "first_row", "last_row", "rows", "reference_rows", "mmd2", "p_value", "compute_time")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    STRATUM_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    LAST_ROW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ROWS_FIELD_NUMBER: _ClassVar[int]
    MMD2_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_TIME_FIELD_NUMBER: _ClassVar[int]
    layer: str
    stratum: str
    first_row: int
    last_row: int
    rows: int
    reference_rows: int
    mmd2: _common_pb2.Estimate
    p_value: _common_pb2.Estimate
    compute_time: _timestamp_pb2.Timestamp
    def __init__(self, layer: _Optional[str] = ..., stratum: _Optional[str] = ..., first_row: _Optional[int] = ..., last_row: _Optional[int] = ..., rows: _Optional[int] = ..., reference_rows: _Optional[int] = ..., mmd2: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., p_value: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., compute_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ChannelShift(_message.Message):
    __slots__ = ("channel", "shift_sd", "share")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    SHIFT_SD_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    channel: int
    shift_sd: float
    share: float
    def __init__(self, channel: _Optional[int] = ..., shift_sd: _Optional[float] = ..., share: _Optional[float] = ...) -> None: ...

class StratumMix(_message.Message):
    __slots__ = ("rows", "reference_rows")
    class RowsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ReferenceRowsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ROWS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.ScalarMap[str, int]
    reference_rows: _containers.ScalarMap[str, int]
    def __init__(self, rows: _Optional[_Mapping[str, int]] = ..., reference_rows: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Monitor(_message.Message):
    __slots__ = ("monitor_id", "spec", "state", "origin", "model_id", "channels", "epoch", "components", "blocks_are_active", "outcomes", "late_observations", "future_observations", "last_observation_time", "last_acquire_time", "mix", "windowed_shifts", "channel_shifts", "earlier_epochs", "create_time", "peak", "created_by")
    class OutcomesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_ARE_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    LATE_OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    FUTURE_OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    LAST_OBSERVATION_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_ACQUIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    MIX_FIELD_NUMBER: _ClassVar[int]
    WINDOWED_SHIFTS_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_SHIFTS_FIELD_NUMBER: _ClassVar[int]
    EARLIER_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    spec: MonitorSpec
    state: MonitorState
    origin: FeatureOrigin
    model_id: str
    channels: int
    epoch: MonitorEpoch
    components: _containers.RepeatedCompositeFieldContainer[ComponentEvidence]
    blocks_are_active: bool
    outcomes: _containers.ScalarMap[str, int]
    late_observations: int
    future_observations: int
    last_observation_time: _timestamp_pb2.Timestamp
    last_acquire_time: _timestamp_pb2.Timestamp
    mix: StratumMix
    windowed_shifts: _containers.RepeatedCompositeFieldContainer[WindowedShift]
    channel_shifts: _containers.RepeatedCompositeFieldContainer[ChannelShift]
    earlier_epochs: _containers.RepeatedCompositeFieldContainer[MonitorEpoch]
    create_time: _timestamp_pb2.Timestamp
    peak: EvidencePeak
    created_by: str
    def __init__(self, monitor_id: _Optional[str] = ..., spec: _Optional[_Union[MonitorSpec, _Mapping]] = ..., state: _Optional[_Union[MonitorState, str]] = ..., origin: _Optional[_Union[FeatureOrigin, _Mapping]] = ..., model_id: _Optional[str] = ..., channels: _Optional[int] = ..., epoch: _Optional[_Union[MonitorEpoch, _Mapping]] = ..., components: _Optional[_Iterable[_Union[ComponentEvidence, _Mapping]]] = ..., blocks_are_active: _Optional[bool] = ..., outcomes: _Optional[_Mapping[str, int]] = ..., late_observations: _Optional[int] = ..., future_observations: _Optional[int] = ..., last_observation_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_acquire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., mix: _Optional[_Union[StratumMix, _Mapping]] = ..., windowed_shifts: _Optional[_Iterable[_Union[WindowedShift, _Mapping]]] = ..., channel_shifts: _Optional[_Iterable[_Union[ChannelShift, _Mapping]]] = ..., earlier_epochs: _Optional[_Iterable[_Union[MonitorEpoch, _Mapping]]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., peak: _Optional[_Union[EvidencePeak, _Mapping]] = ..., created_by: _Optional[str] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("study", "layers")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    study: _common_pb2.ObservedStudy
    layers: _containers.RepeatedCompositeFieldContainer[_features_pb2.LayerFeatures]
    def __init__(self, study: _Optional[_Union[_common_pb2.ObservedStudy, _Mapping]] = ..., layers: _Optional[_Iterable[_Union[_features_pb2.LayerFeatures, _Mapping]]] = ...) -> None: ...

class InlineObservations(_message.Message):
    __slots__ = ("observations",)
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    observations: _containers.RepeatedCompositeFieldContainer[Observation]
    def __init__(self, observations: _Optional[_Iterable[_Union[Observation, _Mapping]]] = ...) -> None: ...

class FeatureSetRows(_message.Message):
    __slots__ = ("feature_set_id", "manifest_sha256", "start", "rows")
    FEATURE_SET_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    feature_set_id: str
    manifest_sha256: str
    start: int
    rows: int
    def __init__(self, feature_set_id: _Optional[str] = ..., manifest_sha256: _Optional[str] = ..., start: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class ObservationResult(_message.Message):
    __slots__ = ("observation_id", "outcome", "duplicate", "row", "epoch", "p_value", "late", "raised_alarm")
    OBSERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    RAISED_ALARM_FIELD_NUMBER: _ClassVar[int]
    observation_id: str
    outcome: ObservationOutcome
    duplicate: bool
    row: int
    epoch: int
    p_value: float
    late: bool
    raised_alarm: bool
    def __init__(self, observation_id: _Optional[str] = ..., outcome: _Optional[_Union[ObservationOutcome, str]] = ..., duplicate: _Optional[bool] = ..., row: _Optional[int] = ..., epoch: _Optional[int] = ..., p_value: _Optional[float] = ..., late: _Optional[bool] = ..., raised_alarm: _Optional[bool] = ...) -> None: ...

class CreateMonitorRequest(_message.Message):
    __slots__ = ("monitor_id", "spec")
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    spec: MonitorSpec
    def __init__(self, monitor_id: _Optional[str] = ..., spec: _Optional[_Union[MonitorSpec, _Mapping]] = ...) -> None: ...

class CreateMonitorResponse(_message.Message):
    __slots__ = ("monitor",)
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    monitor: Monitor
    def __init__(self, monitor: _Optional[_Union[Monitor, _Mapping]] = ...) -> None: ...

class GetMonitorRequest(_message.Message):
    __slots__ = ("monitor_id",)
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    def __init__(self, monitor_id: _Optional[str] = ...) -> None: ...

class GetMonitorResponse(_message.Message):
    __slots__ = ("monitor",)
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    monitor: Monitor
    def __init__(self, monitor: _Optional[_Union[Monitor, _Mapping]] = ...) -> None: ...

class ListMonitorsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states", "model_id", "created_after", "created_before")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[MonitorState]
    model_id: str
    created_after: _timestamp_pb2.Timestamp
    created_before: _timestamp_pb2.Timestamp
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[MonitorState, str]]] = ..., model_id: _Optional[str] = ..., created_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListMonitorsResponse(_message.Message):
    __slots__ = ("monitors", "next_page_token")
    MONITORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    monitors: _containers.RepeatedCompositeFieldContainer[Monitor]
    next_page_token: str
    def __init__(self, monitors: _Optional[_Iterable[_Union[Monitor, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ObserveRequest(_message.Message):
    __slots__ = ("monitor_id", "origin", "inline", "feature_set")
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SET_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    origin: FeatureOrigin
    inline: InlineObservations
    feature_set: FeatureSetRows
    def __init__(self, monitor_id: _Optional[str] = ..., origin: _Optional[_Union[FeatureOrigin, _Mapping]] = ..., inline: _Optional[_Union[InlineObservations, _Mapping]] = ..., feature_set: _Optional[_Union[FeatureSetRows, _Mapping]] = ...) -> None: ...

class ObserveResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ObservationResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ObservationResult, _Mapping]]] = ...) -> None: ...

class WatchMonitorRequest(_message.Message):
    __slots__ = ("monitor_id",)
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    def __init__(self, monitor_id: _Optional[str] = ...) -> None: ...

class WatchMonitorResponse(_message.Message):
    __slots__ = ("monitor",)
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    monitor: Monitor
    def __init__(self, monitor: _Optional[_Union[Monitor, _Mapping]] = ...) -> None: ...

class AcknowledgeAlarmRequest(_message.Message):
    __slots__ = ("monitor_id", "epoch", "note")
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    epoch: int
    note: str
    def __init__(self, monitor_id: _Optional[str] = ..., epoch: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class AcknowledgeAlarmResponse(_message.Message):
    __slots__ = ("monitor",)
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    monitor: Monitor
    def __init__(self, monitor: _Optional[_Union[Monitor, _Mapping]] = ...) -> None: ...

class ReplaceReferenceRequest(_message.Message):
    __slots__ = ("monitor_id", "epoch", "reference", "start")
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    epoch: int
    reference: MonitorReference
    start: EpochStart
    def __init__(self, monitor_id: _Optional[str] = ..., epoch: _Optional[int] = ..., reference: _Optional[_Union[MonitorReference, _Mapping]] = ..., start: _Optional[_Union[EpochStart, str]] = ...) -> None: ...

class ReplaceReferenceResponse(_message.Message):
    __slots__ = ("monitor",)
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    monitor: Monitor
    def __init__(self, monitor: _Optional[_Union[Monitor, _Mapping]] = ...) -> None: ...

class UpdateMonitorRequest(_message.Message):
    __slots__ = ("monitor_id", "max_silence_hours", "title")
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_SILENCE_HOURS_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    max_silence_hours: int
    title: str
    def __init__(self, monitor_id: _Optional[str] = ..., max_silence_hours: _Optional[int] = ..., title: _Optional[str] = ...) -> None: ...

class UpdateMonitorResponse(_message.Message):
    __slots__ = ("monitor",)
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    monitor: Monitor
    def __init__(self, monitor: _Optional[_Union[Monitor, _Mapping]] = ...) -> None: ...

class PauseMonitorRequest(_message.Message):
    __slots__ = ("monitor_id",)
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    def __init__(self, monitor_id: _Optional[str] = ...) -> None: ...

class PauseMonitorResponse(_message.Message):
    __slots__ = ("monitor",)
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    monitor: Monitor
    def __init__(self, monitor: _Optional[_Union[Monitor, _Mapping]] = ...) -> None: ...

class ResumeMonitorRequest(_message.Message):
    __slots__ = ("monitor_id",)
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    def __init__(self, monitor_id: _Optional[str] = ...) -> None: ...

class ResumeMonitorResponse(_message.Message):
    __slots__ = ("monitor",)
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    monitor: Monitor
    def __init__(self, monitor: _Optional[_Union[Monitor, _Mapping]] = ...) -> None: ...

class DeleteMonitorRequest(_message.Message):
    __slots__ = ("monitor_id",)
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    def __init__(self, monitor_id: _Optional[str] = ...) -> None: ...

class DeleteMonitorResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetMonitorReportRequest(_message.Message):
    __slots__ = ("monitor_id", "format")
    MONITOR_ID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    monitor_id: str
    format: _common_pb2.ReportFormat
    def __init__(self, monitor_id: _Optional[str] = ..., format: _Optional[_Union[_common_pb2.ReportFormat, str]] = ...) -> None: ...

class GetMonitorReportResponse(_message.Message):
    __slots__ = ("content",)
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    def __init__(self, content: _Optional[bytes] = ...) -> None: ...
