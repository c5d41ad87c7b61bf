"""`vfmalign demo`: one alignment check from nothing, on phantoms: a rehearsal, not evidence.

Knows the order: stack, dataset, pretrained model, check, report. Every number follows from the seed. It runs on a stack
of its own, or on the deployment that the environment names: there it is done once, and again shown.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from vfmalign.cli.commands.checks import create, fetch_report, jobs_of
from vfmalign.cli.demo.steps import REHEARSAL, Clock, Pretraining, end_as_interrupted, failed, make_phantoms, pretrain
from vfmalign.cli.extras import LOCAL_MODULES, require_modules
from vfmalign.cli.local.environment import small_networks
from vfmalign.cli.local.stack import bring_down, running
from vfmalign.cli.local.state_directory import Home
from vfmalign.cli.target import Target
from vfmalign.cli.views.check_tables import summary
from vfmalign.cli.views.enum_labels import CHECK_STATES, word
from vfmalign.cli.views.follow import View, follow_check
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.artifacts import Split
from vfmalign.core.domain.documents import to_json_dict
from vfmalign.core.domain.errors import BadOption, Conflict
from vfmalign.v1 import alignment_pb2, finetuning_pb2

ARCHITECTURE = "profound_conv_micro"
PRESET = "demo"
COUNTS: dict[Split, int] = {"pretrain": 24, "train": 20, "val": 8, "test": 16}
DEFAULT_SEED = 2024
"""Chosen before any of its numbers were seen: the recipe was tuned on seeds 0 and 11 (docs/adr/0020-*.md)."""
MARK = "demo"
"""An empty file that says that a demo made the folder, and may empty it."""


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

    def pretraining(self) -> Pretraining:
        """How the model is made."""
        recipe = finetuning_pb2.Recipe(preset=PRESET)
        return Pretraining(self.dataset, self.model, ARCHITECTURE, self.objective, recipe, self.seed)


@dataclass
class Outcome:
    """What came of it."""

    check: alignment_pb2.Check = field(default_factory=alignment_pb2.Check)
    jobs: list[finetuning_pb2.Job] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)


def run(home: Home, output: Output, plan: Plan, *, reports: Path, keep: bool) -> None:
    """Runs the demo on a stack of its own, in a state folder.

    Raises:
        VfmalignError: a step failed; the folder with its logs stays then.
    """
    require_modules("local", "a local stack", LOCAL_MODULES)
    output.say(REHEARSAL, "bold yellow")
    empty(home)
    home.make()
    (home.path / MARK).touch()
    end_as_interrupted()
    outcome = Outcome()
    try:
        with outcome.clock.step("all"):
            start = time.monotonic()
            with running(home, output.say, small_networks()) as state:
                outcome.clock.seconds["stack"] = time.monotonic() - start
                _rehearse(Target.of(state), output, plan, outcome, home=home, reports=reports)
                end = time.monotonic()
            outcome.clock.seconds["stopping"] = time.monotonic() - end
    except KeyboardInterrupt:
        output.say("\nthe demo was ended; its stack is stopped")
        raise
    _show(outcome, output)
    if keep:
        output.say(f"data kept; `vfmalign up --home {home.path}` brings them up again")
    else:
        empty(home)


def run_there(target: Target, output: Output, plan: Plan, *, reports: Path) -> None:
    """Runs the demo on a deployment, and leaves its data there.

    Raises:
        VfmalignError: a step failed.
    """
    output.say(REHEARSAL, "bold yellow")
    outcome = Outcome()
    with outcome.clock.step("all"):
        target.store.ensure_bucket()
        _rehearse(target, output, plan, outcome, home=None, reports=reports)
    _show(outcome, output)


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
    target: Target, output: Output, plan: Plan, outcome: Outcome, *, home: Home | None, reports: Path
) -> None:
    with outcome.clock.step("phantoms"):
        make_phantoms(target, plan.dataset, plan.seed, COUNTS, output)
    with outcome.clock.step("pretraining"):
        pretrain(target, [plan.pretraining()], output, home)
    with outcome.clock.step("check"):
        outcome.check = _check(target, plan, output, home)
    outcome.jobs = jobs_of(target, outcome.check)
    outcome.places = fetch_report(target, outcome.check, reports)


def _check(target: Target, plan: Plan, output: Output, home: Home | None) -> alignment_pb2.Check:
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
        raise failed(plan.check, found.failure, found.status, home)
    return found


def _show(outcome: Outcome, output: Output) -> None:
    output.emit(
        {
            "check": to_json_dict(outcome.check),
            "report": outcome.places,
            "seconds": outcome.clock.seconds,
            "note": REHEARSAL,
        },
        *summary(outcome.check, Path(outcome.places["html"]), outcome.jobs),
        "",
        outcome.clock.table("The demo's own steps"),
        Text(REHEARSAL, style="bold yellow"),
    )
