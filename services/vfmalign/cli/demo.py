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

import grpc
from rich.console import RenderableType
from rich.text import Text

from vfmalign.cli.check_tables import summary
from vfmalign.cli.commands.checks import create, fetch_report, jobs_of
from vfmalign.cli.follow import View, follow_check, follow_job
from vfmalign.cli.home import Home
from vfmalign.cli.messages import CHECK_STATES, JOB_STATES, OBJECTIVES, word
from vfmalign.cli.output import Output
from vfmalign.cli.stack import bring_down, running
from vfmalign.cli.tables import table
from vfmalign.cli.target import Target
from vfmalign.core.artifacts import Split
from vfmalign.core.documents import document
from vfmalign.core.errors import BadOption, Conflict, VfmalignError
from vfmalign.v1 import alignment_pb2, finetuning_pb2, finetuning_pb2_grpc

ARCHITECTURE = "profound_conv_micro"
PRESET = "demo"
COUNTS: dict[Split, int] = {"pretrain": 24, "train": 20, "val": 8, "test": 16}
DEFAULT_SEED = 2024
"""Chosen before any of its numbers were seen: the recipe was tuned on seeds 0 and 11 (docs/decisions.md)."""
MARK = "demo"
"""An empty file that says that a demo made the folder, and may empty it."""
REHEARSAL = "rehearsal on phantoms: not evidence"


@dataclass(frozen=True)
class Plan:
    """What is rehearsed; the ids follow from it."""

    seed: int
    task: str
    objective: str

    @property
    def dataset(self) -> str:
        """Id of the phantoms."""
        return f"phantoms-{self.seed}"

    @property
    def model(self) -> str:
        """Id of the pretrained model."""
        return f"{ARCHITECTURE}-{self.objective}-{self.seed}".replace("_", "-")

    @property
    def check(self) -> str:
        """Id of the check."""
        return f"demo-{self.task}-{self.objective}-{self.seed}".replace("_", "-")


@dataclass
class Outcome:
    """What came of it; wall time of the demo's own steps in seconds."""

    check: alignment_pb2.Check = field(default_factory=alignment_pb2.Check)
    jobs: list[finetuning_pb2.Job] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measures a block."""
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


def run(home: Home, output: Output, plan: Plan, *, reports: Path, keep: bool) -> None:
    """Runs the demo in a state folder of its own.

    Raises:
        VfmalignError: a step failed; the folder with its logs stays then.
    """
    output.say(REHEARSAL, "bold yellow")
    empty(home)
    home.make()
    (home.path / MARK).touch()
    # Whoever ends the demo, its stack is stopped. Passed on as SIGINT, which asyncio knows how to end a call with.
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background commands begin without it
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    outcome = Outcome()
    try:
        with outcome.step("all"):
            _rehearse(home, output, plan, outcome, reports)
    except KeyboardInterrupt:
        output.say("\nthe demo was ended; its stack is stopped")
        raise
    output.emit(
        {
            "check": document(outcome.check),
            "report": outcome.places,
            "seconds": outcome.seconds,
            "note": REHEARSAL,
        },
        *summary(outcome.check, Path(outcome.places["html"]), outcome.jobs),
        *_end(outcome),
    )
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


def _rehearse(home: Home, output: Output, plan: Plan, outcome: Outcome, reports: Path) -> None:
    start = time.monotonic()
    with running(home, output.say) as state:
        outcome.seconds["stack"] = time.monotonic() - start
        target = Target.of(state)
        with outcome.step("phantoms"):
            _make_phantoms(target, plan, output)
        with outcome.step("pretraining"):
            _pretrain(target, plan, output, home)
        with outcome.step("check"):
            outcome.check = _check(target, plan, output, home)
        outcome.jobs = jobs_of(target, outcome.check)
        outcome.places = fetch_report(target, outcome.check, reports)
        end = time.monotonic()
    outcome.seconds["stopping"] = time.monotonic() - end


def _make_phantoms(target: Target, plan: Plan, output: Output) -> None:
    from vfmalign.imaging.synthesis import synthesise_dataset

    with output.err.status(f"generating {sum(COUNTS.values())} phantoms"):
        made = synthesise_dataset(target.store, plan.dataset, plan.seed, COUNTS)
    sizes = ", ".join(f"{split} {len(made.split(split))}" for split in COUNTS)
    output.say(f"dataset {plan.dataset}: {sizes} (digest {made.digest()[:12]})")


def _pretrain(target: Target, plan: Plan, output: Output, home: Home) -> None:
    job_id = f"pretrain-{plan.model}"
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_PRETRAIN,
        dataset_id=plan.dataset,
        architecture=ARCHITECTURE,
        objective=OBJECTIVES[plan.objective],
        recipe=finetuning_pb2.Recipe(preset=PRESET),
        seed=plan.seed,
        publish_as=plan.model,
    )

    async def ask(channel: grpc.aio.Channel) -> finetuning_pb2.Job:
        stub = finetuning_pb2_grpc.FineTuningServiceStub(channel)
        await stub.CreateJob(finetuning_pb2.CreateJobRequest(job_id=job_id, spec=spec))
        return await follow_job(channel, job_id, view)

    with View(output) as view:
        job = target.call("finetuning", ask)
    if word(JOB_STATES, job.state) != "succeeded":
        raise _failed(job_id, job.failure, job.status, home)
    output.say(f"model {plan.model} is published")


def _check(target: Target, plan: Plan, output: Output, home: Home) -> alignment_pb2.Check:
    spec = alignment_pb2.CheckSpec(
        model_id=plan.model,
        dataset_id=plan.dataset,
        task=plan.task,
        recipe=finetuning_pb2.Recipe(preset=PRESET),
        seed=plan.seed,
    )
    create(target, plan.check, spec)
    with View(output) as view:
        found = target.call("finetuning", lambda channel: follow_check(channel, plan.check, view))
    if word(CHECK_STATES, found.state) != "succeeded":
        raise _failed(plan.check, found.failure, found.status, home)
    return found


def _failed(subject: str, failure: finetuning_pb2.Failure, status: str, home: Home) -> VfmalignError:
    return VfmalignError(
        failure.message or status,
        subject=subject,
        remedy=f"read the logs in {home.logs} and {home.job_logs}",
        reason=failure.reason or "CANCELLED",
    )


def _end(outcome: Outcome) -> list[RenderableType]:
    rows = table("The demo's own steps", "step", "seconds", numbers=["seconds"])
    for name, seconds in outcome.seconds.items():
        rows.add_row(name, f"{seconds:.1f}")
    return ["", rows, Text(REHEARSAL, style="bold yellow")]
