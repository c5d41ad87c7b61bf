"""Data about a monitor of the service that is not evidence: its state, acknowledgement, times and epochs."""

from __future__ import annotations

from datetime import datetime

from vfmalign.client.messages.monitors import EpochStart, MonitorState
from vfmalign.core.domain.record import Record


class Acknowledgement(Record):
    """Acknowledgement of an alarm, with its note. The record does not contain the name of the person."""

    time: datetime
    note: str = ""


class EarlierEpoch(Record):
    """An epoch that has ended.

    Attributes:
        number: number of the epoch, starting at 1.
        start: why it began.
        has_guarantee: whether the bound on false alarms covers this epoch.
        reference: id of its reference.
        start_time: when it began.
        rows: number of rows that the evidence includes.
        alarm_row: number of the row that raised the first alarm of the epoch; None if there was no alarm.
        alarm_time: time when the alarm was raised.
        acknowledged: acknowledgement of the alarm; None if the alarm is not acknowledged.
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
        model_id: id of the model that computes the features.
        state: state of the monitor, which decides whether the evidence includes new observations.
        write_time: time when the document was written.
        create_time: time when the monitor was created.
        reference_sha256: digest of the manifest of the reference of the current epoch.
        epoch_start: reason why the current epoch began.
        epoch_start_time: when it began.
        first_row_time: time when the first row of the current epoch arrived; None if this time is unknown.
        last_observation_time: time when the last observation of any epoch arrived; None if there was no observation.
        last_acquire_time: latest time of acquisition of all observations; None if unknown.
        late_observations: number of observations that arrived after an observation with a later time of acquisition.
        future_observations: number of observations whose time of acquisition is after their time of arrival.
        max_silence_hours: maximum acceptable time without an observation, in hours; None if there is no limit.
        window_time: time when the last window was compared; None if there was no window yet.
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
