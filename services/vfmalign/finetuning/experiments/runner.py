"""Experiment runner: compares each request with its artifacts and running checks, and takes the next action.

`reconcile()` starts queued experiments, creates the checks that may run, and forwards cancellations. `reconcile()`
returns the experiments in which all cells have ended. Each of these experiments is finished in its own thread. All
state is in the database and the artifacts, so the process can be killed at any point.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence

from vfmalign.client.messages.common import Progress
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.core.domain.errors import Conflict, DataLoss, PreconditionFailed, VfmalignError
from vfmalign.core.domain.record import Record
from vfmalign.core.runtime import logs
from vfmalign.core.storage.keys import experiment_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.reconciler import is_transient
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.experiments.cell_results import CELL, CellResults
from vfmalign.finetuning.experiments.cell_status import CellStatus, count_states, describe_progress, get_cell_statuses
from vfmalign.finetuning.experiments.repository import ExperimentRefs, ExperimentRepository, StoredExperiment
from vfmalign.finetuning.experiments.request import PinnedInputs

WriteReport = Callable[[StoredExperiment, Sequence[CellStatus]], ExperimentRefs]
"""Stores the report of an experiment after all of its cells have ended. It is idempotent."""

_log = logs.get(__name__)


class SpecArtifact(Record):
    """`experiments/<id>/spec.json`: the specification of the experiment that owns the artifacts with this id."""

    spec: ExperimentSpec
    pinned_inputs: PinnedInputs


class ExperimentRunner:
    """The loop over experiments. Each term of the leader has its own loop.

    Args:
        experiments: repository of experiments.
        checks: repository of checks.
        results: results of the cells.
        store: object store of the experiments' artifacts.
        write_report: stores a report.
        max_checks: maximum number of unfinished checks of all experiments together. Because this number is below the
            service's own limit, experiments never block a check outside experiments.
        poll_s: seconds between two rounds.

    Attributes:
        cell_counts: maps each state to the number of cells of unfinished experiments that had this state in the last
            round.
    """

    def __init__(
        self,
        *,
        experiments: ExperimentRepository,
        checks: CheckRepository,
        results: CellResults,
        store: ObjectStore,
        write_report: WriteReport,
        max_checks: int,
        poll_s: float,
    ) -> None:
        self._experiments = experiments
        self._checks = checks
        self._results = results
        self._store = store
        self._write_report = write_report
        self._max_checks = max_checks
        self._poll_s = poll_s
        self.cell_counts = count_states(())
        self._finishing: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends `run` after the current round is over and all started reports are written."""
        self._stopping.set()

    async def run(self) -> None:
        """Runs until `stop`."""
        while not self._stopping.is_set():
            # Taken before the round reads: an experiment that ends meanwhile still looks active and would be finished
            # again.
            self._finishing = {name: task for name, task in self._finishing.items() if not task.done()}
            try:
                ready = await asyncio.to_thread(self.reconcile)
            except VfmalignError as error:  # the database is unavailable: the next round tries again
                _log.warning("experiments_delayed", error=error)
                ready = []
            except Exception:
                _log.exception("experiments_delayed")
                ready = []
            for experiment in ready:
                if experiment.id not in self._finishing:
                    work = asyncio.to_thread(self.finish, experiment)
                    self._finishing[experiment.id] = asyncio.create_task(work, name=f"experiment {experiment.id}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._poll_s)
        await asyncio.gather(*self._finishing.values())

    def reconcile(self) -> list[StoredExperiment]:
        """Runs one round over all experiments. Returns the experiments in which all cells have ended."""
        ready: list[StoredExperiment] = []
        active: list[tuple[StoredExperiment, tuple[CellStatus, ...]]] = []
        unfinished: list[CellStatus] = []
        free = self._max_checks
        for experiment in self._experiments.active():
            with self._isolate_errors(experiment.id):
                begun = self._begin(experiment) if experiment.state == "queued" else experiment
                cells = get_cell_statuses(begun, self._checks)
                unfinished += cells
                free -= _count_running(cells)
                self._store_results(cells)
                if begun.cancel_requested:
                    if experiment.id not in self._finishing:  # otherwise its report is being written
                        self._cancel(begun, cells)
                elif all(cell.finished for cell in cells):
                    ready.append(begun)
                else:
                    active.append((begun, cells))
        self.cell_counts = count_states(unfinished)
        for experiment, cells in active:
            with self._isolate_errors(experiment.id):
                progress = Progress(phase="checks", detail=describe_progress(cells))
                if progress != experiment.progress:
                    self._experiments.set_progress(experiment.id, progress)
        for experiment, cell in _select_next_cells(active, free):
            # The id may belong to another check, or another caller may have retried the check to its end. The next
            # round shows the cell's state.
            with self._isolate_errors(experiment.id), contextlib.suppress(Conflict, PreconditionFailed):
                if not cell.begun and self._results.exists(cell.cell):
                    self._experiments.restore_cell(experiment.id, cell.cell.check_id)
                    continue
                check = self._checks.create(cell.cell.check_id, cell.cell.request, experiment.creator)
                self._checks.follow_retry(check.id, experiment.retried_at)
        return ready

    def finish(self, experiment: StoredExperiment) -> None:
        """Writes the report of an experiment whose cells have all ended, and marks the experiment as finished."""
        with self._isolate_errors(experiment.id):
            cells = get_cell_statuses(experiment, self._checks)
            succeeded = sum(cell.state == "succeeded" for cell in cells)
            if not succeeded:
                message = f"no check succeeded; {_describe_first_failure(cells)}"
                self._experiments.fail(experiment.id, message, "NO_CHECK_SUCCEEDED")
                return
            self._experiments.set_progress(experiment.id, Progress(phase="report", detail="writing the report"))
            try:
                refs = self._write_report(experiment, cells)
            except DataLoss as loss:
                # The check creates the object again, and the experiment waits. If the check cannot, the cell fails.
                _log.warning("cell_lost", experiment=experiment.id, check=loss.owner, error=loss)
                if loss.kind == CELL:
                    self._experiments.forget_cell(experiment.id, loss.owner)
                    return
                self._checks.reopen(loss.owner, f"{loss.subject}: {loss.message}; it is created again")
                return
            missing = len(cells) - succeeded
            remark = f"; {missing} of {len(cells)} cells have no result" if missing else ""
            self._experiments.succeed(experiment.id, refs, f"finished{remark}")
            _log.info("experiment_succeeded", experiment=experiment.id, cells=len(cells), missing=missing)

    def _begin(self, experiment: StoredExperiment) -> StoredExperiment:
        """Starts an experiment if no artifacts with its id belong to another experiment, as after a lost database."""
        key = experiment_key(experiment.id, "spec.json")
        artifact = SpecArtifact(spec=experiment.spec, pinned_inputs=experiment.pinned).to_json()
        if not self._store.put_if_absent(key, artifact) and self._store.get(key) != artifact:
            raise Conflict(
                "another experiment created it",
                subject=self._store.uri(key),
                remedy="choose another experiment id",
            )
        return self._experiments.begin(experiment.id)

    def _store_results(self, cells: Sequence[CellStatus]) -> None:
        """Stores the results of cells as they finish, so that no result depends on other cells."""
        for cell in cells:
            if cell.state == "succeeded" and not cell.restored:
                with contextlib.suppress(DataLoss):  # the report finds the loss as well, and lets the check repair it
                    self._results.write(cell.cell)

    def _cancel(self, experiment: StoredExperiment, cells: Sequence[CellStatus]) -> None:
        for cell in cells:
            if cell.begun and not cell.finished:
                self._checks.cancel(cell.cell.check_id)
        if not any(cell.begun and not cell.finished for cell in cells):
            self._experiments.mark_cancelled(experiment.id)

    @contextlib.contextmanager
    def _isolate_errors(self, experiment_id: str) -> Iterator[None]:
        """Keeps an error from affecting other experiments. Transient errors are retried; others end the experiment."""
        try:
            yield
        except VfmalignError as error:
            if is_transient(error):
                _log.warning("experiment_delayed", experiment=experiment_id, error=error)
            else:
                _log.warning("experiment_failed", experiment=experiment_id, reason=error.reason, error=error)
                self._experiments.fail(experiment_id, str(error), error.reason)
        except Exception:
            _log.exception("experiment_crashed", experiment=experiment_id)
            self._experiments.fail(experiment_id, "internal error; see the log of the finetuning service", "INTERNAL")


def _select_next_cells(
    active: Sequence[tuple[StoredExperiment, Sequence[CellStatus]]], free: int
) -> Iterator[tuple[StoredExperiment, CellStatus]]:
    """Yields up to `free` cells that may begin now, from the experiment with the fewest running checks first."""
    running = {experiment.id: _count_running(cells) for experiment, cells in active}
    waiting = {
        experiment.id: [cell for cell in cells if not cell.begun and not cell.finished] for experiment, cells in active
    }
    for _ in range(free):
        candidates = [
            experiment
            for experiment, _ in active
            if waiting[experiment.id] and running[experiment.id] < experiment.spec.max_running
        ]
        if not candidates:
            return
        # `min` returns the first of equals, which is the oldest experiment.
        experiment = min(candidates, key=lambda candidate: running[candidate.id])
        running[experiment.id] += 1
        yield experiment, waiting[experiment.id].pop(0)


def _count_running(cells: Sequence[CellStatus]) -> int:
    return sum(cell.begun and not cell.finished for cell in cells)


def _describe_first_failure(cells: Sequence[CellStatus]) -> str:
    first = next((cell for cell in cells if cell.failure is not None), cells[0])
    message = first.failure.message if first.failure is not None else first.progress.detail
    return f"the first, {first.cell.check_id}: {message}"
