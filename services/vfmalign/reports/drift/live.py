"""What the page of a monitor of the service shows beside its evidence: state, acknowledgement, times and epochs."""

from __future__ import annotations

from datetime import datetime

from vfmalign.client.messages.monitors import EpochStart, MonitorState
from vfmalign.core.domain.record import Record


class Acknowledgement(Record):
    """That somebody has seen an alarm, and what they wrote; the page does not say who."""

    time: datetime
    note: str = ""


class EarlierEpoch(Record):
    """An epoch that has ended.

    Attributes:
        number: from 1.
        start: why it began.
        has_guarantee: whether the bound covers its alarm.
        reference: id of its reference.
        start_time: when it began.
        rows: that entered.
        alarm_row: number of the row of its first alarm; None if there was none.
        alarm_time: when it was raised.
        acknowledged: None if nobody has.
    """

    number: int
    start: EpochStart
    has_guarantee: bool
    reference: str
    start_time: datetime
    rows: int
    alarm_row: int | None = None
    alarm_time: datetime | None = None
    acknowledged: Acknowledgement | None = None


class LiveMonitor(Record):
    """A monitor of the service.

    Attributes:
        monitor_id: its id.
        model_id: the model whose features it watches.
        state: whether observations enter the evidence.
        write_time: when the document was written.
        create_time: when the monitor was created.
        reference_sha256: digest of the manifest of the current epoch's reference.
        epoch_start: why the current epoch began.
        epoch_start_time: when it began.
        first_row_time: when its first row arrived; None where unknown.
        last_observation_time: when the last observation arrived, of all epochs; None if none has.
        last_acquire_time: the latest acquisition; None where unknown.
        late_observations: number of those whose acquisition was earlier than that of one before.
        future_observations: number of those whose acquisition lay in the future when they arrived.
        max_silence_hours: hours without an observation that are too many; None for any number.
        window_time: when the last window was compared; None before there is one.
        earlier_epochs: newest first.
    """

    monitor_id: str
    model_id: str
    state: MonitorState
    write_time: datetime
    create_time: datetime
    reference_sha256: str
    epoch_start: EpochStart
    epoch_start_time: datetime
    first_row_time: datetime | None = None
    last_observation_time: datetime | None = None
    last_acquire_time: datetime | None = None
    late_observations: int = 0
    future_observations: int = 0
    max_silence_hours: int | None = None
    window_time: datetime | None = None
    earlier_epochs: tuple[EarlierEpoch, ...] = ()

    @property
    def is_silent(self) -> bool:
        """Whether an active monitor has had no observation for more hours than may pass."""
        if self.max_silence_hours is None or self.state == "paused":
            return False
        silence = self.write_time - (self.last_observation_time or self.create_time)
        return silence.total_seconds() > 3600 * self.max_silence_hours
