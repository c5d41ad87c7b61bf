"""Experiments whose checks end on request, in real repositories, and whose process may die at any action."""

import uuid

from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.finetuning.checks.repository import CheckRepository, ReportRefs
from vfmalign.finetuning.experiments.cell_status import get_cell_statuses
from vfmalign.finetuning.experiments.repository import ExperimentRefs, ExperimentRepository
from vfmalign.finetuning.experiments.request import PinnedInputs
from vfmalign.finetuning.experiments.runner import ExperimentRunner

REF = StoredFile(key="k", sha256="0" * 64, size_bytes=1)
MODELS = ("m1", "m2")
TASKS = ("segmentation", "distortion")


class Killed(BaseException):
    """The process is gone."""


class Mortal:
    """Passes calls on; every call is an action, and the process dies after one of them."""

    def __init__(self, inner, clock):
        self._inner, self._clock = inner, clock

    def __getattr__(self, name):
        return self._clock.mortal(getattr(self._inner, name))


class Clock:
    """Counts actions; the process dies after action `deadly`, which leaves what a death before the next one would."""

    def __init__(self, deadly=None):
        self.now, self.deadly = 0, deadly

    def mortal(self, act):
        def call(*args, **kwargs):
            result = act(*args, **kwargs)
            self.now += 1
            if self.now == self.deadly:
                raise Killed
            return result

        return call


class Results:
    """Results of cells by digest."""

    def __init__(self):
        self.stored = set()

    def exists(self, cell):
        return cell.result_digest in self.stored

    def write(self, cell):
        self.stored.add(cell.result_digest)


class World:
    """Repositories, and checks that end on request."""

    def __init__(self, database, store):
        self.experiments, self.checks, self.store = ExperimentRepository(database), CheckRepository(database), store
        self.reported, self.errors, self.retries = [], [], []
        self.results = Results()

    def create(self, **fields):
        """An experiment under an id that the bucket does not know."""
        values = {
            "model_ids": MODELS,
            "dataset_id": f"d-{uuid.uuid4().hex[:8]}",
            "tasks": TASKS,
            "seeds": (0,),
            "max_running": 2,
        } | fields
        spec = ExperimentSpec(**values)
        sha256, metrics = ("a" * 64,) * len(spec.model_ids), ("lesion_dice",) * len(spec.tasks)
        pinned = PinnedInputs(dataset_digest="d" * 64, model_sha256=sha256, primary_metrics=metrics)
        return self.experiments.create(f"s-{uuid.uuid4().hex[:8]}", spec, pinned).id

    def runner(self, clock=None, max_checks=3):
        clock = clock or Clock()
        return ExperimentRunner(
            experiments=Mortal(self.experiments, clock), checks=Mortal(self.checks, clock),
            store=Mortal(self.store, clock), results=Mortal(self.results, clock),
            write_report=clock.mortal(self.write_report), max_checks=max_checks, poll_s=0.01,
        )  # fmt: skip

    def write_report(self, experiment, cells):
        if self.errors:
            raise self.errors.pop()
        self.reported.append((experiment.id, [cell.state for cell in cells]))
        self.retries.append(experiment.retries)
        return ExperimentRefs(json_ref=REF, html_ref=REF, csv_ref=REF)

    def cells(self, experiment):
        return get_cell_statuses(self.experiments.get(experiment), self.checks)

    def running(self, experiment):
        return [cell.cell.check_id for cell in self.cells(experiment) if cell.begun and not cell.finished]

    def end(self, check, state="succeeded"):
        self.checks.begin(check)
        if state == "succeeded":
            self.checks.succeed(check, ReportRefs(json_ref=REF, html_ref=REF))
        elif state == "failed":
            self.checks.fail(check, "not a volume", "BAD_VOLUME")
        else:
            self.checks.cancel(check)
            self.checks.mark_cancelled(check)

    def finish(self, experiment, runner, state="succeeded"):
        """Rounds until the experiment has ended; every check that runs ends between two of them."""
        for _ in range(20):
            for ready in runner.reconcile():
                runner.finish(ready)
            if self.experiments.get(experiment).finished:
                return self.experiments.get(experiment)
            for check in self.running(experiment):
                self.end(check, state)
        raise AssertionError(f"{experiment} does not end: {self.experiments.get(experiment).progress.detail}")
