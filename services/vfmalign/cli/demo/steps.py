"""Steps of the demo and of `bench.evidence`. Every step can be repeated: existing results are not computed again."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.table import Table

from vfmalign.cli.extras import needs_extra
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.cli.resources import JOBS
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import new_table
from vfmalign.client.messages.checks import Check
from vfmalign.client.messages.experiments import Experiment
from vfmalign.client.messages.jobs import Job, JobSpec, Recipe
from vfmalign.core.domain.datasets import SPLITS, Split
from vfmalign.core.domain.errors import NotFound, VfmalignError
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.models import Objective
from vfmalign.core.storage.datasets import load_dataset

REHEARSAL = "rehearsal on phantoms: not evidence"

_shutdown_requested = threading.Event()


@dataclass
class Stopwatch:
    """Measures the wall time of each step in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measures a block.

        Raises:
            KeyboardInterrupt: SIGTERM arrived during the block, but the block swallowed the exception. Some imports and
                all finalisers swallow exceptions.
        """
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start
        if _shutdown_requested.is_set():
            raise KeyboardInterrupt

    def to_table(self, title: str) -> Table:
        """Returns the steps as a table."""
        table = new_table(title, "step", "seconds", numbers=["seconds"])
        for name, seconds in self.seconds.items():
            table.add_row(name, f"{seconds:.1f}")
        return table


@dataclass(frozen=True)
class PretrainingRun:
    """A model to pretrain: its id and its training."""

    dataset: str
    model: str
    architecture: str
    objective: Objective
    recipe: Recipe
    seed: int
    modality_map: ModalityMap = field(default_factory=dict)

    @property
    def job(self) -> str:
        """Id of the pretraining job."""
        return f"pretrain-{self.model}"

    def to_spec(self) -> JobSpec:
        """Returns the specification of the pretraining job."""
        return JobSpec(
            kind="pretrain",
            dataset_id=self.dataset,
            architecture=self.architecture,
            objective=self.objective,
            recipe=self.recipe,
            seed=self.seed,
            publish_as=self.model,
            modality_map=self.modality_map,
        )


def handle_sigterm_as_interrupt() -> None:
    """Handles SIGTERM like Ctrl-C: asyncio cancels the running call."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background commands start with SIGINT ignored
    signal.signal(signal.SIGTERM, _request_shutdown)
    sys.unraisablehook = _record_interrupt


def _request_shutdown(*_: object) -> None:
    _shutdown_requested.set()
    signal.raise_signal(signal.SIGINT)


def _record_interrupt(unraisable: sys.UnraisableHookArgs) -> None:
    """Records an interrupt in a finaliser, which Python can only print; the current step raises it again."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _shutdown_requested.set()
    else:
        sys.__unraisablehook__(unraisable)


def generate_phantoms(target: Target, dataset_id: str, seed: int, counts: Mapping[Split, int], output: Output) -> None:
    """Generates a dataset of phantoms, unless a dataset with this id exists."""
    with needs_extra("local", "generating phantoms"):
        from vfmalign.imaging.phantoms.dataset import synthesise_dataset

    try:
        dataset = load_dataset(target.store, dataset_id)
    except NotFound:
        with output.err.status(f"generating {sum(counts.values())} phantoms"):
            dataset = synthesise_dataset(target.store, dataset_id, seed, counts)
    sizes = ", ".join(f"{split} {len(dataset.split(split))}" for split in SPLITS)
    output.note(f"dataset {dataset_id}: {sizes} (digest {dataset.digest()[:12]})")


def pretrain(
    target: Target, models: Sequence[PretrainingRun], output: Output, directory: StateDirectory | None
) -> None:
    """Pretrains models and follows their jobs one by one. The service decides how many jobs run at the same time.

    Raises:
        VfmalignError: a job did not succeed.
    """
    jobs = [JOBS.create(target, model.job, model.to_spec()) for model in models]
    for model, created in zip(models, jobs, strict=True):
        job = JOBS.follow(target, model.job, output) if created.end_time is None else created
        if job.state != "succeeded":
            raise to_error(model.job, job, directory)
        if not output.brief:
            output.note(f"model {model.model} is published")


def to_error(subject: str, operation: Job | Check | Experiment, directory: StateDirectory | None) -> VfmalignError:
    """Returns the error for a job, check or experiment that did not succeed. The remedy of the error names the logs."""
    logs = f"in {directory.logs} and {directory.job_logs}" if directory is not None else "of the deployment"
    failure = operation.failure
    return VfmalignError(
        operation.progress.detail if failure is None else failure.message,
        subject=subject,
        remedy=f"read the logs {logs}",
        reason="CANCELLED" if failure is None else failure.reason,
    )
