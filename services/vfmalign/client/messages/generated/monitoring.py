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
"""A piece of evidence with ranks of its own."""
EpochStart = Literal["fixed", "unseen_reference", "reset"]
"""Why an epoch begins, which decides whether its bound holds."""
ObservationOutcome = Literal["entered", "repeated_patient", "reference_patient", "not_finite", "paused", "conflict"]
"""What became of an observation."""


class MonitorReference(ApiMessage):
    """A feature set with which observations are compared."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.MonitorReference

    feature_set_id: Id
    """Id of a feature set of at least 60 and at most 20,000 patients. Of several rows of a patient, the first is kept.
    """
    manifest_sha256: OptionalSha256 = ""
    """SHA-256 of its manifest, hex; empty accepts the stored one and pins it. FAILED_PRECONDITION where the stored one
    is another.
    """


class MonitorSpec(MonitorSpecMethods):
    """What a monitor watches; fixed when it is created, except that its reference can be replaced, and title and hours
    updated.
    """

    PROTO: ClassVar[type[Message]] = monitoring_pb2.MonitorSpec

    reference: MonitorReference
    """The reference of the first epoch."""
    layer: str = ""
    """Layer that raises the alarm; empty takes the first of the reference."""
    descriptive_layers: tuple[str, ...] = ()
    """Layers whose windowed MMD² is shown, and which never raise the alarm; the reference has them."""
    stratum: OptionalKind = ""
    """Id of the stratum within which observations are compared, such as `scanner`; empty for none. The reference's
    dataset has it. An observation of a stratum that the reference lacks is compared with earlier observations of this
    stratum alone.
    """
    alpha: Annotated[float, unset_means(0.01)] = Field(default=0.01, gt=0.0, le=0.5, allow_inf_nan=False)
    """Largest probability of ever raising an alarm without drift, over all epochs with a guarantee; ignored with
    `run_length`. It is exact if the studies of one stratum are exchangeable with each other and with the reference's.
    It does not cover autocorrelation and seasons: the documentation has the rates that were measured.
    """
    run_length: Annotated[int, UNLESS_ZERO] = Field(default=0, ge=100, le=1000000000)
    """Number of rows A in place of `alpha`: without drift, the first alarm of an epoch comes within T rows with a
    probability of at most T/A. 0, the default, takes `alpha`.
    """
    patient_window_days: Annotated[int, UNLESS_ZERO] = Field(default=0, ge=1, le=36500)
    """Days after which a patient may enter the evidence again, and is then assumed to be independent of the earlier
    observation; 0, the default, for never. Days are those of `acquire_time` in UTC, or of the arrival where it is
    unknown.
    """
    seed: int = Field(default=0, ge=0, le=9223372036854775807)
    """Seed of all draws."""
    window_rows: Annotated[int, unset_means(100)] = Field(default=100, ge=16, le=5000)
    """Rows of a window, whose MMD² to the reference is computed."""
    max_silence_hours: Annotated[int, UNLESS_ZERO] = Field(default=0, ge=1, le=8760)
    """Hours without an observation after which the alert VfmalignMonitorSilent fires; 0, the default, for never."""
    title: str = ""
    """Title of the report; empty means the monitor's id. It must not identify a patient."""
    first_patients: Annotated[int, UNLESS_ZERO] = Field(default=0, ge=20, le=500)
    """Patients whose rows, the first of the monitor, are compared with the reference at once when they are complete; 0,
    the default, for no such test. It finds a stream that differs from its first row on, which the other components find
    late or never. Labels are permuted within strata. The test spends 0.1 of `alpha`, which the other components then
    lack; it needs an `alpha` of at least 0.001 and excludes `run_length`.
    """


class FeatureOrigin(ApiMessage):
    """What produced features. Those of another origin cannot be compared."""

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
    """Natural logarithm of its statistic; absent where the statistic is 0."""
    log_threshold: float
    """Natural logarithm of the threshold."""


class EvidencePeak(ApiMessage):
    """The evidence of an epoch that was nearest to its threshold, or farthest above it."""

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
    """Components whose evidence had reached the threshold."""
    raise_time: Time
    """When it was raised."""
    acknowledge_time: Time | None = None
    """When it was acknowledged; absent if it was not."""
    acknowledged_by: str = ""
    """Who acknowledged it: issuer and subject of the caller's token; empty without authentication."""
    note: str = ""
    """What they wrote."""


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
    """Rows that entered."""
    alarm: MonitorAlarm | None = None
    """Its first alarm; absent if there was none."""


