"""Steps that the demo and the rehearsal share: phantoms, pretrained models, timings, and an orderly end.

Knows calls and words. Every step may be repeated: what is there already is not made again.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from rich.table import Table

from vfmalign.cli.extras import needs_extra
from vfmalign.cli.local.state_directory import Home
from vfmalign.cli.target import Target
from vfmalign.cli.views.enum_labels import JOB_STATES, OBJECTIVES, word
from vfmalign.cli.views.follow import View, follow_job
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import table
from vfmalign.core.domain.artifacts import SPLITS, Split
from vfmalign.core.domain.errors import NotFound, VfmalignError
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.v1 import finetuning_pb2, finetuning_pb2_grpc

REHEARSAL = "rehearsal on phantoms: not evidence"

_shutdown_requested = threading.Event()


@dataclass
class Clock:
    """Wall time of steps in seconds, by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measures a block.

        Raises:
            KeyboardInterrupt: SIGTERM came meanwhile, and what ran then swallowed the exception, as some imports and
                every finaliser do.
        """
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start
        if _shutdown_requested.is_set():
            raise KeyboardInterrupt

    def table(self, title: str) -> Table:
        """All of them."""
        rows = table(title, "step", "seconds", numbers=["seconds"])
        for name, seconds in self.seconds.items():
            rows.add_row(name, f"{seconds:.1f}")
        return rows


@dataclass(frozen=True)
class Pretraining:
    """A model to be made, under which id and how."""

    dataset: str
    model: str
    architecture: str
    objective: str
    recipe: finetuning_pb2.Recipe
    seed: int

    @property
    def job(self) -> str:
        """Id of the job that makes it."""
        return f"pretrain-{self.model}"


def end_as_interrupted() -> None:
    """Lets SIGTERM end a command as Ctrl-C does, with which asyncio knows how to end a call."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background commands begin without it
    signal.signal(signal.SIGTERM, _end)
    sys.unraisablehook = _remember


def _end(*_: object) -> None:
    _shutdown_requested.set()
    signal.raise_signal(signal.SIGINT)


def _remember(unraisable: sys.UnraisableHookArgs) -> None:
    """An interrupt inside a finaliser, which Python can only print, is raised again by the step it came in."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _shutdown_requested.set()
    else:
        sys.__unraisablehook__(unraisable)


def make_phantoms(target: Target, dataset: str, seed: int, counts: Mapping[Split, int], output: Output) -> None:
    """Generates a dataset of phantoms, unless one of this id is there."""
    with needs_extra("local", "generating phantoms"):
        from vfmalign.imaging.phantoms.dataset import synthesise_dataset

    try:
        made = load_dataset(target.store, dataset)
    except NotFound:
        with output.err.status(f"generating {sum(counts.values())} phantoms"):
            made = synthesise_dataset(target.store, dataset, seed, counts)
    sizes = ", ".join(f"{split} {len(made.split(split))}" for split in SPLITS)
    output.say(f"dataset {dataset}: {sizes} (digest {made.digest()[:12]})")


def pretrain(target: Target, models: Sequence[Pretraining], output: Output, home: Home | None) -> None:
    """Pretrains models, as many at once as the service runs, and follows one after the other.

    Raises:
        VfmalignError: a job did not succeed.
    """

    async def create(channel: grpc.aio.Channel) -> list[finetuning_pb2.Job]:
        stub = finetuning_pb2_grpc.FineTuningServiceStub(channel)
        requests = [finetuning_pb2.CreateJobRequest(job_id=model.job, spec=_spec(model)) for model in models]
        return [(await stub.CreateJob(request)).job for request in requests]

    for model, found in zip(models, target.call("finetuning", create), strict=True):
        job = found if found.HasField("end_time") else _follow(target, model.job, output)
        if word(JOB_STATES, job.state) != "succeeded":
            raise failed(model.job, job.failure, job.status, home)
        output.say(f"model {model.model} is published")


def _follow(target: Target, job: str, output: Output) -> finetuning_pb2.Job:
    with View(output) as view:
        return target.call("finetuning", lambda channel: follow_job(channel, job, view))


def failed(subject: str, failure: finetuning_pb2.Failure, status: str, home: Home | None) -> VfmalignError:
    """Why something did not succeed, and where its logs are: in a local stack's folder, or with a deployment."""
    where = f"in {home.logs} and {home.job_logs}" if home is not None else "of the deployment's services and jobs"
    return VfmalignError(
        failure.message or status,
        subject=subject,
        remedy=f"read the logs {where}",
        reason=failure.reason or "CANCELLED",
    )


def _spec(model: Pretraining) -> finetuning_pb2.JobSpec:
    return finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_PRETRAIN,
        dataset_id=model.dataset,
        architecture=model.architecture,
        objective=OBJECTIVES[model.objective],
        recipe=model.recipe,
        seed=model.seed,
        publish_as=model.model,
    )
