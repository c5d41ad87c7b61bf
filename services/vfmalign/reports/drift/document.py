"""Document that describes the state of a monitor.

The page, the table and the JSON output of the monitor are created from this document.

The size of the document does not grow with the stream. The history of the evidence is thinned, and the numbers of
windows, extreme rows and channels are limited.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from vfmalign.client.messages.common import Estimate
from vfmalign.core.domain.record import Record
from vfmalign.reports.drift.live import Acknowledgement, LiveMonitor

MAX_POINTS = 1000
"""Largest number of moments in the history."""

Component = Literal["rows", "blocks_of_4", "blocks_of_16", "channels", "first_patients"]
COMPONENT_LABELS: dict[Component, str] = {
    "rows": "rows",
    "blocks_of_4": "blocks of 4",
    "blocks_of_16": "blocks of 16",
    "channels": "channels",
    "first_patients": "first patients",
}


class ComponentEvidence(Record):
    """Evidence of one component.

    Attributes:
        log_evidence: natural logarithm of the statistic that raises the alarm. For channels, the value is that of the
            largest statistic. None before the first value.
        log_threshold: natural logarithm of the threshold of the alarm.
    """

    component: Component
    log_evidence: float | None
    log_threshold: float

    @property
    def is_reached(self) -> bool:
        """Whether the evidence is at or above its threshold now.

        After an alarm, the evidence may fall below its threshold.
        """
        return self.log_evidence is not None and self.log_evidence >= self.log_threshold


class EvidencePoint(Record):
    """Evidence after one row.

    Attributes:
        row: number of the row in the epoch, starting at 1.
        log_evidence: natural logarithm of the evidence of each component except `first_patients`, in the order of
            `DriftDocument.components`.
        time: time when the row arrived; None if unknown.
    """

    row: int = Field(ge=1)
    log_evidence: tuple[float | None, ...]
    time: datetime | None = None


class Peak(Record):
    """Peak evidence of the epoch, relative to the threshold.

    Attributes:
        row: number of the row in the epoch, starting at 1.
        log_evidence: natural logarithm of the component's statistic.
    """

    row: int
    component: Component
    log_evidence: float


class AlarmRecord(Record):
    """The first alarm of the epoch.

    Attributes:
        row: number of the row in the epoch, starting at 1.
        observation: id of the row's observation.
        components: components whose evidence had reached their threshold.
        time: time when the row arrived; None if unknown.
        acknowledged: acknowledgement of the alarm; None if the alarm is not acknowledged, or if the monitor runs
            without a service.
    """

    row: int
    observation: str
    components: tuple[Component, ...]
    time: datetime | None = None
    acknowledged: Acknowledgement | None = None


class StratumRows(Record):
    """Number of calibration rows and number of rows of the epoch in one stratum.

    The name of an unknown stratum is empty.
    """

    name: str
    reference: int
    stream: int


class StratumMix(Record):
    """The mix of strata. The mix is only descriptive and does not raise an alarm.

    Attributes:
        kind: name of the stratum, such as `scanner`.
        strata: numbers of calibration rows and of rows of the stream, for each stratum.
    """

    kind: str
    strata: tuple[StratumRows, ...]


class Window(Record):
    """MMD² between a window of rows of the stream and the reference.

    This MMD² is descriptive only: α does not cover it.

    Attributes:
        layer: name of the layer; empty if the features have no named layers.
        stratum: stratum of all rows in both samples; empty if the samples contain all strata.
        first_row, last_row: numbers of the first and the last row of the window in the epoch.
        rows: number of rows in the sample of the stream.
        reference_rows: number of rows in the sample of the reference.
        mmd2: unbiased estimate of MMD² with its interval.
        p_value: p-value of the permutation test, not adjusted for other windows, layers and strata.
    """

    layer: str
    stratum: str = ""
    first_row: int
    last_row: int
    rows: int
    reference_rows: int
    mmd2: Estimate
    p_value: Estimate


class ExtremeRow(Record):
    """A row that is far from the reference, with its p-value among earlier rows."""

    row: int
    observation: str
    p_value: float


class ChannelShift(Record):
    """Shift of a channel's mean in SD of the reference, and the channel's share [0, 1] of the squared shift."""

    channel: int
    shift_sd: float
    share: float


class DriftDocument(Record):
    """State of a monitor.

    Attributes:
        title: name of the stream.
        reference: name of the reference.
        layer: layer that raises the alarm; empty if the features have no named layers.
        reference_rows: number of rows of the reference, which has one row per patient; 0 if unknown.
        channels: number of channels of the layer.
        alpha: maximum probability that the monitor ever raises an alarm without drift; None if `run_length` is set.
        run_length: number of rows A; None if `alpha` is set. Without drift, the probability of an alarm within T rows
            is at most T/A.
        patient_window_days: number of days after which the evidence may include the same patient again; None for never.
        first_patients: number of first rows that one test compares with the reference; None if there is no such test.
        seed: seed of all random numbers.
        epoch: number of the epoch, starting at 1.
        has_guarantee: whether the bound on false alarms covers this epoch.
        outcomes: maps each outcome to its number of observations.
        rows: number of rows of the epoch that the evidence includes.
        blocks_are_active: whether blocks of rows are still scored.
        alarm: first alarm of the epoch; None if there is no alarm.
        components: current evidence and threshold.
        history: evidence at `MAX_POINTS` moments or fewer.
        peak: peak evidence of the epoch; None if there is no evidence yet.
        mix: mix of strata; None if the monitor has no strata.
        window_rows: number of rows in a window; 0 if there are no windows.
        windows: windows of all strata in the order of time, followed by the last window of each stratum.
        moved_rows: number of rows that the comparison of channels uses, counted back from the last row.
        notes: assumptions and limits, one sentence each.
        monitor: monitor of the service; None if the monitor runs without a service.
    """

    version: Literal[2] = 2
    title: str
    reference: str
    layer: str
    reference_rows: int
    channels: int
    alpha: float | None
    run_length: int | None = None
    patient_window_days: int | None = None
    first_patients: int | None = None
    seed: int
    epoch: int = 1
    has_guarantee: bool = True
    outcomes: dict[str, int]
    rows: int
    blocks_are_active: bool = True
    alarm: AlarmRecord | None = None
    components: tuple[ComponentEvidence, ...]
    history: tuple[EvidencePoint, ...] = Field(default=(), max_length=MAX_POINTS + 3)
    peak: Peak | None = None
    mix: StratumMix | None = None
    window_rows: int = 0
    windows: tuple[Window, ...] = ()
    extreme_rows: tuple[ExtremeRow, ...] = ()
    moved_rows: int = 0
    channel_shifts: tuple[ChannelShift, ...] = ()
    notes: tuple[str, ...] = ()
    monitor: LiveMonitor | None = None

    @property
    def strongest(self) -> ComponentEvidence:
        """The component whose evidence is highest relative to its threshold."""
        return max(self.components, key=_get_excess)


def _get_excess(one: ComponentEvidence) -> float:
    return -float("inf") if one.log_evidence is None else one.log_evidence - one.log_threshold
