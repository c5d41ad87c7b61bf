"""Settings of the monitoring service; `--help` lists them all."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, field_validator

from vfmalign.core.runtime.settings import ServiceClientSettings, ServiceSettings
from vfmalign.database.settings import DatabaseSettings, LeaseSettings


class QuotaSettings(BaseModel, frozen=True):
    """`VFMALIGN_QUOTA__*`: what a tenant may have."""

    monitors: int = Field(
        default=50, ge=1, le=10_000, description="monitors of a tenant; each adds about 20 series to the metrics"
    )


class MonitoringOptions(BaseModel, frozen=True):
    """`VFMALIGN_MONITORING__*`: evidence, windows and retention."""

    memory_bytes: int = Field(
        default=2 * 2**30,
        ge=2**24,
        le=2**40,
        description="memory for the states of monitors, in bytes; those that were used least recently are dropped and "
        "read again when they are needed",
    )
    snapshot_rows: int = Field(
        default=500,
        ge=1,
        le=20_000,
        description="observations after which the state of a monitor is stored; a restart repeats those after it",
    )
    poll_s: float = Field(
        default=2.0, gt=0.0, le=60.0, description="seconds between two rounds of the leader, and of watching calls"
    )
    window_timeout_s: float = Field(
        default=120.0, gt=0.0, le=3600.0, description="seconds within which the MMD service must compare a window"
    )
    kept_windows: int = Field(
        default=10,
        ge=1,
        le=1_000,
        description="windows' worth of the last rows whose features are kept; older features are deleted once two "
        "snapshots hold what they did",
    )


class MonitoringSettings(ServiceSettings, ServiceClientSettings):
    """Settings that the monitoring service reads from its environment."""

    mmd_address: str = Field(
        default="", description="host:port of the MMD service; without it, no windowed MMD² is computed"
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

    @field_validator("state_dir")
    @classmethod
    def _expanded(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def database_url(self) -> str:
        """The database's URL."""
        return self.database.get_url(self.state_dir / "monitoring.db")
