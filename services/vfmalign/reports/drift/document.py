"""Document about the state of a monitor. The monitor's page, table and JSON are made from this document.

Its size does not grow with the stream: evidence is thinned, and windows, extreme rows and channels are limited.
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
        log_evidence: natural logarithm of the statistic that raises the alarm; for channels, of the largest statistic.
            None before the first value.
        log_threshold: natural logarithm of the threshold of the alarm.
    """

    component: Component
    log_evidence: float | None
    log_threshold: float

    @property
    def is_reached(self) -> bool:
        """Whether the evidence is at or above its threshold now. It may fall below the threshold after an alarm."""
        return self.log_evidence is not None and self.log_evidence >= self.log_threshold


class EvidencePoint(Record):
    """Evidence after one row.

    Attributes:
        row: number of the row in the epoch, from 1.
        log_evidence: natural logarithm of the evidence by component, in the order of `DriftDocument.components`,
            without the component `first_patients`.
        time: when the row arrived; None if unknown.
    """

    row: int = Field(ge=1)
    log_evidence: tuple[float | None, ...]
    time: datetime | None = None


class Peak(Record):
    """Peak evidence of the epoch, relative to the threshold.

    Attributes:
        row: number of the row in the epoch, from 1.
        log_evidence: natural logarithm of the component's statistic.
    """

    row: int
    component: Component
    log_evidence: float


class AlarmRecord(Record):
    """The first alarm of the epoch.

    Attributes:
        row: number of the row in the epoch, from 1.
        observation: id of the row's observation.
        components: components that had reached their thresholds.
        time: when the row arrived; None if unknown.
        acknowledged: acknowledgement of the alarm; None if the alarm is not acknowledged, or for a stream without a
            service.
    """

    row: int
    observation: str
    components: tuple[Component, ...]
    time: datetime | None = None
    acknowledged: Acknowledgement | None = None


class StratumRows(Record):
    """Number of calibration rows and of the epoch's rows in one stratum. An empty name means an unknown stratum."""

    name: str
    reference: int
    stream: int


class StratumMix(Record):
    """The mix of strata. It is descriptive and raises no alarm.

    Attributes:
        kind: kind of the strata, such as `scanner`.
        strata: calibration rows of the reference and rows of the stream, by stratum.
    """

    kind: str
    strata: tuple[StratumRows, ...]


class Window(Record):
    """MMD² between a window of the stream's rows and the reference. It is descriptive: α does not cover it.

    Attributes:
        layer: name of the layer; empty for an array without layers.
        stratum: stratum of all rows of both samples; empty for all strata.
        first_row, last_row: numbers of the first and last row in the epoch.
        rows: number of rows of the stream.
        reference_rows: number of rows of the reference.
        mmd2: unbiased estimate with its interval.
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
    """A row far from the reference, with its p-value among the previous rows."""

    row: int
    observation: str
    p_value: float


class ChannelShift(Record):
    """Shift of a channel's mean in SD of the reference, and the channel's share of the squared shift, in [0, 1]."""

    channel: int
    shift_sd: float
    share: float


class DriftDocument(Record):
    """State of a monitor.

    Attributes:
        title: name of the stream.
        reference: name of the reference.
        layer: layer that raises the alarm; empty for an array without layers.
        reference_rows: number of patients of the reference, each with one row; 0 if unknown.
        channels: number of channels of the layer.
        alpha: largest probability of ever raising an alarm without drift; None with `run_length`.
        run_length: number of rows A: without drift, an alarm within T rows has a probability of at most T/A; None with
            `alpha`.
        patient_window_days: days after which a patient may enter again; None for never.
        first_patients: number of first rows that are compared with the reference in one test; None for no such test.
        seed: seed of all random draws.
        epoch: number of the epoch, from 1.
        has_guarantee: whether the bound on false alarms covers the alarm of this epoch.
        outcomes: number of observations by outcome.
        rows: number of rows of the epoch that entered the evidence.
        blocks_are_active: whether blocks of rows still add evidence.
        alarm: first alarm of the epoch; None if there is none.
        components: current evidence and threshold.
        history: evidence at no more than `MAX_POINTS` moments.
        peak: peak evidence of the epoch; None before the first evidence.
        mix: mix of strata; None without strata.
        window_rows: rows of a window; 0 for no windows.
        windows: windows of all rows over time, then of the last rows by stratum.
        moved_rows: how many of the last rows are in the comparison of channels.
        notes: assumptions and limits, one sentence each.
        monitor: monitor of the service; None for a stream without a service.
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
        """The component with the strongest evidence relative to its threshold."""
        return max(self.components, key=_get_excess)


def _get_excess(one: ComponentEvidence) -> float:
    return -float("inf") if one.log_evidence is None else one.log_evidence - one.log_threshold
