"""Settings of the monitoring service; `--help` lists them all."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, field_validator

from vfmalign.core.runtime.settings import ServiceClientSettings, ServiceSettings
from vfmalign.database.settings import DatabaseSettings, LeaseSettings


class QuotaSettings(BaseModel, frozen=True):
    """`VFMALIGN_QUOTA__*`: limits of each tenant."""

    monitors: int = Field(
        default=50, ge=1, le=10_000, description="maximum monitors per tenant. Each monitor adds about 20 metric series"
    )


class MonitoringOptions(BaseModel, frozen=True):
    """`VFMALIGN_MONITORING__*`: evidence, windows and retention."""

    memory_bytes: int = Field(
        default=2 * 2**30,
        ge=2**24,
        le=2**40,
        description="memory for the cached states of monitors, in bytes. The least recently used states are evicted "
        "and read again when they are needed",
    )
    snapshot_rows: int = Field(
        default=500,
        ge=1,
        le=20_000,
        description="observations after which a monitor's state is stored. A restart replays the later observations",
    )
    poll_s: float = Field(
        default=2.0, gt=0.0, le=60.0, description="polling interval of the leader and of watching calls, in seconds"
    )
    window_timeout_s: float = Field(
        default=120.0, gt=0.0, le=3600.0, description="seconds to wait for the MMD service to compare a window"
    )
    kept_windows: int = Field(
        default=10,
        ge=1,
        le=1_000,
        description="number of recent windows for which features are kept. The service deletes older features once "
        "they are part of two stored states",
    )


class RetentionSettings(BaseModel, frozen=True):
    """`VFMALIGN_RETENTION__*` of the monitoring service."""

    observations_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="age in days at which the rows of observations are deleted. If not set, the rows are kept",
    )


class MonitoringSettings(ServiceSettings, ServiceClientSettings):
    """Settings that the monitoring service reads from its environment."""

    mmd_address: str = Field(
        default="", description="host:port of the MMD service. If not set, MMD² of windows is not computed"
    )
    state_dir: Path = Field(
        default=Path("~/.local/state/vfmalign"),
        validate_default=True,
        description="folder for the SQLite database; ~ is the home directory",
    )
    database: DatabaseSettings = DatabaseSettings()
    lease: LeaseSettings = LeaseSettings()
    quota: QuotaSettings = QuotaSettings()
    monitoring: MonitoringOptions = MonitoringOptions()
    retention: RetentionSettings = RetentionSettings()

    @field_validator("state_dir")
    @classmethod
    def _expanded(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def database_url(self) -> str:
        """The database's URL."""
        return self.database.get_url(self.state_dir / "monitoring.db")
