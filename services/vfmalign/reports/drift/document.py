"""What a monitor shows: one document, from which the page, the table and the JSON are made.

It is small, whatever the length of the stream: evidence is thinned, and windows, extreme rows and channels are few.
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
        log_evidence: natural logarithm of the statistic that alarms follow from, of the channels the largest; None
            before its first cell.
        log_threshold: natural logarithm of the value that raises the alarm.
    """

    component: Component
    log_evidence: float | None
    log_threshold: float

    @property
    def is_reached(self) -> bool:
        """Whether the evidence is at its threshold now; it may fall after an alarm."""
        return self.log_evidence is not None and self.log_evidence >= self.log_threshold


class EvidencePoint(Record):
    """Evidence after one row.

    Attributes:
        row: number of the row in the epoch, from 1.
        log_evidence: natural logarithm by component, in the order of `DriftDocument.components`, without the first
            patients.
        time: when the row arrived; None where unknown.
    """

    row: int = Field(ge=1)
    log_evidence: tuple[float | None, ...]
    time: datetime | None = None


class Peak(Record):
    """The evidence of the epoch that was nearest to its threshold, or farthest above it.

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
        components: whose evidence had reached its threshold.
        time: when the row arrived; None where unknown.
        acknowledged: None if nobody has, or where there is no service.
    """

    row: int
    observation: str
    components: tuple[Component, ...]
    time: datetime | None = None
    acknowledged: Acknowledgement | None = None


class StratumRows(Record):
    """Calibration rows and rows of the epoch of one stratum; the empty name stands for an unknown one."""

    name: str
    reference: int
    stream: int


class StratumMix(Record):
    """The mix of strata, which describes and raises no alarm.

    Attributes:
        kind: what the strata are, such as `scanner`.
        strata: calibration rows of the reference and rows of the stream, by stratum.
    """

    kind: str
    strata: tuple[StratumRows, ...]


class Window(Record):
    """MMD² of some rows of the stream with the reference, which describes: α does not cover it.

    Attributes:
        layer: empty for an array without layers.
        stratum: both sides hold rows of this stratum alone; empty for all rows.
        first_row, last_row: numbers of the first and last row in the epoch.
        rows: number of rows of the stream.
        reference_rows: number of rows of the reference.
        mmd2: unbiased estimate with its interval.
        p_value: of the permutation test; it is not adjusted for other windows, layers and strata.
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
    """A row that is far from the reference, with its p-value among the rows before it."""

    row: int
    observation: str
    p_value: float


class ChannelShift(Record):
    """How far the mean of a channel moved, in SD of the reference, and its share of the squared shift in [0, 1]."""

    channel: int
    shift_sd: float
    share: float


class DriftDocument(Record):
    """State of a monitor.

    Attributes:
        title: names the stream.
        reference: names the reference.
        layer: whose features raise the alarm; empty for an array without layers.
        reference_rows: patients of the reference, each with one row; 0 where unknown.
        channels: number of channels of the layer.
        alpha: largest probability of ever raising an alarm without drift; None with `run_length`.
        run_length: number of rows A, where an alarm within T rows has a probability of at most T/A without drift; None
            with `alpha`.
        patient_window_days: days after which a patient may enter again; None for never.
        first_patients: rows that are compared with the reference at once; None for no such test.
        seed: of all draws.
        epoch: number of the epoch, from 1.
        has_guarantee: whether the bound covers the alarm.
        outcomes: number of observations by outcome.
        rows: that entered in the epoch.
        blocks_are_active: whether blocks of rows still add evidence.
        alarm: None if there is none.
        components: evidence and threshold now.
        history: at most `MAX_POINTS` moments.
        peak: the highest evidence beside its threshold; None before the first.
        mix: None without strata.
        window_rows: rows of a window; 0 for no windows.
        windows: over time, of all rows, then of the last rows by stratum.
        moved_rows: number of the last rows whose channels are compared.
        notes: assumptions and limits, each one sentence.
        monitor: of the service; None for a stream without one.
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
        """The component whose evidence is nearest to its threshold, or farthest above it."""
        return max(self.components, key=_get_excess)


def _get_excess(one: ComponentEvidence) -> float:
    return -float("inf") if one.log_evidence is None else one.log_evidence - one.log_threshold
