"""Tables of alignment checks and of the runs of their stages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from vfmalign.database.tables import LifecycleRow, TenantRow, belongs_to


class CheckRow(LifecycleRow):
    """One alignment check; see `checks.repository.StoredCheck` for the fields."""

    __tablename__ = "checks"

    stage_progress: Mapped[list[Any]] = mapped_column(sa.JSON, default=list)
    report: Mapped[dict[str, Any] | None]


class StageRow(TenantRow):
    """One run of a stage of a check. These rows show that no finished stage ran twice."""

    __tablename__ = "stage_runs"
    __table_args__ = (belongs_to("checks", "check_id"),)

    check_id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    stage: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    seconds: Mapped[float | None] = mapped_column(sa.Double)
    outcome: Mapped[str] = mapped_column(sa.String(16))
    message: Mapped[str] = mapped_column(sa.Text, default="")
    artifact_sha256: Mapped[str] = mapped_column(sa.String(64), default="")
