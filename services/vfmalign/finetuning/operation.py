"""Common fields of jobs, checks and experiments, in the database and in memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vfmalign.client.messages.common import TERMINAL_STATES, Failure, JobState, Progress
from vfmalign.core.domain.errors import PreconditionFailed
from vfmalign.database.tables import LifecycleRow

ERASED = "ERASED"
"""Reason of errors about an operation whose results were removed by the erasure of a patient."""


@dataclass(frozen=True)
class Operation:
    """Common fields of jobs, checks and experiments.

    Attributes:
        state: only jobs are `pending`.
        progress: current phase, counts and reason for waiting; after the end, how the operation ended.
        failure: why the operation failed; None unless the state is `failed`.
        cancel_requested: whether a cancellation was requested while the operation had work in progress.
        retries, retried_at: number of retries by clients, and time of the last retry.
        created_by: key of the identity that created the operation; empty if the service created it.
        on_behalf_of: key of the identity for which the service created the operation; empty if unknown.
        erased_at: when the erasure of a patient removed the results of the operation; None if none did.
    """

    id: str
    state: JobState
    progress: Progress
    failure: Failure | None
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    retries: int
    retried_at: datetime | None
    created_by: str
    on_behalf_of: str
    erased_at: datetime | None

    @property
    def creator(self) -> str:
        """Key of the identity that asked for the operation, also if the service created it; empty if unknown."""
        return self.created_by or self.on_behalf_of

    @property
    def finished(self) -> bool:
        """Whether the state is terminal."""
        return self.state in TERMINAL_STATES

    @property
    def queued_at(self) -> datetime:
        """Time when a client last queued the operation: its creation or its last retry."""
        return self.retried_at or self.created_at

    def must_follow(self, retried_at: datetime | None) -> bool:
        """Returns whether a retry of the item's owner at `retried_at` must also retry this item.

        The answer is yes if the item ended without a result. If the item was queued after that retry, or succeeded
        while it was being cancelled, the answer is no.
        """
        ended = self.state in {"failed", "cancelled"} or (self.cancel_requested and self.state != "succeeded")
        return retried_at is not None and self.queued_at < retried_at and ended


def common_fields(row: LifecycleRow) -> dict[str, Any]:
    """Returns the fields of `Operation` from a row."""
    return {
        "id": row.id,
        "state": row.state,
        "progress": Progress.model_validate(row.progress),
        "failure": None if row.failure is None else Failure.model_validate(row.failure),
        "cancel_requested": row.cancel_requested,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "retries": row.retries,
        "retried_at": row.retried_at,
        "created_by": row.created_by,
        "on_behalf_of": row.on_behalf_of or "",
        "erased_at": row.erased_at,
    }


def check_not_erased(noun: str, item: LifecycleRow | Operation) -> None:
    """Checks that no erasure of a patient has removed the results of an item.

    Raises:
        PreconditionFailed: one has.
    """
    if item.erased_at is not None:
        raise PreconditionFailed(
            "the erasure of a patient has removed its report and its artifacts",
            subject=f"{noun} {item.id}",
            remedy=f"create another {noun} on the present version of the dataset",
            reason=ERASED,
        )
