"""Tables of training jobs and of their attempts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from vfmalign.database.tables import LifecycleRow, TenantRow, belongs_to


class JobRow(LifecycleRow):
    """One job; see `jobs.repository.StoredJob` for the fields."""

    __tablename__ = "jobs"

    check_id: Mapped[str] = mapped_column(sa.String(128), default="")
    request_id: Mapped[str] = mapped_column(sa.String(64), default="")
    spec: Mapped[dict[str, Any]]
    baseline: Mapped[str] = mapped_column(sa.String(64), default="", index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    interruptions: Mapped[int] = mapped_column(default=0)
    outages: Mapped[int] = mapped_column(default=0)
    checkpoint_step: Mapped[int] = mapped_column(default=-1)
    not_before: Mapped[datetime | None]
    handle: Mapped[dict[str, Any] | None]
    curve: Mapped[list[Any]] = mapped_column(sa.JSON, default=list)
    exit_code: Mapped[int | None]
    result: Mapped[dict[str, Any] | None]


class AttemptRow(TenantRow):
    """One attempt of a job. The rows of a job show how often it ran."""

    __tablename__ = "job_attempts"
    __table_args__ = (belongs_to("jobs", "job_id"),)

    job_id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    exit_code: Mapped[int | None]
    outcome: Mapped[str] = mapped_column(sa.String(16))
