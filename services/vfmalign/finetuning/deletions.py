"""Deletion of finished jobs, checks and experiments.

The rows of the operations are deleted first, in one transaction. Their objects are deleted afterwards. A row of the
table `deleted` lists the objects. If the deletion of the objects is interrupted, a repeated call or the leader
completes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from vfmalign.client.messages.common import TERMINAL_STATES, Deletion
from vfmalign.core.domain.errors import NotFound, PreconditionFailed
from vfmalign.core.runtime import logs
from vfmalign.core.storage.deletion import Deleted, delete_below, measure_below, record_deletion
from vfmalign.core.storage.keys import cell_key, check_key, experiment_key, job_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.database import Database
from vfmalign.database.tables import LifecycleRow, now
from vfmalign.finetuning.checks.tables import CheckRow
from vfmalign.finetuning.deleted import DeletedRow
from vfmalign.finetuning.experiments.repository import to_experiment
from vfmalign.finetuning.experiments.tables import ExperimentRow
from vfmalign.finetuning.jobs.tables import JobRow

Noun = Literal["job", "check", "experiment"]
_TABLES: Mapping[Noun, type[LifecycleRow]] = MappingProxyType(
    {"job": JobRow, "check": CheckRow, "experiment": ExperimentRow}
)
Row = TypeVar("Row", CheckRow, JobRow)
_log = logs.get(__name__)


@dataclass(frozen=True)
class _Plan:
    """Rows and objects that go with an operation.

    Attributes:
        experiments, checks, jobs: their rows.
        prefixes: prefixes of the objects.
    """

    experiments: Sequence[ExperimentRow]
    checks: Sequence[CheckRow]
    jobs: Sequence[JobRow]
    prefixes: list[str]


class Deletions:
    """Deletes the operations of one tenant."""

    def __init__(self, database: Database, store: ObjectStore) -> None:
        self._database, self._store = database, store

    def delete(self, noun: Noun, item_id: str, dry_run: bool) -> Deletion:
        """Deletes an operation, or continues its interrupted deletion.

        Args:
            noun: kind of the operation.
            item_id: its id.
            dry_run: if true, only measure what would be deleted.

        Raises:
            NotFound: the operation does not exist.
            PreconditionFailed: the operation has not ended, it is part of a check or experiment, or unfinished work
                reads its results.
        """
        if dry_run:
            with self._database.snapshot() as session:
                known = session.get(DeletedRow, (self._database.tenant, noun, item_id))
                if known is not None and known.finished_at is None:
                    prefixes = list(known.prefixes)
                else:
                    prefixes = self._plan(session, noun, item_id).prefixes
            deleted = measure_below(self._store, prefixes)
        else:
            with self._database.session() as session:
                prefixes = self._remove(session, noun, item_id)
            deleted = self._finish(noun, item_id, prefixes)
        return Deletion(objects=deleted.objects, size_bytes=deleted.size_bytes)

    def sweep(self, jobs_days: int | None, checks_days: int | None) -> Deleted:
        """Completes interrupted deletions, and deletes operations that ended long ago.

        An operation is kept if unfinished work needs it, or if it is part of another operation.

        Args:
            jobs_days: jobs that belong to no check are deleted after this number of days; None keeps them.
            checks_days: experiments and checks are deleted after this number of days; None keeps them.
        """
        deleted = self.complete()
        ages: Mapping[Noun, int | None] = {"experiment": checks_days, "check": checks_days, "job": jobs_days}
        for noun, days in ages.items():
            for item_id in () if days is None else self._list_old(noun, days):
                with suppress(PreconditionFailed, NotFound):  # it is in use, or a call has deleted it
                    deletion = self.delete(noun, item_id, dry_run=False)
                    deleted += Deleted(deletion.objects, deletion.size_bytes)
        return deleted

    def _list_old(self, noun: Noun, days: int) -> Sequence[str]:
        table = _TABLES[noun]
        query = sa.select(table.id).where(table.finished_at < now() - timedelta(days=days))
        if noun == "job":
            query = query.where(JobRow.check_id == "")
        with self._database.snapshot() as session:
            return session.scalars(query.order_by(table.finished_at)).all()

    def complete(self) -> Deleted:
        """Deletes the remaining objects of interrupted deletions."""
        with self._database.snapshot() as session:
            query = sa.select(DeletedRow).where(DeletedRow.finished_at.is_(None))
            left = [(row.noun, row.id, row.prefixes) for row in session.scalars(query)]
        return sum((self._finish(*one) for one in left), Deleted())

    def _remove(self, session: Session, noun: Noun, item_id: str) -> list[str]:
        """Removes the rows of an operation, and returns the prefixes of its objects."""
        # The lock makes a retry of the operation, and another deletion, wait until this one is recorded.
        session.get(_TABLES[noun], (self._database.tenant, item_id), with_for_update=True)
        known = session.get(DeletedRow, (self._database.tenant, noun, item_id))
        if known is not None and known.finished_at is None:
            return list(known.prefixes)
        plan, moment = self._plan(session, noun, item_id, lock=True), now()
        facts = {("check", check.id): _list_facts(check, plan.jobs) for check in plan.checks}
        for kind, name in {(noun, item_id), *facts}:
            row = DeletedRow(noun=kind, id=name, facts=facts.get((kind, name), {}), deleted_at=moment)
            is_part = (kind, name) != (noun, item_id)
            row.prefixes, row.finished_at = ([], moment) if is_part else (plan.prefixes, None)
            session.add(row)
        for removed in (*plan.jobs, *plan.checks, *plan.experiments):
            session.delete(removed)
        return plan.prefixes

    def _finish(self, noun: str, item_id: str, prefixes: Sequence[str]) -> Deleted:
        deleted = record_deletion(f"{noun}s", delete_below(self._store, prefixes))
        with self._database.session() as session:
            row = session.get_one(DeletedRow, (self._database.tenant, noun, item_id), with_for_update=True)
            row.finished_at, row.prefixes = now(), []
        _log.info("deleted", kind=noun, id=item_id, objects=deleted.objects, bytes=deleted.size_bytes)
        return deleted

    def _plan(self, session: Session, noun: Noun, item_id: str, *, lock: bool = False) -> _Plan:
        def read(query: sa.Select[Row]) -> Sequence[Row]:
            return session.scalars(query.with_for_update() if lock else query).all()

        row = self._get(session, noun, item_id)
        _check_ended(noun, row)
        checks: Sequence[CheckRow] = ()
        prefixes: list[str] = []
        if isinstance(row, ExperimentRow):
            cells = [cell for cell in to_experiment(row).cells if cell.check_id not in row.restored_cells]
            digests = {cell.check_id: cell.request_digest for cell in cells}
            of_service = read(sa.select(CheckRow).where(CheckRow.id.in_(digests), CheckRow.created_by == ""))
            checks = [check for check in of_service if check.request_digest == digests[check.id]]
            prefixes = [experiment_key(item_id, ""), *(cell_key(cell.result_digest) for cell in cells)]
        elif isinstance(row, CheckRow):
            if (experiment := _find_experiment(session, row)) is not None:
                raise _belongs_to(noun, item_id, "experiment", experiment)
            checks = [row]
        if isinstance(row, JobRow):
            if row.check_id and session.get(CheckRow, (row.tenant, row.check_id)) is not None:
                raise _belongs_to(noun, item_id, "check", row.check_id)
            jobs: Sequence[JobRow] = [row]
        else:
            jobs = read(sa.select(JobRow).where(JobRow.check_id.in_([check.id for check in checks])))
        for check in checks:
            _check_ended("check", check)
        for job in jobs:
            _check_ended("job", job)
        _check_unshared(session, item_id, jobs)
        prefixes += [check_key(check.id, "") for check in checks] + [job_key(job.id, "") for job in jobs]
        return _Plan([row] if isinstance(row, ExperimentRow) else [], checks, jobs, prefixes)

    def _get(self, session: Session, noun: Noun, item_id: str) -> LifecycleRow:
        row = session.get(_TABLES[noun], (self._database.tenant, item_id))
        if row is None:
            raise NotFound(
                f"no such {noun}", subject=item_id[:128], remedy=f"run `vfmalign {noun}s list` to see the known ids"
            )
        return row


def _check_ended(noun: str, row: LifecycleRow) -> None:
    if row.state not in TERMINAL_STATES:
        raise PreconditionFailed(
            f"the {noun} {row.id} is {row.state}",
            subject=row.id,
            remedy=f"run `vfmalign {noun}s cancel {row.id}` and wait until it has ended",
            reason="IN_USE",
        )


def _check_unshared(session: Session, item_id: str, jobs: Sequence[JobRow]) -> None:
    """Checks that no unfinished job, or job of an unfinished check, takes over the result of one of these jobs."""
    baselines = {job.baseline for job in jobs if job.baseline}
    unfinished = sa.select(CheckRow.id).where(CheckRow.state.not_in(TERMINAL_STATES))
    query = sa.select(JobRow).where(
        JobRow.baseline.in_(baselines),
        JobRow.id.not_in([job.id for job in jobs]),
        JobRow.state.not_in(TERMINAL_STATES) | JobRow.check_id.in_(unfinished),
    )
    if (user := session.scalars(query.limit(1)).first()) is not None:
        noun, name = ("check", user.check_id) if user.check_id else ("job", user.id)
        raise PreconditionFailed(
            f"the {noun} {name} uses one of its trainings",
            subject=item_id,
            remedy=f"wait until it has ended, or run `vfmalign {noun}s cancel {name}`",
            reason="IN_USE",
        )


def _find_experiment(session: Session, check: CheckRow) -> str | None:
    """Returns the id of the experiment that has created a check as one of its cells; None if there is none.

    A caller's check may have the id, and even the request, of a cell.
    """
    if check.created_by:
        return None
    query = sa.select(ExperimentRow).where(sa.literal(check.id).startswith(ExperimentRow.id.concat("-")))
    for row in session.scalars(query):
        cells = to_experiment(row).cells
        if any((cell.check_id, cell.request_digest) == (check.id, check.request_digest) for cell in cells):
            return row.id
    return None


def _belongs_to(noun: str, item_id: str, owner: str, owner_id: str) -> PreconditionFailed:
    return PreconditionFailed(
        f"the {noun} is a part of the {owner} {owner_id}",
        subject=item_id,
        remedy=f"run `vfmalign {owner}s delete {owner_id}`, which deletes it as well",
        reason="PART_OF_OTHER",
    )


def _list_facts(check: CheckRow, jobs: Sequence[JobRow]) -> dict[str, Any]:
    """Returns what is kept of a deleted check."""
    request = check.request
    used = (job.request["model_sha256"] for job in jobs if job.check_id == check.id)
    return {
        "model_sha256": next((digest for digest in used if digest), request["model_sha256"]),
        "dataset_id": request["dataset_id"],
        "task": request["task"],
        "created_at": check.created_at.isoformat(),
        "finished_at": None if check.finished_at is None else check.finished_at.isoformat(),
    }