class WindowedShift(ApiMessage):
    """MMD² of the last rows to the reference."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.WindowedShift

    layer: str
    """The layer."""
    stratum: str = ""
    """Stratum of the rows; empty for all."""
    first_row: int = 0
    """Numbers of the first row in the epoch, from 1."""
    last_row: int = 0
    """Number of the last row."""
    rows: int = 0
    """Rows of the window."""
    reference_rows: int = 0
    """Rows of the reference."""
    mmd2: Estimate = Estimate()
    """MMD² of standardised features, with its interval."""
    p_value: Estimate = Estimate()
    """p-value of a permutation test; descriptive, as windows are looked at many times."""
    compute_time: Time | None = None
    """When it was computed."""


class ChannelShift(ApiMessage):
    """How far the mean of a channel has moved."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.ChannelShift

    channel: int = 0
    """Index of the channel, from 0."""
    shift_sd: float = 0.0
    """Mean of the window's rows minus that of the calibration rows, in standard deviations of the reference."""
    share: float = 0.0
    """Share of the squared shift of all channels, in [0, 1]."""


class StratumMix(ApiMessage):
    """The mix of strata beside that of the reference. It describes, and raises no alarm."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.StratumMix

    rows: dict[str, int] = Field(default_factory=dict)
    """Rows of the epoch by stratum; the empty stratum counts those of an unknown one."""
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
    """What the features of its observations must come from."""
    model_id: str
    """Id of the model of its reference."""
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
    """Observations whose acquisition was earlier than that of one before."""
    future_observations: int = 0
    """Observations whose acquisition lay in the future when they arrived, by more than 5 minutes."""
    last_observation_time: Time | None = None
    """When the last observation arrived; absent if none has."""
    last_acquire_time: Time | None = None
    """Latest time of acquisition; absent where unknown."""
    mix: StratumMix | None = None
    """Mix of strata; absent without a stratum."""
    windowed_shifts: tuple[WindowedShift, ...] = ()
    """MMD² of the last window by layer, and by stratum; empty before there is one, and in lists."""
    channel_shifts: tuple[ChannelShift, ...] = ()
    """Channels with the largest shares of the shift of the last window; empty in lists."""
    earlier_epochs: tuple[MonitorEpoch, ...] = ()
    """Epochs that have ended, newest first; empty in lists."""
    create_time: Time
    """When it was created."""
    peak: EvidencePeak | None = None
    """Highest evidence of the current epoch beside its threshold; absent before a row has entered."""


class FeatureSetRows(ApiMessage):
    """Rows of a stored feature set, as observations whose ids are the ids of its cases."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.FeatureSetRows

    feature_set_id: Id
    """Id of the feature set."""
    manifest_sha256: OptionalSha256 = ""
    """SHA-256 of its manifest, hex; empty accepts the stored one. FAILED_PRECONDITION where the stored one is another.
    """
    start: int = Field(default=0, ge=0, le=100000000)
    """First row, from 0. At the number of rows of the set, there is nothing to observe, and the answer is empty."""
    rows: Annotated[int, unset_means(1000)] = Field(default=1000, ge=1, le=1000)
    """Number of rows; fewer at the end of the set."""


class ObservationResult(ApiMessage):
    """What one observation did."""

    PROTO: ClassVar[type[Message]] = monitoring_pb2.ObservationResult

    observation_id: str
    """Its id."""
    outcome: ObservationOutcome
    """What became of it; of a duplicate, when it was first recorded."""
    duplicate: bool = False
    """Whether it was recorded before."""
    row: int = 0
    """Number of its row in the epoch, from 1; 0 if it did not enter."""
    epoch: int = 0
    """Number of the epoch."""
    p_value: float | None = None
    """p-value of the row among the calibration and earlier rows; absent if it did not enter."""
    late: bool = False
    """Whether its acquisition was earlier than that of an observation before."""
    raised_alarm: bool = False
    """Whether it raised the alarm of its epoch."""
