"""Keeps studies moving: desired state − artifacts − running checks → next action (design §2).

A round begins what is queued, creates the checks that may run, passes a cancellation on, and says which studies have
nothing left to wait for; those are concluded, each in a thread of its own. Nothing is kept beside the book and the
artifacts: after a kill at any moment the next process finds what is there. How checks are made and what a report says
is others' business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence

from vfmalign.core.domain.artifacts import Record, study_key
from vfmalign.core.domain.errors import Conflict, VfmalignError
from vfmalign.core.runtime import logs
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.checks.reconciler import passes
from vfmalign.finetuning.checks.repository import CheckBook
from vfmalign.finetuning.experiments.cell_status import Standing, sentence, standings
from vfmalign.finetuning.experiments.repository import Study, StudyBook, StudyRefs
from vfmalign.finetuning.experiments.request import Fixed, StudyRequest

Conclude = Callable[[Study, Sequence[Standing]], StudyRefs]
"""Makes and stores the report of a study whose cells have all ended; does nothing twice."""

_log = logs.get(__name__)


class StudySpec(Record):
    """`studies/<id>/spec.json`: whose the artifacts under this id are."""

    request: StudyRequest
    fixed: Fixed


class StudyRunner:
    """The loop over studies; one per database.

    Args:
        studies, checks: the books.
        store: where studies leave their artifacts.
        conclude: makes a report.
        places: checks of all studies that are unfinished at once: fewer than the service works on, so that a check
            of its own never waits for a study to end.
        poll_s: pause between two rounds.
    """

    def __init__(
        self,
        *,
        studies: StudyBook,
        checks: CheckBook,
        store: ObjectStore,
        conclude: Conclude,
        places: int,
        poll_s: float,
    ) -> None:
        self._studies = studies
        self._checks = checks
        self._store = store
        self._conclude = conclude
        self._places = places
        self._poll_s = poll_s
        self._concluding: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends `run` after the round it is in, and after the reports that are being written."""
        self._stopping.set()

    async def run(self) -> None:
        """Works until `stop`."""
        while not self._stopping.is_set():
            try:
                ready = await asyncio.to_thread(self.tick)
            except VfmalignError as error:  # the database: the next round asks again
                _log.warning("studies_delayed", error=str(error))
                ready = []
            self._concluding = {name: task for name, task in self._concluding.items() if not task.done()}
            for study in ready:
                if study.id not in self._concluding:
                    work = asyncio.to_thread(self.conclude, study)
                    self._concluding[study.id] = asyncio.create_task(work, name=f"study {study.id}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._poll_s)
        await asyncio.gather(*self._concluding.values())

    def tick(self) -> list[Study]:
        """One round over all studies; returns those whose cells have all ended."""
        ready: list[Study] = []
        going: list[tuple[Study, tuple[Standing, ...]]] = []
        free = self._places
        for study in self._studies.active():
            with self._guarded(study.id):
                begun = self._begin(study) if study.state == "QUEUED" else study
                cells = standings(begun, self._checks)
                free -= _running(cells)
                if begun.cancel_requested:
                    self._cancel(begun, cells)
                elif all(cell.ended for cell in cells):
                    ready.append(begun)
                else:
                    going.append((begun, cells))
        for study, cells in going:
            with self._guarded(study.id):
                if sentence(cells) != study.message:
                    self._studies.say(study.id, sentence(cells))
        for study, cell in _turns(going, free):
            with self._guarded(study.id), contextlib.suppress(Conflict):  # somebody else's check: seen as failed
                self._checks.create(cell.cell.check_id, cell.cell.request)
        return ready

    def conclude(self, study: Study) -> None:
        """Ends a study whose cells have all ended."""
        with self._guarded(study.id):
            cells = standings(study, self._checks)
            succeeded = sum(cell.state == "SUCCEEDED" for cell in cells)
            if not succeeded:
                self._studies.fail(study.id, f"no check succeeded; {_first_failure(cells)}", "NO_CHECK_SUCCEEDED")
                return
            self._studies.say(study.id, "writing the report")
            refs = self._conclude(study, cells)
            missing = len(cells) - succeeded
            without = f"; {missing} of {len(cells)} cells have no result" if missing else ""
            self._studies.succeed(study.id, refs, f"finished{without}")
            _log.info("study_succeeded", study=study.id, cells=len(cells), missing=missing)

    def _begin(self, study: Study) -> Study:
        """Makes sure that the artifacts under this id are this study's own, also where the database was lost."""
        key = study_key(study.id, "spec.json")
        mine = StudySpec(request=study.request, fixed=study.fixed).to_json()
        if not self._store.put_if_absent(key, mine) and self._store.get(key) != mine:
            raise Conflict(
                "belongs to a study with another body", subject=self._store.uri(key), remedy="choose another study id"
            )
        return self._studies.begin(study.id)

    def _cancel(self, study: Study, cells: Sequence[Standing]) -> None:
        for cell in cells:
            if cell.begun and not cell.ended:
                self._checks.cancel(cell.cell.check_id)
        if not any(cell.begun and not cell.ended for cell in cells):
            self._studies.cancelled(study.id)

    @contextlib.contextmanager
    def _guarded(self, study_id: str) -> Iterator[None]:
        """Keeps the trouble of one study from the others: what passes is tried again, what does not ends it."""
        try:
            yield
        except VfmalignError as error:
            if passes(error):
                _log.warning("study_delayed", study=study_id, error=str(error))
            else:
                _log.warning("study_failed", study=study_id, reason=error.reason, error=str(error))
                self._studies.fail(study_id, str(error), error.reason)
        except Exception:
            _log.exception("study_crashed", study=study_id)
            self._studies.fail(study_id, "the study met a fault of ours; the service's log has the trace", "INTERNAL")


def _turns(going: Sequence[tuple[Study, Sequence[Standing]]], free: int) -> Iterator[tuple[Study, Standing]]:
    """The cells that may begin now: the study with fewest running ones comes first, then the older one."""
    running = {study.id: _running(cells) for study, cells in going}
    waiting = {study.id: [cell for cell in cells if not cell.begun and not cell.ended] for study, cells in going}
    for _ in range(free):
        able = [study for study, _ in going if waiting[study.id] and running[study.id] < study.request.max_running]
        if not able:
            return
        study = min(able, key=lambda one: running[one.id])
        running[study.id] += 1
        yield study, waiting[study.id].pop(0)


def _running(cells: Sequence[Standing]) -> int:
    return sum(cell.begun and not cell.ended for cell in cells)


def _first_failure(cells: Sequence[Standing]) -> str:
    first = next((cell for cell in cells if cell.state == "FAILED"), cells[0])
    return f"the first, {first.cell.check_id}, says: {first.message}"
