"""Tables of monitors.

The observations are a log: the state of a monitor is computed from a snapshot and the later observations. Features are
in a separate table, because features are deleted earlier than the other data of observations.
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
        state: `active`, `paused` or `deleting`. While the rows of a monitor are deleted, its state is `deleting`, and
            all other calls ignore the monitor.
        uid: random id of this monitor. A deleted monitor with the same id had a different uid.
        spec: `MonitorSpec` with defaults filled in.
        origin: `FeatureOrigin` of its observations.
        model_id: model of the reference.
        layers: maps each layer to its number of channels. The first layer raises the alarm.
        epoch: number of the current epoch.
        sequence: number of the last observation.
        snapshot, earlier_snapshot: the last two snapshots of the state; see `service.snapshots.Snapshot`.
        status: summary of the state; see `service.status.describe_status`.
        counts: number of observations per outcome, number of late observations, and number of future observations.
        last_observed_at: time when the last observation arrived.
        last_acquired_at: latest time of acquisition of all observations, except for times in the future.
        lag_s: seconds from acquisition to arrival of the last observation; None if unknown.
        resumed_at: time when the monitor was last resumed.
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

    @classmethod
    def has_model(cls, model_id: str) -> sa.ColumnElement[bool]:
        """Returns the SQL condition that selects the monitors whose reference was computed by a model."""
        return cls.model_id == model_id


class _PartRow(TenantRow):
    """A row that belongs to a monitor and is deleted with it."""

    __abstract__ = True
    metadata = METADATA

    monitor_id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[sa.schema.SchemaItem, ...]:
        """Foreign key to the monitor."""
        return (belongs_to("monitors", "monitor_id"),)


class EpochRow(_PartRow):
    """One epoch of a monitor.

    Attributes:
        start: why it began.
        rows: number of rows that the evidence includes. For the current epoch, see `MonitorRow.status`.
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
    """One observation and its effect on the evidence.

    Attributes:
        sequence: number of the observation in the order of arrival, starting at 1.
        content_digest: digest of the content of the observation.
        row: number of the row in the epoch, starting at 1; 0 if the evidence does not include the row.
        late, future: `late` if an observation with a lower number was acquired later. `future` if the time of
            acquisition is after the time of arrival.
        log_rows, log_blocks_4, log_blocks_16, log_channels: natural logarithm of each statistic after this observation;
            None if the statistic is 0.
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
        """Keys. Each id is recorded once. The index finds points of the evidence by their row."""
        name = cls.__tablename__
        return (
            belongs_to("monitors", "monitor_id"),
            sa.UniqueConstraint("tenant", "monitor_id", "observation_id", name=f"uq_{name}_id"),
            sa.Index(f"ix_{name}_row", "tenant", "monitor_id", "epoch", "row"),
        )


class InputRow(_PartRow):
    """Input of an observation. The input is kept as long as a restart or a window may need it.

    Attributes:
        patient: group of the observation.
        day: day as a number, as `Monitor.observe` expects it.
        features: features in the format safetensors, with one array (C) per layer that the monitor observes.
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
    """MMD² of the window that ends at a row of an epoch.

    Attributes:
        shifts: one `WindowedShift` per layer and stratum, as JSON.
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
"""Tables for recording observations without ORM objects. Such statements must name the tenant themselves."""
