"""Tables of monitors.

The observations are the log: the state of a monitor is that of its snapshot, after the observations that follow it.
Features are kept apart from them, because they are deleted sooner.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from vfmalign.database.tables import OwnedRow, TenantRow, belongs_to

METADATA = sa.MetaData()
"""The tables of this service."""


class MonitorRow(OwnedRow):
    """One monitor.

    Attributes:
        state: `active` or `paused`, or `deleting` while its parts are deleted, which nothing else sees.
        uid: random; another monitor of the same id, after the first was deleted, has another one.
        spec: `MonitorSpec` with defaults filled in.
        origin: `FeatureOrigin` of its observations.
        model_id: model of the reference.
        layers: number of channels by layer; the first raises the alarm.
        epoch: number of the current epoch.
        sequence: number of the last observation.
        snapshot, earlier_snapshot: the last two snapshots of the state; see `service.snapshots.Snapshot`.
        status: what the state shows of itself; see `service.status.describe_status`.
        counts: observations by outcome, and late and future ones.
        last_observed_at: when the last observation arrived.
        last_acquired_at: latest time of acquisition that did not lie in the future.
        lag_s: seconds from acquisition to arrival of the last observation; None where unknown.
        resumed_at: when it was last resumed.
    """

    __tablename__ = "monitors"
    metadata = METADATA

    uid: Mapped[str] = mapped_column(sa.String(32))
    spec: Mapped[dict[str, Any]]
    origin: Mapped[dict[str, Any]]
    model_id: Mapped[str] = mapped_column(sa.String(128))
    layers: Mapped[dict[str, Any]]
    epoch: Mapped[int]
    sequence: Mapped[int] = mapped_column(sa.BigInteger)
    snapshot: Mapped[dict[str, Any]]
    earlier_snapshot: Mapped[dict[str, Any] | None]
    status: Mapped[dict[str, Any]]
    counts: Mapped[dict[str, Any]]
    last_observed_at: Mapped[datetime | None]
    last_acquired_at: Mapped[datetime | None]
    lag_s: Mapped[float | None] = mapped_column(sa.Double)
    resumed_at: Mapped[datetime | None]


class _PartRow(TenantRow):
    """A row that belongs to a monitor, and is deleted with it."""

    __abstract__ = True
    metadata = METADATA

    monitor_id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[sa.schema.SchemaItem, ...]:
        """The monitor that it belongs to."""
        return (belongs_to("monitors", "monitor_id"),)


class EpochRow(_PartRow):
    """One epoch of a monitor.

    Attributes:
        start: why it began.
        rows: that entered; of the current epoch, `MonitorRow.status` has their number.
        alarm: `MonitorAlarm` as JSON.
    """

    __tablename__ = "monitor_epochs"

    number: Mapped[int] = mapped_column(primary_key=True)
    start: Mapped[str] = mapped_column(sa.String(20))
    has_guarantee: Mapped[bool]
    feature_set_id: Mapped[str] = mapped_column(sa.String(128))
    manifest_sha256: Mapped[str] = mapped_column(sa.String(64))
    started_at: Mapped[datetime]
    rows: Mapped[int] = mapped_column(sa.BigInteger)
    alarm: Mapped[dict[str, Any] | None]


class ObservationRow(_PartRow):
    """One observation: what it did, in the order of arrival.

    Attributes:
        sequence: number in the order of arrival, from 1.
        content_digest: of everything that was observed.
        row: number of the row in the epoch, from 1; 0 if it did not enter.
        late, future: whether its acquisition was earlier than that of one before, or lay in the future.
        log_rows, log_blocks_4, log_blocks_16, log_channels: ln of the statistics after it; None where one is 0.
    """

    __tablename__ = "monitor_observations"

    sequence: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    observation_id: Mapped[str] = mapped_column(sa.String(128))
    content_digest: Mapped[str] = mapped_column(sa.String(64))
    outcome: Mapped[str] = mapped_column(sa.String(20))
    epoch: Mapped[int]
    row: Mapped[int] = mapped_column(sa.BigInteger)
    p_value: Mapped[float | None] = mapped_column(sa.Double)
    late: Mapped[bool]
    future: Mapped[bool]
    raised_alarm: Mapped[bool]
    received_at: Mapped[datetime]
    acquired_at: Mapped[datetime | None]
    log_rows: Mapped[float | None] = mapped_column(sa.Double)
    log_blocks_4: Mapped[float | None] = mapped_column(sa.Double)
    log_blocks_16: Mapped[float | None] = mapped_column(sa.Double)
    log_channels: Mapped[float | None] = mapped_column(sa.Double)

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[sa.schema.SchemaItem, ...]:
        """An id is recorded once; points of the evidence are found by their row."""
        name = cls.__tablename__
        return (
            belongs_to("monitors", "monitor_id"),
            sa.UniqueConstraint("tenant", "monitor_id", "observation_id", name=f"uq_{name}_id"),
            sa.Index(f"ix_{name}_row", "tenant", "monitor_id", "epoch", "row"),
        )


class InputRow(_PartRow):
    """What an observation consisted of, until neither a restart nor a window needs it.

    Attributes:
        patient: its group.
        day: as `Monitor.observe` takes it.
        features: safetensors of one (C) array for each layer that the monitor watches.
    """

    __tablename__ = "monitor_inputs"

    sequence: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    patient: Mapped[str] = mapped_column(sa.String(128))
    stratum: Mapped[str] = mapped_column(sa.String(64))
    day: Mapped[int]
    epoch: Mapped[int]
    row: Mapped[int] = mapped_column(sa.BigInteger)
    features: Mapped[bytes]


class WindowRow(_PartRow):
    """Windowed MMD² after a row of an epoch.

    Attributes:
        shifts: `WindowedShift` as JSON, one for each layer and stratum.
        channels: `ChannelShift` as JSON.
    """

    __tablename__ = "monitor_windows"

    epoch: Mapped[int] = mapped_column(primary_key=True)
    last_row: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    computed_at: Mapped[datetime]
    shifts: Mapped[list[Any]] = mapped_column(sa.JSON)
    channels: Mapped[list[Any]] = mapped_column(sa.JSON)


MONITORS = METADATA.tables["monitors"]
OBSERVATIONS, INPUTS = METADATA.tables["monitor_observations"], METADATA.tables["monitor_inputs"]
"""For the recording of observations, which needs no objects. Such statements name the tenant themselves."""
