"""Records of `monitoring.proto`, by `make proto`; do not edit."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from google.protobuf.message import Message
from pydantic import Field

from vfmalign.client.messages.base import UNLESS_ZERO, ApiMessage, Time, unset_means
from vfmalign.client.messages.generated.common import Estimate
from vfmalign.client.messages.methods import MonitorSpecMethods
from vfmalign.core.domain.declarations import OptionalKind
from vfmalign.core.domain.record import Id, OptionalSha256, Sha256
from vfmalign.v1 import monitoring_pb2

__all__ = [
    "MonitorReference",
    "MonitorSpec",
    "FeatureOrigin",
    "ComponentEvidence",
    "EvidencePeak",
    "MonitorAlarm",
    "MonitorEpoch",
    "WindowedShift",
    "ChannelShift",
    "StratumMix",
    "Monitor",
    "FeatureSetRows",
    "ObservationResult",
    "MonitorState",
    "EvidenceComponent",
    "EpochStart",
    "ObservationOutcome",
]
MonitorState = Literal["active", "paused"]
"""State of a monitor."""
EvidenceComponent = Literal["rows", "blocks_of_4", "blocks_of_16", "channels", "first_patients"]
"""A component of the evidence. Each component has its own ranks."""
EpochStart = Literal["fixed", "unseen_reference", "reset"]
"""Why an epoch begins. The reason determines whether the epoch's bound is valid."""
ObservationOutcome = Literal["entered", "repeated_patient", "reference_patient", "not_finite", "paused", "conflict"]
"""Outcome of an observation."""


class MonitorReference(ApiMessage):
    """A feature set to compare observations with."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.MonitorReference

    feature_set_id: Id
    """Id of a feature set of 60 to 20,000 patients. If a patient has several rows, only the first is used."""
    manifest_sha256: OptionalSha256 = ""
    """SHA-256 of its manifest, hex; empty accepts the stored manifest and pins it. Fails with FAILED_PRECONDITION if
    the stored manifest has another digest.
    """


class MonitorSpec(MonitorSpecMethods):
    """Specification of a monitor. Only the reference, the title and the hours can be changed later."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.MonitorSpec

    reference: MonitorReference
    """The reference of the first epoch."""
    layer: str = ""
    """Layer that raises the alarm; empty means the first layer of the reference."""
    descriptive_layers: tuple[str, ...] = ()
    """Layers of the reference that are only shown with their windowed MMD². They never raise the alarm."""
    stratum: OptionalKind = ""
    """Id of the stratum within which observations are compared, such as `scanner`; empty for none. The reference's
    dataset must have it. If the reference lacks the value of an observation, the observation is only compared with
    earlier ones of the same value.
    """
    alpha: Annotated[float, unset_means(0.01)] = Field(default=0.01, gt=0.0, le=0.5, allow_inf_nan=False)
    """Largest probability of ever raising an alarm without drift, over all epochs with a guarantee; ignored with
    `run_length`. It is exact if the studies of one stratum are exchangeable with each other and with the reference's.
    It does not cover autocorrelation and seasons; see the documentation for measured rates.
    """
    run_length: Annotated[int, UNLESS_ZERO] = Field(default=0, ge=100, le=1000000000)
    """Number of rows A, instead of `alpha`: without drift, the first alarm of an epoch comes within T rows with a
    probability of at most T/A. 0, the default, uses `alpha`.
    """
    patient_window_days: Annotated[int, UNLESS_ZERO] = Field(default=0, ge=1, le=36500)
    """Days after which a patient may enter the evidence again; the new observation is assumed to be independent of the
    earlier one. 0, the default, means never. The date is the day of `acquire_time` in UTC or, if it is unknown, of the
    arrival.
    """
    seed: int = Field(default=0, ge=0, le=9223372036854775807)
    """Seed of all draws."""
    window_rows: Annotated[int, unset_means(100)] = Field(default=100, ge=16, le=5000)
    """Number of rows in a window, which is compared with the reference by MMD²."""
    max_silence_hours: Annotated[int, UNLESS_ZERO] = Field(default=0, ge=1, le=8760)
    """Hours without an observation after which the alert VfmalignMonitorSilent fires; 0, the default, means never."""
    title: str = ""
    """Title of the report; empty means the monitor's id. It must not identify a patient."""
    first_patients: Annotated[int, UNLESS_ZERO] = Field(default=0, ge=20, le=500)
    """Number of first patients of the monitor that are compared with the reference in one test, once they are complete;
    0, the default, means no such test. It detects a stream that differs from the very first row, which the other
    components detect late or never. Labels are permuted within strata. The test spends 0.1 of `alpha`, which is then
    not available to the other components. It needs an `alpha` of at least 0.001 and excludes `run_length`.
    """


