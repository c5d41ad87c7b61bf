"""Records about a monitor of the service, in addition to its evidence: state, acknowledgement, times and epochs."""

from __future__ import annotations

from datetime import datetime

from vfmalign.client.messages.monitors import EpochStart, MonitorState
from vfmalign.core.domain.record import Record


class Acknowledgement(Record):
    """Acknowledgement of an alarm, with its note. The record does not name the person."""

    time: datetime
    note: str = ""


class EarlierEpoch(Record):
    """An epoch that has ended.

    Attributes:
        number: number of the epoch, from 1.
        start: why it began.
        has_guarantee: whether the bound covers the alarm of this epoch.
        reference: id of its reference.
        start_time: when it began.
        rows: number of rows that entered.
        alarm_row: number of the row that raised the first alarm of the epoch; None if there was no alarm.
        alarm_time: when the alarm was raised.
        acknowledged: acknowledgement of the alarm; None if there is none.
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
        model_id: model that computes the features.
        state: whether observations enter the evidence.
        write_time: when the document was written.
        create_time: when the monitor was created.
        reference_sha256: digest of the manifest of the current epoch's reference.
        epoch_start: why the current epoch began.
        epoch_start_time: when it began.
        first_row_time: when the first row of the current epoch arrived; None if unknown.
        last_observation_time: when the last observation of any epoch arrived; None if there is none.
        last_acquire_time: the latest time of acquisition; None if unknown.
        late_observations: number of observations that were acquired earlier than an observation that had already
            arrived.
        future_observations: number of observations with a time of acquisition after their arrival.
        max_silence_hours: longest acceptable time without an observation, in hours; None for no limit.
        window_time: when the last window was compared; None before the first window.
        earlier_epochs: earlier epochs, newest first.
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
        """Whether an active monitor has had no observation for longer than `max_silence_hours`."""
        if self.max_silence_hours is None or self.state == "paused":
            return False
        silence = self.write_time - (self.last_observation_time or self.create_time)
        return silence.total_seconds() > 3600 * self.max_silence_hours
