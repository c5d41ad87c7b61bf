"""Base class of the repositories of jobs, checks and experiments, with their common lifecycle and transactions.

    queued ──> running ──> succeeded | failed | cancelled
       │                                  │        │
       ├──── cancel before it starts ─────│────────┘
       └<─────────────── retry ───────────┴────────┘

Between `queued` and `running`, a job is `pending`: it was launched and waits until its processes start.

Creation is idempotent: the same id with the same request returns the existing row. The first terminal state is final.
If a result and a cancellation arrive at the same time, all later readers see the same outcome. Only two calls move an
item out of a terminal state: `retry`, and `reopen` if its stored result was lost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from vfmalign.client.messages.common import STATES, TERMINAL_STATES, Failure, JobState, Progress, State
from vfmalign.core.domain.errors import (
    MISCONFIGURED_STORE,
    Conflict,
    DataLoss,
    DeadlineExceeded,
    Exhausted,
    Internal,
    NotFound,
    PreconditionFailed,
    ProcessLost,
    Unavailable,
)
from vfmalign.core.domain.record import Record
from vfmalign.core.formats.documents import list_differences
from vfmalign.core.rpc.access.identity import current_identity
from vfmalign.database.database import Database
from vfmalign.database.pagination import Page, PageRequest, read_page
from vfmalign.database.tables import LifecycleRow, now
from vfmalign.finetuning import metrics
from vfmalign.finetuning.deleted import check_id_unused
from vfmalign.finetuning.operation import ERASED, Operation, check_not_erased

NO_FREE_SLOT = "NO_FREE_SLOT"
"""`Progress.reason` of an operation that waits because of a limit on concurrent work."""
ARTIFACT_LOST = "ARTIFACT_LOST"
"""`Progress.reason` of a finished operation that runs again, because a stored object was lost."""
_OF_THE_SYSTEM = frozenset(
    {Internal.reason, DataLoss.reason, DeadlineExceeded.reason, ProcessLost.reason, Unavailable.reason}
    | {"DEVICE_MEMORY", "JOB_FAILED", "JOB_GIVEN_UP"}
    | MISCONFIGURED_STORE
)
"""Reasons of failures that an operator has to fix. All other reasons are errors in the request."""
_MAX_DIFFERENCES = 8


Row = TypeVar("Row", bound=LifecycleRow)
Item = TypeVar("Item", bound=Operation)


class LifecycleRepository(ABC, Generic[Row, Item]):
    """Access to all rows of one tenant in one table. Every method is one transaction. Only writing methods are fenced.

    Args:
        database: database of the table, restricted to one tenant.
        quota: maximum number of unfinished rows per caller of the tenant; 0 for no limit.

    Attributes:
        table: class of the rows.
        noun: the word for a row in errors, such as `check`.
        states: possible states of an item.
        stopping: progress detail to show while a cancelled operation is still running.
    """

    table: type[Row]
    noun: ClassVar[str]
    states: ClassVar[tuple[JobState, ...]] = STATES
    stopping: ClassVar[str]

    def __init__(self, database: Database, quota: int = 0) -> None:
        self._database, self._quota = database, quota

    @abstractmethod
    def _to_item(self, row: Row) -> Item:
        """Converts a row."""

    def find(self, item_id: str, request: Record) -> Item | None:
        """Returns the item with this id if it has the same request. Returns None if the id is free.

        Raises:
            Conflict: the id is taken by an item with a different request.
        """
        with self._database.snapshot() as session:
            row = session.get(self.table, self._key(item_id))
            return None if row is None else self._same(row, request)

    def get(self, item_id: str) -> Item:
        """Returns one item.

        Raises:
            NotFound: the id is unknown.
        """
        with self._database.snapshot() as session:
            return self._to_item(self._row(session, item_id, lock=False))

    def list(self, request: PageRequest) -> Page[Item]:
        """Returns one page of items, newest first."""
        with self._database.snapshot() as session:
            return read_page(session, self.table, request, self._to_item)

    def counts(self) -> dict[str, int]:
        """Maps each state to its number of items. A state without items has the number 0."""
        query = sa.select(self.table.state, sa.func.count()).group_by(self.table.state)
        with self._database.snapshot() as session:
            numbers = {row[0]: row[1] for row in session.execute(query)}
        return {state: numbers.get(state, 0) for state in self.states}

    def list_unfinished(self) -> dict[str, dict[str, Any]]:
        """Maps the id of each item that has not ended to its request as JSON."""
        query = sa.select(self.table.id, self.table.request).where(self.table.state.not_in(TERMINAL_STATES))
        with self._database.snapshot() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    def count_of_busiest_caller(self) -> int:
        """Returns the largest number of unfinished items that any caller has, for comparison with the quota."""
        number = sa.func.count()
        query = sa.select(number).select_from(self.table).group_by(self.table.created_by)
        query = query.where(self.table.created_by != "", self.table.state.not_in(TERMINAL_STATES))
        query = query.order_by(number.desc()).limit(1)
        with self._database.snapshot() as session:
            return session.scalar(query) or 0

    def cancel(self, item_id: str) -> Item:
        """Cancels an item.

        A queued item ends at once. A running item ends after its work has stopped. A finished item does not change.

        Raises:
            NotFound: the id is unknown.
        """
        with self._database.session() as session:
            row = self._row(session, item_id)
            if row.state == "queued":
                self._end(session, row, "cancelled", "cancelled before it started")
            elif row.state not in TERMINAL_STATES and not row.cancel_requested:
                row.cancel_requested = True
                row.progress = _dump(Progress(phase="stopping", detail=self.stopping))
            return self._to_item(row)

    def retry(self, item_id: str) -> Item:
        """Queues a failed or cancelled item again. The item keeps its artifacts and its history.

        A queued or running item does not change, except that a cancellation of a running item is withdrawn.

        Raises:
            NotFound: the id is unknown.
            PreconditionFailed: the item has succeeded.
            Exhausted: the creator of the item has reached the quota of unfinished items.
        """
        with self._database.session() as session:
            row = self._row(session, item_id)
            if row.state in TERMINAL_STATES:
                self._check_quota(session, row)
            return self._retry(session, row)

    def follow_retry(self, item_id: str, retried_at: datetime | None) -> Item:
        """Retries an item if a retry of its owner must also retry this item (`must_follow`).

        One transaction reads and retries the item, because an item that is being cancelled may succeed at any moment.

        Raises:
            NotFound: the id is unknown.
        """
        with self._database.session() as session:
            row = self._row(session, item_id)
            item = self._to_item(row)
            return self._retry(session, row) if item.must_follow(retried_at) else item

    def set_progress(self, item_id: str, progress: Progress) -> None:
        """Records the progress of an item. An item that has ended or is being cancelled keeps its last progress."""
        with self._database.session() as session:
            self._set_progress(self._row(session, item_id), progress)

    def fail(self, item_id: str, message: str, reason: str) -> None:
        """Marks an item as failed.

        Args:
            item_id: the item.
            message: cause and remedy in one sentence.
            reason: UPPER_SNAKE_CASE constant.
        """
        with self._database.session() as session:
            failure = Failure(reason=reason, message=message)
            self._end(session, self._row(session, item_id), "failed", message, failure)

    def mark_cancelled(self, item_id: str) -> None:
        """Marks an item as cancelled after its work has stopped, unless the cancellation was withdrawn."""
        with self._database.session() as session:
            row = self._row(session, item_id)
            if row.cancel_requested:
                self._end(session, row, "cancelled", "cancelled")

    def reopen(self, item_id: str, detail: str) -> Item:
        """Queues a successful item again, because its report was lost. Intact artifacts are kept.

        Args:
            item_id: the item.
            detail: one sentence that names the lost object.
        """
        with self._database.session() as session:
            row = self._row(session, item_id)
            if row.state == "succeeded" and row.erased_at is None:
                row.state, row.finished_at, row.cancel_requested = "running", None, False
                self._set_progress(row, Progress(phase="report", detail=detail, reason=ARTIFACT_LOST))
            return self._to_item(row)

    def erase(self, item_id: str, detail: str) -> None:
        """Removes everything that could describe patients from an ended item. The item cannot be retried any more.

        An item that has not ended, or was erased before, stays as it is.

        Args:
            item_id: the item.
            detail: new detail of the item's progress.
        """
        with self._database.session() as session:
            row = self._row(session, item_id)
            if row.state not in TERMINAL_STATES or row.erased_at is not None:
                return
            row.erased_at = now()
            row.progress = _dump(Progress(phase="finished", detail=detail))
            if row.failure is not None:  # its message may name cases
                message = f"{row.failure['reason']}; the erasure of a patient removed the message"
                row.failure = _dump(Failure(reason=ERASED, message=message))
            self._erase(session, row)

    @abstractmethod
    def _erase(self, session: Session, row: Row) -> None:
        """Clears the fields of a table's own that could describe patients, or refer to removed objects."""

    def _insert(self, row: Row, request: Record, detail: str) -> Item:
        """Adds a queued row, unless its id exists.

        Raises:
            Conflict: the id is taken by an item with a different request, or by a deleted one.
            Exhausted: the caller has reached the quota of unfinished items.
        """
        row.request, row.request_digest = request.model_dump(mode="json"), request.digest()
        row.state, row.created_at = "queued", now()
        identity = current_identity.get()
        row.created_by = identity.key if identity else ""
        row.progress = _dump(Progress(phase="queued", detail=detail, reason=NO_FREE_SLOT))
        try:
            with self._database.session() as session:
                if session.get(self.table, self._key(row.id)) is None:
                    check_id_unused(session, self._database.tenant, self.noun, row.id)
                    self._check_quota(session, row)  # a repeated request does not use the quota
                session.add(row)
        except IntegrityError:
            with self._database.snapshot() as session:
                return self._same(session.get_one(self.table, self._key(row.id)), request)
        return self._to_item(row)

    def _check_quota(self, session: Session, row: Row) -> None:
        """Checks that the creator of a row may have one more unfinished row.

        Concurrent calls do not count each other, and may exceed the quota by their number.
        """
        if not self._quota or not row.created_by:
            return
        unfinished = sa.select(sa.func.count()).where(
            self.table.created_by == row.created_by, self.table.state.not_in(TERMINAL_STATES)
        )
        count = session.scalar(unfinished.select_from(self.table)) or 0
        if count >= self._quota:
            raise Exhausted(
                f"its creator has {count} unfinished {self.noun}s, and the quota is {self._quota}",
                subject=row.id,
                remedy=f"wait until some have ended, cancel some, or ask an operator to raise "
                f"VFMALIGN_QUOTA__{self.noun.upper()}S",
            )

    def _key(self, item_id: str) -> tuple[str, str]:
        """Returns the primary key of a row."""
        return self._database.tenant, item_id

    def _row(self, session: Session, item_id: str, *, lock: bool = True) -> Row:
        row = session.get(self.table, self._key(item_id), with_for_update=lock or None)
        if row is None:
            raise NotFound(
                f"no such {self.noun}",
                subject=item_id[:128],
                remedy=f"run `vfmalign {self.noun}s list`, or call List{self.noun.capitalize()}s, to see the known ids",
            )
        return row

    def _same(self, row: Row, request: Record) -> Item:
        if row.request_digest != request.digest():
            fields = list_differences(row.request, request.model_dump(mode="json"))[:_MAX_DIFFERENCES]
            raise Conflict(
                f"the {self.noun} exists with a different request: it differs in {', '.join(fields)}",
                subject=row.id,
                remedy=f"choose another {self.noun} id",
            )
        return self._to_item(row)

    def _retry(self, session: Session, row: Row) -> Item:
        check_not_erased(self.noun, row)
        if row.state in TERMINAL_STATES:
            if not self._may_retry(session, row):
                raise PreconditionFailed(
                    f"the {self.noun} has succeeded", subject=row.id, remedy="create another one to repeat it"
                )
            row.state, row.finished_at, row.failure = "queued", None, None
            row.progress = _dump(Progress(phase="queued", detail="waiting to continue", reason=NO_FREE_SLOT))
        elif row.cancel_requested:
            row.progress = _dump(Progress(phase="starting", detail="its cancellation was withdrawn"))
        else:
            return self._to_item(row)
        row.cancel_requested, row.retries, row.retried_at = False, row.retries + 1, now()
        self._reset(row)
        return self._to_item(row)

    def _may_retry(self, session: Session, row: Row) -> bool:
        """Returns whether an item that has ended may be queued again."""
        return row.state != "succeeded"

    def _reset(self, row: Row) -> None:
        """Clears the fields that a retried item does not keep."""

    def _select(self, query: sa.Select[Row]) -> tuple[Item, ...]:
        with self._database.snapshot() as session:
            return tuple(self._to_item(row) for row in session.scalars(query))

    def _set_progress(self, row: Row, progress: Progress) -> bool:
        """Records progress, and returns whether the row still accepts it."""
        accepted = row.state not in TERMINAL_STATES and not row.cancel_requested
        if accepted:
            row.progress = _dump(progress)
        return accepted

    def _end(self, session: Session, row: Row, state: State, detail: str, failure: Failure | None = None) -> None:
        """Moves a row to a terminal state, unless it is in one already."""
        if row.state in TERMINAL_STATES:
            return
        row.state, row.finished_at = state, now()
        fault = "none" if failure is None else "system" if failure.reason in _OF_THE_SYSTEM else "request"
        event.listen(session, "after_commit", lambda _: metrics.ended.labels(self.noun, state, fault).inc(), once=True)
        row.progress = _dump(Progress(phase="finished", detail=detail))
        row.failure = None if failure is None else _dump(failure)


def _dump(record: Record) -> dict[str, Any]:
    return record.model_dump(mode="json")