class FeatureOrigin(ApiMessage):
    """Origin of features. Features of different origins cannot be compared."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.FeatureOrigin

    checkpoint_sha256: Sha256
    """Digest of the encoder's weights, hex."""
    preprocessing_sha256: Sha256
    """Digest of the preprocessing, hex, as ExtractResponse returns it."""
    input_transform: str = ""
    """Deterministic input transform of a task; empty means `identity`."""


class ComponentEvidence(ApiMessage):
    """Evidence of one component."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.ComponentEvidence

    component: EvidenceComponent
    """The component."""
    log_evidence: float | None = None
    """Natural logarithm of its statistic; absent if the statistic is 0."""
    log_threshold: float
    """Natural logarithm of the threshold."""


class EvidencePeak(ApiMessage):
    """Peak evidence of an epoch, relative to the threshold."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.EvidencePeak

    row: int
    """Number of the row in the epoch, from 1."""
    component: EvidenceComponent
    """The component."""
    log_evidence: float
    """Natural logarithm of its statistic."""


class MonitorAlarm(ApiMessage):
    """The first alarm of an epoch."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.MonitorAlarm

    row: int
    """Number of the row in the epoch, from 1."""
    observation_id: str
    """Id of the row's observation."""
    components: tuple[EvidenceComponent, ...] = ()
    """Components that had reached their thresholds."""
    raise_time: Time
    """When it was raised."""
    acknowledge_time: Time | None = None
    """When it was acknowledged; absent if it was not."""
    acknowledged_by: str = ""
    """Who acknowledged it: issuer and subject of the caller's token; empty without authentication."""
    note: str = ""
    """Note of the acknowledgement."""


class MonitorEpoch(ApiMessage):
    """An epoch."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.MonitorEpoch

    number: int
    """Number, from 1."""
    start: EpochStart
    """Why it began."""
    has_guarantee: bool = False
    """Whether the bound covers its alarm."""
    reference: MonitorReference
    """Its reference, with the digest of the manifest."""
    start_time: Time
    """When it began."""
    rows: int = 0
    """Number of rows that entered."""
    alarm: MonitorAlarm | None = None
    """Its first alarm; absent if there was none."""


class WindowedShift(ApiMessage):
    """MMD² between the most recent rows and the reference."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.WindowedShift

    layer: str
    """The layer."""
    stratum: str = ""
    """Stratum of the rows; empty for all."""
    first_row: int = 0
    """Number of the first row in the epoch, from 1."""
    last_row: int = 0
    """Number of the last row."""
    rows: int = 0
    """Rows of the window."""
    reference_rows: int = 0
    """Rows of the reference."""
    mmd2: Estimate = Estimate()
    """MMD² of standardised features, with its interval."""
    p_value: Estimate = Estimate()
    """p-value of a permutation test; descriptive, because windows are examined many times."""
    compute_time: Time | None = None
    """When it was computed."""


class ChannelShift(ApiMessage):
    """Shift of a channel's mean."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.ChannelShift

    channel: int = 0
    """Index of the channel, from 0."""
    shift_sd: float = 0.0
    """Mean of the window's rows minus that of the calibration rows, in standard deviations of the reference."""
    share: float = 0.0
    """Share of the squared shift of all channels, in [0, 1]."""


