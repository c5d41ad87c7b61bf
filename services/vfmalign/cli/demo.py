"""`vfmalign demo`: one alignment check from nothing, on phantoms: a rehearsal, not evidence.

Knows the order: stack, dataset, pretrained model, check, report. Every number follows from the seed.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from rich.console import RenderableType
from rich.text import Text

from vfmalign.cli.check_tables import summary
from vfmalign.cli.commands.checks import create, fetch_report
from vfmalign.cli.follow import View, follow_check, follow_job
from vfmalign.cli.home import Home
from vfmalign.cli.messages import CHECK_STATES, JOB_STATES, OBJECTIVES, document, word
from vfmalign.cli.output import Output
from vfmalign.cli.stack import bring_down, running
from vfmalign.cli.tables import table
from vfmalign.cli.target import Target
from vfmalign.core.artifacts import Split
from vfmalign.core.errors import BadOption, Conflict, VfmalignError
from vfmalign.v1 import alignment_pb2, finetuning_pb2, finetuning_pb2_grpc

ARCHITECTURE = "profound_conv_micro"
PRESET = "demo"
COUNTS: dict[Split, int] = {"pretrain": 24, "train": 20, "val": 8, "test": 16}
MARK = "demo"
"""An empty file that says that a demo made the folder, and may empty it."""
REHEARSAL = "rehearsal on phantoms: not evidence"


@dataclass
class Clock:
    """Wall time of the demo's own steps, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measures a block."""
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


def run(home: Home, output: Output, *, seed: int, task: str, objective: str, reports: Path, keep: bool) -> None:
    """Runs the demo in a state folder of its own.

    Raises:
        VfmalignError: a step failed; the folder with its logs stays then.
    """
    output.say(REHEARSAL, "bold yellow")
    empty(home)
    home.make()
    (home.path / MARK).touch()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends the demo, its stack is stopped
    clock = Clock()
    found, places = _rehearse(home, output, clock, seed=seed, task=task, objective=objective, reports=reports)
    result = {"check": document(found), "report": places, "seconds": clock.seconds, "note": REHEARSAL}
    output.emit(result, *summary(found, Path(places["html"])), *_times(clock))
    if keep:
        output.say(f"data kept; `vfmalign up --home {home.path}` brings them up again")
    else:
        empty(home)


def empty(home: Home) -> None:
    """Removes what an earlier demo left in a state folder.

    Raises:
        Conflict: a stack runs there.
        BadOption: it holds anything else than a demo.
    """
    if not home.path.exists() or not any(home.path.iterdir()):
        return
    if not (home.path / MARK).exists():
        raise BadOption(
            "the folder is not empty and no demo made it", field="--home", remedy="name another folder: it is emptied"
        )
    state = home.read()
    if state.running:
        raise Conflict(
            "a stack runs in the demo's folder",
            subject="--home",
            remedy=f"end it first: vfmalign down --home {home.path}",
        )
    if state.processes():
        bring_down(home, state)
    shutil.rmtree(home.path)


def _rehearse(
    home: Home, output: Output, clock: Clock, *, seed: int, task: str, objective: str, reports: Path
) -> tuple[alignment_pb2.Check, dict[str, str]]:
    start = time.monotonic()
    with running(home, output.say) as state:
        clock.seconds["stack"] = time.monotonic() - start
        target = Target.of(state)
        dataset = f"phantoms-{seed}"
        with clock.step("phantoms"):
            _make_phantoms(target, dataset, seed, output)
        model = f"{ARCHITECTURE.replace('_', '-')}-{objective.replace('_', '-')}-{seed}"
        with clock.step("pretraining"):
            _pretrain(target, dataset, model, objective=objective, seed=seed, output=output)
        spec = alignment_pb2.CheckSpec(
            model_id=model,
            dataset_id=dataset,
            task=task,
            recipe=finetuning_pb2.Recipe(preset=PRESET),
            seed=seed,
        )
        check_id = f"demo-{task.replace('_', '-')}-{objective.replace('_', '-')}-{seed}"
        with clock.step("check"):
            found = _check(target, check_id, spec, output)
        places = fetch_report(target, found, reports)
        end = time.monotonic()
    clock.seconds["stopping"] = time.monotonic() - end
    clock.seconds["all"] = time.monotonic() - start
    return found, places


def _make_phantoms(target: Target, dataset: str, seed: int, output: Output) -> None:
    from vfmalign.imaging.synthesis import synthesise_dataset

    with output.err.status(f"generating {sum(COUNTS.values())} phantoms"):
        made = synthesise_dataset(target.store, dataset, seed, COUNTS)
    sizes = ", ".join(f"{split} {len(made.split(split))}" for split in COUNTS)
    output.say(f"dataset {dataset}: {sizes} (digest {made.digest()[:12]})")


def _pretrain(target: Target, dataset: str, model: str, *, objective: str, seed: int, output: Output) -> None:
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_PRETRAIN,
        dataset_id=dataset,
        architecture=ARCHITECTURE,
        objective=OBJECTIVES[objective],
        recipe=finetuning_pb2.Recipe(preset=PRESET),
        seed=seed,
        publish_as=model,
    )
    job_id = f"pretrain-{model}"

    async def ask(channel: grpc.aio.Channel) -> finetuning_pb2.Job:
        stub = finetuning_pb2_grpc.FineTuningServiceStub(channel)
        await stub.CreateJob(finetuning_pb2.CreateJobRequest(job_id=job_id, spec=spec))
        return await follow_job(channel, job_id, view)

    with View(output) as view:
        job = target.call("finetuning", ask)
    if word(JOB_STATES, job.state) != "succeeded":
        raise VfmalignError(
            job.failure.message or job.status,
            subject=job_id,
            remedy="the logs are in the demo's state folder",
            reason=job.failure.reason or "JOB_CANCELLED",
        )
    output.say(f"model {model} is published")


def _check(target: Target, check_id: str, spec: alignment_pb2.CheckSpec, output: Output) -> alignment_pb2.Check:
    create(target, check_id, spec)
    with View(output) as view:
        found = target.call("finetuning", lambda channel: follow_check(channel, check_id, view))
    if word(CHECK_STATES, found.state) != "succeeded":
        raise VfmalignError(
            found.failure.message or found.status,
            subject=check_id,
            remedy="the logs are in the demo's state folder",
            reason=found.failure.reason or "CHECK_CANCELLED",
        )
    return found


def _times(clock: Clock) -> list[RenderableType]:
    rows: Any = table("The demo's own steps", "step", "seconds", numbers=["seconds"])
    for name, seconds in clock.seconds.items():
        rows.add_row(name, f"{seconds:.1f}")
    return ["", rows, Text(REHEARSAL, style="bold yellow")]
