"""Keeps experiments moving: desired state − artifacts − running checks → next action (design §2).

A round begins what is queued, creates the checks that may run, passes cancellations on, and says which experiments have
nothing left to wait for; those are concluded, each in a thread of its own. Nothing is kept beside the book and the
artifacts: after a kill at any moment the next process finds what is there. How checks are made and what a report says
is others' business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence

from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.artifacts import Record, experiment_key
from vfmalign.core.domain.errors import Conflict, VfmalignError
from vfmalign.core.runtime import logs
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.checks.reconciler import is_transient
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.experiments.cell_status import CellStatus, describe_progress, get_cell_statuses
from vfmalign.finetuning.experiments.repository import Experiment, ExperimentRefs, ExperimentRepository
from vfmalign.finetuning.experiments.request import ExperimentRequest, Fixed

Conclude = Callable[[Experiment, Sequence[CellStatus]], ExperimentRefs]
"""Makes and stores the report of an experiment whose cells have all ended; does nothing twice."""

_log = logs.get(__name__)


class ExperimentSpec(Record):
    """`experiments/<id>/spec.json`: whose the artifacts under this id are."""

    request: ExperimentRequest
    fixed: Fixed


class ExperimentRunner:
    """The loop over experiments; one per database.

    Args:
        experiments, checks: the books.
        store: where experiments leave their artifacts.
        conclude: makes a report.
        places: checks of all experiments that are unfinished at once: fewer than the service works on, so that a check
            of its own never waits for an experiment to end.
        poll_s: pause between two rounds.
    """

    def __init__(
        self,
        *,
        experiments: ExperimentRepository,
        checks: CheckRepository,
        store: ObjectStore,
        conclude: Conclude,
        places: int,
        poll_s: float,
    ) -> None:
        self._experiments = experiments
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
                _log.warning("experiments_delayed", error=str(error))
                ready = []
            self._concluding = {name: task for name, task in self._concluding.items() if not task.done()}
            for experiment in ready:
                if experiment.id not in self._concluding:
                    work = asyncio.to_thread(self.conclude, experiment)
                    self._concluding[experiment.id] = asyncio.create_task(work, name=f"experiment {experiment.id}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._poll_s)
        await asyncio.gather(*self._concluding.values())

    def tick(self) -> list[Experiment]:
        """One round over all experiments; returns those whose cells have all ended."""
        ready: list[Experiment] = []
        going: list[tuple[Experiment, tuple[CellStatus, ...]]] = []
        free = self._places
        for experiment in self._experiments.active():
            with self._guarded(experiment.id):
                begun = self._begin(experiment) if experiment.state == "queued" else experiment
                cells = get_cell_statuses(begun, self._checks)
                free -= _running(cells)
                if begun.cancel_requested:
                    self._cancel(begun, cells)
                elif all(cell.finished for cell in cells):
                    ready.append(begun)
                else:
                    going.append((begun, cells))
        for experiment, cells in going:
            with self._guarded(experiment.id):
                progress = Progress(phase="checks", detail=describe_progress(cells))
                if progress != experiment.progress:
                    self._experiments.set_progress(experiment.id, progress)
        for experiment, cell in _turns(going, free):
            with self._guarded(experiment.id), contextlib.suppress(Conflict):  # somebody else's check: seen as failed
                self._checks.create(cell.cell.check_id, cell.cell.request)
        return ready

    def conclude(self, experiment: Experiment) -> None:
        """Ends an experiment whose cells have all ended."""
        with self._guarded(experiment.id):
            cells = get_cell_statuses(experiment, self._checks)
            succeeded = sum(cell.state == "succeeded" for cell in cells)
            if not succeeded:
                self._experiments.fail(
                    experiment.id, f"no check succeeded; {_first_failure(cells)}", "NO_CHECK_SUCCEEDED"
                )
                return
            self._experiments.set_progress(experiment.id, Progress(phase="report", detail="writing the report"))
            refs = self._conclude(experiment, cells)
            missing = len(cells) - succeeded
            without = f"; {missing} of {len(cells)} cells have no result" if missing else ""
            self._experiments.succeed(experiment.id, refs, f"finished{without}")
            _log.info("experiment_succeeded", experiment=experiment.id, cells=len(cells), missing=missing)

    def _begin(self, experiment: Experiment) -> Experiment:
        """Makes sure that the artifacts under this id are this experiment's own, also where the database was lost."""
        key = experiment_key(experiment.id, "spec.json")
        mine = ExperimentSpec(request=experiment.request, fixed=experiment.fixed).to_json()
        if not self._store.put_if_absent(key, mine) and self._store.get(key) != mine:
            raise Conflict(
                "belongs to an experiment with another body",
                subject=self._store.uri(key),
                remedy="choose another experiment id",
            )
        return self._experiments.begin(experiment.id)

    def _cancel(self, experiment: Experiment, cells: Sequence[CellStatus]) -> None:
        for cell in cells:
            if cell.begun and not cell.finished:
                self._checks.cancel(cell.cell.check_id)
        if not any(cell.begun and not cell.finished for cell in cells):
            self._experiments.mark_cancelled(experiment.id)

    @contextlib.contextmanager
    def _guarded(self, experiment_id: str) -> Iterator[None]:
        """Keeps the trouble of one experiment from the others: what passes is tried again, what does not ends it."""
        try:
            yield
        except VfmalignError as error:
            if is_transient(error):
                _log.warning("experiment_delayed", experiment=experiment_id, error=str(error))
            else:
                _log.warning("experiment_failed", experiment=experiment_id, reason=error.reason, error=str(error))
                self._experiments.fail(experiment_id, str(error), error.reason)
        except Exception:
            _log.exception("experiment_crashed", experiment=experiment_id)
            self._experiments.fail(
                experiment_id, "the experiment met a fault of ours; the service's log has the trace", "INTERNAL"
            )


def _turns(
    going: Sequence[tuple[Experiment, Sequence[CellStatus]]], free: int
) -> Iterator[tuple[Experiment, CellStatus]]:
    """The cells that may begin now: the experiment with fewest running ones comes first, then the older one."""
    running = {experiment.id: _running(cells) for experiment, cells in going}
    waiting = {
        experiment.id: [cell for cell in cells if not cell.begun and not cell.finished] for experiment, cells in going
    }
    for _ in range(free):
        able = [
            experiment
            for experiment, _ in going
            if waiting[experiment.id] and running[experiment.id] < experiment.request.max_running
        ]
        if not able:
            return
        experiment = min(able, key=lambda one: running[one.id])
        running[experiment.id] += 1
        yield experiment, waiting[experiment.id].pop(0)


def _running(cells: Sequence[CellStatus]) -> int:
    return sum(cell.begun and not cell.finished for cell in cells)


def _first_failure(cells: Sequence[CellStatus]) -> str:
    first = next((cell for cell in cells if cell.state == "failed"), cells[0])
    return f"the first, {first.cell.check_id}, says: {first.message}"