class StratumMix(ApiMessage):
    """Proportions of the strata in the epoch and in the reference. Changed proportions raise no alarm."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.StratumMix

    rows: dict[str, int] = Field(default_factory=dict)
    """Rows of the epoch by stratum; the empty stratum counts rows of unknown strata."""
    reference_rows: dict[str, int] = Field(default_factory=dict)
    """Calibration rows of the reference by stratum."""


class Monitor(ApiMessage):
    """A drift monitor."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.Monitor

    monitor_id: str
    """Id."""
    spec: MonitorSpec
    """The request, with defaults filled in, the reference of the first epoch pinned, and what was updated since."""
    state: MonitorState
    """State."""
    origin: FeatureOrigin
    """Required origin of the features of its observations."""
    model_id: str
    """Id of the model that computed its reference."""
    channels: int = 0
    """Channels of the layer that raises the alarm."""
    epoch: MonitorEpoch
    """The current epoch."""
    components: tuple[ComponentEvidence, ...] = ()
    """Evidence of the current epoch."""
    blocks_are_active: bool = False
    """Whether blocks of rows still add evidence; they stop after 20,000 rows of an epoch."""
    outcomes: dict[str, int] = Field(default_factory=dict)
    """Observations by outcome, of all epochs."""
    late_observations: int = 0
    """Number of observations that were acquired earlier than one that had already arrived."""
    future_observations: int = 0
    """Number of observations with a time of acquisition more than 5 minutes after their arrival."""
    last_observation_time: Time | None = None
    """When the last observation arrived; absent if none has."""
    last_acquire_time: Time | None = None
    """Latest time of acquisition; absent if unknown."""
    mix: StratumMix | None = None
    """Mix of strata; absent without a stratum."""
    windowed_shifts: tuple[WindowedShift, ...] = ()
    """MMD² of the last window by layer, and by stratum; empty before the first window, and in lists."""
    channel_shifts: tuple[ChannelShift, ...] = ()
    """Channels with the largest shares of the shift of the last window; empty in lists."""
    earlier_epochs: tuple[MonitorEpoch, ...] = ()
    """Epochs that have ended, newest first; empty in lists."""
    create_time: Time
    """When it was created."""
    peak: EvidencePeak | None = None
    """Peak evidence of the current epoch, relative to its threshold; absent before a row has entered."""
    created_by: str = ""
    """Who created it: issuer and subject of the token, as `issuer#subject`; empty if unknown."""


class FeatureSetRows(ApiMessage):
    """Observations from the rows of a stored feature set. The id of each observation is the id of its case."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.FeatureSetRows

    feature_set_id: Id
    """Id of the feature set."""
    manifest_sha256: OptionalSha256 = ""
    """SHA-256 of its manifest, hex; empty accepts any. Fails with FAILED_PRECONDITION if the stored manifest has
    another digest.
    """
    start: int = Field(default=0, ge=0, le=100000000)
    """First row, from 0. If it equals the number of rows of the set, there is nothing to observe, and the response is
    empty.
    """
    rows: Annotated[int, unset_means(1000)] = Field(default=1000, ge=1, le=1000)
    """Number of rows; fewer at the end of the set."""


class ObservationResult(ApiMessage):
    """Result of one observation."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.ObservationResult

    observation_id: str
    """Its id."""
    outcome: ObservationOutcome
    """Outcome; for a duplicate, the outcome of the first recording."""
    duplicate: bool = False
    """Whether it was recorded before."""
    row: int = 0
    """Number of its row in the epoch, from 1; 0 if it did not enter."""
    epoch: int = 0
    """Number of the epoch."""
    p_value: float | None = None
    """p-value of the row among the calibration and earlier rows; absent if it did not enter."""
    late: bool = False
    """Whether it was acquired earlier than an observation that had already arrived."""
    raised_alarm: bool = False
    """Whether it raised the alarm of its epoch."""
