"""Settings of the finetuning service; `--help` lists them all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, FilePath, field_validator

from vfmalign.core.runtime.settings import ServerSettings, ServiceClientSettings, ServiceSettings
from vfmalign.database.settings import DatabaseSettings, LeaseSettings

_NAME_OR_EMPTY = r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$"


class LauncherSettings(BaseModel, frozen=True):
    """`VFMALIGN_LAUNCHER__*`: where training processes run, how they are started, and how many run at once."""

    kind: Literal["local", "kubernetes"] = Field(
        default="local", description="where jobs run: local (subprocesses of this service) or kubernetes (Jobs)"
    )
    command: tuple[str, ...] = Field(
        default=(),
        description="local: JSON list of the program and its arguments. The URI of the job spec is appended. If the "
        "list is empty, vfmalign.training runs with this interpreter",
    )
    namespace: str = Field(
        default="",
        pattern=_NAME_OR_EMPTY,
        description="kubernetes: namespace of the Jobs; if empty, the namespace of this service",
    )
    pod_template: str = Field(
        default="vfmalign-training",
        pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$",
        description="kubernetes: name of the PodTemplate for the pods of all jobs. It is read at each launch",
    )
    queue: str = Field(
        default="",
        pattern=_NAME_OR_EMPTY,
        description="kubernetes: Kueue LocalQueue that admits the Jobs; empty for none",
    )
    active_deadline_s: int = Field(
        default=604_800,
        ge=1,
        description="kubernetes: time limit of one attempt in seconds; a job that exceeds it fails",
    )
    ttl_s: int = Field(
        default=86_400, ge=0, description="kubernetes: seconds for which an ended Job is kept for inspection"
    )
    nodes: int = Field(default=1, ge=1, le=1_000, description="kubernetes: number of pods that train one job together")
    processes_per_node: int = Field(
        default=1, ge=1, le=64, description="kubernetes: training processes per pod, one for each GPU of the pod"
    )
    max_running: int = Field(
        default=1,
        ge=1,
        le=1_000,
        description="maximum running jobs of all tenants. A free slot goes to the tenant with the fewest launched jobs",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="number of attempts that may fail without progress in between before the job fails",
    )
    max_interruptions: int = Field(
        default=20,
        ge=1,
        le=10_000,
        description="number of attempts that may be interrupted from outside (kills, drained or lost nodes) without "
        "progress in between before the job fails",
    )
    retry_delay_s: float = Field(
        default=5.0, ge=0.0, le=3600.0, description="seconds before the second attempt. The pause doubles every time"
    )
    longest_retry_delay_s: float = Field(
        default=300.0, ge=0.0, le=86_400.0, description="maximum pause between two attempts, in seconds"
    )
    stop_grace_s: float = Field(
        default=60.0, ge=0.0, le=3600.0, description="seconds in which a stopped job must write its checkpoint"
    )
    stop_jobs: bool | None = Field(
        default=None,
        description="whether running jobs stop with the service and resume when it starts again. If not set, local "
        "jobs stop and Kubernetes Jobs continue",
    )

    @property
    def stops_jobs(self) -> bool:
        """Whether running jobs stop when the service stops."""
        return self.kind == "local" if self.stop_jobs is None else self.stop_jobs


class ReconcilerSettings(BaseModel, frozen=True):
    """`VFMALIGN_RECONCILER__*`: polling intervals and limits of the orchestrator."""

    poll_s: float = Field(default=0.5, gt=0.0, le=60.0, description="seconds between two rounds over jobs and checks")
    longest_wait_s: float = Field(
        default=30.0,
        gt=0.0,
        le=3600.0,
        description="maximum pause in seconds before a failed call is repeated",
    )
    max_checks: int = Field(default=4, ge=1, le=1_000, description="maximum running checks of one tenant")


class QuotaSettings(BaseModel, frozen=True):
    """`VFMALIGN_QUOTA__*`: maximum unfinished work per caller and tenant; 0 for no limit.

    Jobs that a check creates and checks that an experiment creates are not counted.
    """

    jobs: int = Field(default=200, ge=0, le=1_000_000, description="limit of unfinished jobs per caller; 0 if none")
    checks: int = Field(default=200, ge=0, le=1_000_000, description="limit of unfinished checks per caller; 0 if none")
    experiments: int = Field(
        default=20, ge=0, le=1_000_000, description="limit of unfinished experiments per caller; 0 if none"
    )


class RetentionSettings(BaseModel, frozen=True):
    """`VFMALIGN_RETENTION__*` of the finetuning service."""

    jobs_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="days from the end of a job without a check to its deletion. If not set, jobs are kept",
    )
    checks_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="days from the end of a check or experiment to its deletion. If not set, they are kept",
    )


class SigningSettings(BaseModel, frozen=True):
    """`VFMALIGN_SIGNING__*`: the key that signs the results of checks with a declared plan."""

    key_file: FilePath | None = Field(
        default=None,
        description="PEM file of an unencrypted ECDSA P-256 private key; if not set, checks with a plan are refused",
    )


class FinetuningServerSettings(ServerSettings, frozen=True):
    """The finetuning service receives only small requests: defaults of `VFMALIGN_SERVER__*`."""

    max_message_bytes: int = Field(default=2**18, ge=2**16, le=2**30, description="largest accepted message, in bytes")


class FinetuningSettings(ServiceSettings, ServiceClientSettings):
    """Settings that the finetuning service reads from its environment."""

    server: FinetuningServerSettings = FinetuningServerSettings()

    features_address: str = Field(min_length=1, description="host:port of the feature service")
    mmd_address: str = Field(min_length=1, description="host:port of the MMD service")
    monitoring_address: str = Field(
        default="", description="host:port of the monitoring service; if not set, the leader does not probe it"
    )
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
    retention: RetentionSettings = RetentionSettings()
    signing: SigningSettings = SigningSettings()

    @field_validator("state_dir")
    @classmethod
    def _expanded(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def job_command(self) -> tuple[str, ...]:
        """Program and arguments that run a job. The URI of the job's spec is not included."""
        return self.launcher.command or (sys.executable, "-m", "vfmalign.training")

    @property
    def database_url(self) -> str:
        """The database's URL."""
        return self.database.get_url(self.state_dir / "finetuning.db")
