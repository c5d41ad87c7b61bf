"""Settings of the finetuning service; `--help` lists them all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from vfmalign.core.runtime.settings import ServerSettings, ServiceClientSettings, ServiceSettings
from vfmalign.database.settings import DatabaseSettings, LeaseSettings

_NAME_OR_EMPTY = r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$"


class LauncherSettings(BaseModel, frozen=True):
    """`VFMALIGN_LAUNCHER__*`: how, where and how many training processes run."""

    kind: Literal["local", "kubernetes"] = Field(
        default="local", description="where jobs run: local, as subprocesses of this machine; kubernetes, as its Jobs"
    )
    command: tuple[str, ...] = Field(
        default=(),
        description="local: program and arguments of a job as a JSON list, to which the spec's URI is appended; empty "
        "runs vfmalign.training with this interpreter",
    )
    namespace: str = Field(
        default="",
        pattern=_NAME_OR_EMPTY,
        description="kubernetes: namespace of the Jobs; empty takes the one that this service runs in",
    )
    pod_template: str = Field(
        default="vfmalign-training",
        pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$",
        description="kubernetes: PodTemplate that every job's pods are made of, read at each launch",
    )
    queue: str = Field(
        default="",
        pattern=_NAME_OR_EMPTY,
        description="kubernetes: Kueue LocalQueue that admits the Jobs; empty for none",
    )
    active_deadline_s: int = Field(
        default=604_800,
        ge=1,
        description="kubernetes: seconds that one attempt of a job may take; past it the job fails",
    )
    ttl_s: int = Field(
        default=86_400, ge=0, description="kubernetes: seconds that a Job that has ended is kept to be looked at"
    )
    nodes: int = Field(default=1, ge=1, le=1_000, description="kubernetes: pods of a job, which train it together")
    processes_per_node: int = Field(
        default=1, ge=1, le=64, description="kubernetes: training processes in a pod: the number of its GPUs"
    )
    max_running: int = Field(
        default=1,
        ge=1,
        le=1_000,
        description="jobs of all tenants that run at once; a free place goes to the tenant with the fewest",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="failures of the training itself, without progress in between, after which a job is given up",
    )
    max_interruptions: int = Field(
        default=20,
        ge=1,
        le=10_000,
        description="interruptions from outside (kills, drained or lost nodes), without progress in between, after "
        "which a job is given up",
    )
    retry_delay_s: float = Field(
        default=5.0, ge=0.0, le=3600.0, description="seconds before the second attempt; doubled for each further one"
    )
    longest_retry_delay_s: float = Field(
        default=300.0, ge=0.0, le=86_400.0, description="longest pause in seconds between two attempts"
    )
    stop_grace_s: float = Field(
        default=60.0, ge=0.0, le=3600.0, description="seconds a stopped job gets to write its checkpoint"
    )
    stop_jobs: bool | None = Field(
        default=None,
        description="whether running jobs stop with the service and resume at its next start; without it those of this "
        "machine do, and those of a cluster go on",
    )

    @property
    def stops_jobs(self) -> bool:
        """Whether running jobs stop with the service."""
        return self.kind == "local" if self.stop_jobs is None else self.stop_jobs


class ReconcilerSettings(BaseModel, frozen=True):
    """`VFMALIGN_RECONCILER__*`: polling intervals and limits of the orchestrator."""

    poll_s: float = Field(default=0.5, gt=0.0, le=60.0, description="seconds between two rounds over jobs and checks")
    longest_wait_s: float = Field(
        default=30.0,
        gt=0.0,
        le=3600.0,
        description="longest pause in seconds before a call is tried again",
    )
    max_checks: int = Field(default=4, ge=1, le=1_000, description="checks of one tenant that run at once")


class QuotaSettings(BaseModel, frozen=True):
    """`VFMALIGN_QUOTA__*`: what one caller may have queued or running at once in a tenant; 0 for no limit.

    Jobs that a check creates, and checks that an experiment creates, do not count.
    """

    jobs: int = Field(default=200, ge=0, le=1_000_000, description="unfinished jobs of one caller; 0 for no limit")
    checks: int = Field(default=200, ge=0, le=1_000_000, description="unfinished checks of one caller; 0 for no limit")
    experiments: int = Field(
        default=20, ge=0, le=1_000_000, description="unfinished experiments of one caller; 0 for no limit"
    )


class FinetuningServerSettings(ServerSettings, frozen=True):
    """`VFMALIGN_SERVER__*` of the finetuning service, whose requests are small."""

    max_message_bytes: int = Field(default=2**18, ge=2**16, le=2**30, description="largest accepted message, in bytes")


class FinetuningSettings(ServiceSettings, ServiceClientSettings):
    """Settings that the finetuning service reads from its environment."""

    server: FinetuningServerSettings = FinetuningServerSettings()

    features_address: str = Field(min_length=1, description="host:port of the feature service")
    mmd_address: str = Field(min_length=1, description="host:port of the MMD service")
    state_dir: Path = Field(
        default=Path("~/.local/state/vfmalign"),
        validate_default=True,
        description="folder for job logs and the SQLite database; ~ is the home directory",
    )
    database: DatabaseSettings = DatabaseSettings()
    lease: LeaseSettings = LeaseSettings()
    launcher: LauncherSettings = LauncherSettings()
    reconciler: ReconcilerSettings = ReconcilerSettings()
    quota: QuotaSettings = QuotaSettings()

    @field_validator("state_dir")
    @classmethod
    def _expanded(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def job_command(self) -> tuple[str, ...]:
        """Program and arguments of a job, without the spec's URI."""
        return self.launcher.command or (sys.executable, "-m", "vfmalign.training")

    @property
    def database_url(self) -> str:
        """The database's URL."""
        return self.database.get_url(self.state_dir / "finetuning.db")
