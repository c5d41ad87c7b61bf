"""Table of deleted jobs, checks and experiments. The ids of deleted operations cannot be used again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from vfmalign.core.domain.errors import Conflict
from vfmalign.database.tables import TenantRow


class DeletedRow(TenantRow):
    """A deleted operation, whose id cannot be used again.

    Attributes:
        noun: kind of the operation, such as `check`.
        prefixes: prefixes of the objects to delete.
        facts: for a check, the digest of its model, the dataset id, the task and its times; otherwise empty.
        finished_at: time when the last object was deleted; None until then.
    """

    __tablename__ = "deleted"

    noun: Mapped[str] = mapped_column(sa.String(16), primary_key=True)
    id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    prefixes: Mapped[list[Any]] = mapped_column(sa.JSON)
    facts: Mapped[dict[str, Any]]
    deleted_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


def check_id_unused(session: Session, tenant: str, noun: str, item_id: str) -> None:
    """Checks that no operation with this id was deleted.

    Raises:
        Conflict: one was.
    """
    if session.get(DeletedRow, (tenant, noun, item_id)) is not None:
        raise Conflict(f"a {noun} with this id was deleted", subject=item_id, remedy=f"choose another {noun} id")
