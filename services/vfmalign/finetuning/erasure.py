"""Erasure of a patient from jobs, checks and experiments.

Every result of a dataset that contained the patient is removed.

All affected work is cancelled first. Then everything that could describe patients is removed from the rows, but the
rows stay in the database. Then the objects are deleted. The receipt names the objects, so that another process can
continue an interrupted erasure.

An operation that is created meanwhile needs the present digest of the dataset to read the dataset. After the feature
service has replaced the dataset, an operation with the earlier digest fails before it reads a case. No operation reuses
the result of an erased training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from vfmalign.analysis.checks.records import CheckAnalysis
from vfmalign.client.messages.erasure import ErasedObject
from vfmalign.core.domain.errors import DataLoss, NotFound, PreconditionFailed
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.storage.deletion import delete_below, measure_below, record_deletion
from vfmalign.core.storage.keys import CELLS, cell_key, check_key, experiment_key, job_key
from vfmalign.core.storage.store.object_store import MAX_DOCUMENT_BYTES, ObjectStore
from vfmalign.database.database import Database
from vfmalign.database.tables import LifecycleRow, now
from vfmalign.erasure.receipts import Erasures, Plan, StoredErasure
from vfmalign.finetuning.checks.reporting import read_report
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.stages import Validated
from vfmalign.finetuning.checks.tables import CheckRow
from vfmalign.finetuning.deletions import Deletions, Noun
from vfmalign.finetuning.experiments.repository import ExperimentRepository
from vfmalign.finetuning.experiments.tables import ExperimentRow
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.tables import JobRow
from vfmalign.finetuning.lifecycle import LifecycleRepository

_SETTLE_S = 60.0
"""Seconds after the end of an operation in which one of its threads may still write an object."""
_PARALLEL_REQUESTS = 8
_GET_KEY: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "experiment": lambda name: experiment_key(name, ""),
        "check": lambda name: check_key(name, ""),
        "job": lambda name: job_key(name, ""),
        "cell": cell_key,
    }
)
"""Prefix of the objects, by kind."""
_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "experiment": "the request stays",
        "check": "the request, the verdict and the numbers in its reason stay",
        "job": "the request and the learning curve stay",
    }
)
_Version = tuple[str, str]
"""Id and digest of a dataset."""


@dataclass(frozen=True)
class _Operation:
    """An experiment, check or job that was not erased.

    Attributes:
        created_at: when it was created.
        finished_at: when it ended; None if it has not.
        version: id and digest of its dataset; the digest is empty if none is recorded.
        check_id: check of a job; empty if there is none.
    """

    noun: Noun
    id: str
    created_at: datetime
    finished_at: datetime | None
    version: _Version
    check_id: str = ""

    @property
    def settled(self) -> bool:
        """Whether the operation has ended, and none of its threads writes any more."""
        return self.finished_at is not None and self.finished_at <= now() - timedelta(seconds=_SETTLE_S)


class FinetuningEraser:
    """Erases patients from the operations of one tenant; see `Eraser`."""

    def __init__(self, database: Database, store: ObjectStore) -> None:
        self._database, self._store = database, store
        self._checks, self._deletions = CheckRepository(database), Deletions(database, store)
        self._repositories: Mapping[Noun, LifecycleRepository[Any, Any]] = {
            "experiment": ExperimentRepository(database),
            "check": self._checks,
            "job": JobRepository(database),
        }

    def plan(self, erasure: StoredErasure) -> Plan:
        """See `Eraser`."""
        versions = _get_versions(erasure)
        with Threads(_PARALLEL_REQUESTS, "erasure") as threads:
            cells = list(self._store.list(CELLS)) if versions else []
            affected = threads.map(partial(self._is_affected_cell, versions), cells)
            found: list[tuple[str, str]] = [
                (one.noun, one.id) for one in self._find(versions, erasure.receipt.create_time)
            ]
            found += [
                ("cell", key.removeprefix(CELLS).removesuffix(".json"))
                for key, is_affected in zip(cells, affected, strict=True)
                if is_affected
            ]
            return Plan(objects=list(threads.map(self._measure, found)))

    def remove(self, erasure: StoredErasure) -> bool:
        """Cancels the planned operations.

        After all of these operations have ended, empties their rows and deletes their objects.

        Returns:
            False if an operation has not ended, has ended just now, or was created after the last plan.
        """
        versions = _get_versions(erasure)
        planned = dict.fromkeys((one.kind, one.id) for one in erasure.receipt.objects)
        self._cancel(self._find(versions, erasure.receipt.create_time))
        found = self._find(versions, erasure.receipt.create_time)
        if not all(one.settled and (one.noun, one.id) in planned for one in found):
            return False
        for one in found:
            self._empty(one)
        if self._find(versions, erasure.receipt.create_time):  # created or retried since
            return False
        self._deletions.complete()  # the rows of interrupted deletions are gone, so that no plan found their objects
        for kind, get_key in _GET_KEY.items():
            prefixes = [get_key(name) for planned_kind, name in planned if planned_kind == kind]
            record_deletion(f"{kind}s", delete_below(self._store, prefixes))
        return self._database.purge()

    def _find(self, versions: frozenset[_Version], since: datetime) -> Sequence[_Operation]:
        """Returns the operations on these versions that were not erased; those that create others come first.

        A check that has pinned no version yet is affected if it was created before the erasure began (`since`). Later,
        it can only read the dataset without the patient.
        """
        datasets = {dataset for dataset, _ in versions}

        def select(noun: Noun, table: type[LifecycleRow], *columns: sa.SQLColumnExpression[str]) -> list[_Operation]:
            dataset: sa.ColumnElement[str] = table.request["dataset_id"].as_string()
            query = sa.select(table.id, table.created_at, table.finished_at, dataset, *columns)
            rows = session.execute(query.where(dataset.in_(datasets), table.erased_at.is_(None)))
            return [
                _Operation(noun, name, start, end, (of, digest), *more) for name, start, end, of, digest, *more in rows
            ]

        with self._database.snapshot() as session:
            experiments = select("experiment", ExperimentRow, ExperimentRow.pinned_inputs["dataset_digest"].as_string())
            checks = select("check", CheckRow, CheckRow.request["dataset_digest"].as_string())
            jobs = select("job", JobRow, JobRow.spec["dataset_digest"].as_string(), JobRow.check_id)
        of_check: defaultdict[str, set[_Version]] = defaultdict(set)
        for job in jobs:
            of_check[job.check_id].add(job.version)
        return [
            *(one for one in experiments if one.version in versions),
            *(one for one in checks if self._is_affected(one, of_check[one.id], versions, since)),
            *(one for one in jobs if one.version in versions),
        ]

    def _is_affected(
        self, check: _Operation, of_jobs: set[_Version], versions: frozenset[_Version], since: datetime
    ) -> bool:
        known = self._list_versions(check, of_jobs)
        return not versions.isdisjoint(known) if known else check.created_at <= since

    def _list_versions(self, check: _Operation, of_jobs: set[_Version]) -> set[_Version]:
        """Returns the versions that a check names, or has pinned; nothing if it has pinned none yet."""
        dataset, digest = check.version
        if digest:
            return {check.version}
        with suppress(NotFound, PreconditionFailed):
            pinned = self._store.read(check_key(check.id, "stages/validate.json"), Validated)
            return of_jobs | {(dataset, pinned.dataset_digest)}
        return of_jobs

    def _is_affected_cell(self, versions: frozenset[_Version], key: str) -> bool:
        """Returns whether a cell was computed from these versions. One that nobody can read counts as affected.

        Experiments do not name all cells: other versions of the program name them differently, and cells are copied.
        """
        try:
            content: Any = parse_json(self._store.get(key), MAX_DOCUMENT_BYTES)
            settings = content["report"]["result"]["settings"]
            return (settings["dataset_id"], settings["dataset_digest"]) in versions
        except NotFound:
            return False
        except (ValueError, KeyError, TypeError):
            return True

    def _measure(self, found: tuple[str, str]) -> ErasedObject:
        kind, name = found
        measured = measure_below(self._store, [_GET_KEY[kind](name)])
        return ErasedObject(
            kind=kind,
            id=name,
            outcome="changed" if kind in _NOTES else "removed",
            count=measured.objects,
            size_bytes=measured.size_bytes,
            note=_NOTES.get(kind, ""),
        )

    def _cancel(self, found: Sequence[_Operation]) -> None:
        """Cancels what has not ended. An unfinished check cancels its jobs by itself, after it has stopped."""
        unfinished = [one for one in found if one.finished_at is None]
        checks = {one.id for one in unfinished if one.noun == "check"}
        for one in unfinished:
            if one.check_id not in checks:
                with suppress(NotFound):  # it was deleted since
                    self._repositories[one.noun].cancel(one.id)

    def _empty(self, found: _Operation) -> None:
        """Removes from a row what could describe patients. The verdict of a check is only in its report until then."""
        detail = "the erasure of a patient removed its results"
        with suppress(NotFound):
            if found.noun == "check":
                check = self._checks.get(found.id)
                with suppress(DataLoss):
                    if check.state == "succeeded":
                        detail += f". {_describe(read_report(self._store, check).result)}"
            self._repositories[found.noun].erase(found.id, detail)


def make_erasures(database: Database, store: ObjectStore) -> Erasures:
    """Returns the erasures of one tenant."""
    return Erasures(store, "finetuning", FinetuningEraser(database, store))


def _get_versions(erasure: StoredErasure) -> frozenset[_Version]:
    return frozenset((one.dataset_id, one.dataset_digest) for one in erasure.receipt.datasets)


def _describe(result: CheckAnalysis) -> str:
    """Describes the verdicts, the scores behind them and the shift, without anything about a single case."""
    answers = {"Verdict": result.verdict, "Pretraining": result.pretraining}
    texts = [f"{title} `{answer.label}`: {answer.reason}" for title, answer in answers.items() if answer is not None]
    layer = result.shift.get_layer(result.shift.primary_layer)
    mmd2 = (layer.standardised or layer.raw).mmd2.value
    return ". ".join(texts if mmd2 is None else [*texts, f"MMD² of {layer.layer}: {mmd2:.3g}"])
