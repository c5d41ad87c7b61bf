"""`vfmalign demo`: one alignment check on phantoms, from an empty stack to the report.

The seed determines every number. The demo runs on its own local stack, or on the deployment that the environment names.
On a deployment, a second run shows the existing result.
"""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from vfmalign.cli.commands.api.lifecycle import create_reports_folder, download_report
from vfmalign.cli.demo.steps import (
    REHEARSAL,
    PretrainingRun,
    Stopwatch,
    generate_phantoms,
    handle_sigterm_as_interrupt,
    pretrain,
    to_error,
)
from vfmalign.cli.extras import LOCAL_MODULES, require_modules
from vfmalign.cli.local.environment import get_small_network_settings
from vfmalign.cli.local.stack import bring_down, running_stack
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.cli.resources import CHECKS
from vfmalign.cli.target import Target
from vfmalign.cli.views.check_tables import show_check
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.checks import Check, CheckSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.errors import BadOption, Conflict
from vfmalign.core.domain.models import Objective
from vfmalign.core.domain.task_text import to_id_part

ARCHITECTURE = "profound_conv_micro"
PRESET = "demo"
COUNTS: dict[Split, int] = {"pretrain": 24, "train": 20, "val": 8, "test": 20}
DEFAULT_SEED = 2024
"""Chosen before any of its numbers were seen: the recipe was tuned on seeds 0 and 11 (docs/adr/0020-*.md)."""
NEXT_STEPS = """\
Your own volumes:
  vfmalign up --detach; vfmalign dataset import DIR; vfmalign check DATASET --model MODEL --task segmentation"""
MARKER_FILE = "demo"
"""Marks a folder that a demo created, so that a later demo may delete it."""


@dataclass(frozen=True)
class DemoPlan:
    """The parameters of a demo. They determine its ids."""

    seed: int
    task: str
    objective: Objective
    seeds: int = 1

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
        seeds = f"-{self.seeds}-seeds" if self.seeds > 1 else ""
        return f"demo-{to_id_part(self.task)}-{self.objective}-{self.seed}{seeds}".replace("_", "-")

    def pretraining(self) -> PretrainingRun:
        """Returns the settings of the pretraining."""
        recipe = Recipe(preset=PRESET)
        return PretrainingRun(self.dataset, self.model, ARCHITECTURE, self.objective, recipe, self.seed)


@dataclass(frozen=True)
class DemoResult:
    """Results of a demo: the check, and the paths of the downloaded report."""

    check: Check
    report: dict[str, str]


def run(directory: StateDirectory, output: Output, plan: DemoPlan, *, reports: Path, keep: bool) -> None:
    """Runs the demo on its own local stack, in a state folder.

    Raises:
        VfmalignError: a step failed. The state folder is kept with the step's logs.
    """
    require_modules("local", "a local stack", LOCAL_MODULES)
    create_reports_folder(reports)
    output.note(REHEARSAL, "bold yellow")
    delete_demo(directory)
    directory.create()
    (directory.path / MARKER_FILE).touch()
    handle_sigterm_as_interrupt()
    stopwatch, serves = Stopwatch(), threading.Event()

    def note_event(event: str) -> None:
        if serves.is_set() or not output.brief:
            output.note(event)

    try:
        with stopwatch.step("all"):
            start = time.monotonic()
            with running_stack(directory, note_event, get_small_network_settings()) as state:
                serves.set()
                stopwatch.seconds["stack"] = time.monotonic() - start
                output.note(f"✓ {'stack':<20} {stopwatch.seconds['stack']:6.1f} s", "green")
                target = Target.from_state(directory, state)
                result = _run_steps(target, output, plan, stopwatch, directory=directory, reports=reports)
                end = time.monotonic()
            stopwatch.seconds["stopping"] = time.monotonic() - end
    except KeyboardInterrupt:
        output.note("\nthe demo was interrupted; its stack is stopped")
        raise
    _emit(result, stopwatch, output)
    if keep:
        output.note(f"the data were kept; {directory.get_command('up')} starts the stack again")
    else:
        delete_demo(directory)


def run_on_deployment(target: Target, output: Output, plan: DemoPlan, *, reports: Path) -> None:
    """Runs the demo on a deployment. Its data stay there.

    Raises:
        VfmalignError: a step failed.
    """
    create_reports_folder(reports)
    output.note(REHEARSAL, "bold yellow")
    stopwatch = Stopwatch()
    with stopwatch.step("all"):
        target.store.ensure_bucket()
        result = _run_steps(target, output, plan, stopwatch, directory=None, reports=reports)
    _emit(result, stopwatch, output)


def delete_demo(directory: StateDirectory) -> None:
    """Deletes the state folder of an earlier demo.

    Raises:
        Conflict: a stack runs there.
        BadOption: the folder was not created by a demo.
    """
    if not directory.path.exists() or not any(directory.path.iterdir()):
        return
    if not (directory.path / MARKER_FILE).exists():
        raise BadOption(
            "the folder is not empty and was not created by a demo",
            field="--home",
            remedy="choose another folder, because the demo deletes its content",
        )
    state = directory.read()
    if state.running:
        raise Conflict(
            "a stack runs in the demo's folder",
            subject="--home",
            remedy=f"stop it first with {directory.get_command('down')}",
        )
    if state.list_processes():
        bring_down(directory, state)
    shutil.rmtree(directory.path)


def _run_steps(
    target: Target,
    output: Output,
    plan: DemoPlan,
    stopwatch: Stopwatch,
    *,
    directory: StateDirectory | None,
    reports: Path,
) -> DemoResult:
    with stopwatch.step("phantoms"):
        generate_phantoms(target, plan.dataset, plan.seed, COUNTS, output)
    with stopwatch.step("pretraining"):
        pretrain(target, [plan.pretraining()], output, directory)
    with stopwatch.step("check"):
        check = _run_check(target, plan, output)
    if check.result is None:
        raise to_error(plan.check, check, directory)
    report = download_report(target, CHECKS, plan.check, CHECKS.list_files(check), reports)
    return DemoResult(check, report)


def _run_check(target: Target, plan: DemoPlan, output: Output) -> Check:
    spec = CheckSpec(
        model_id=plan.model,
        dataset_id=plan.dataset,
        task=Task.parse(plan.task),
        recipe=Recipe(preset=PRESET),
        scratch_recipe=Recipe(preset=PRESET),  # of its own: trying either recipe would double the trainings
        seed=plan.seed,
        seeds=plan.seeds,
    )
    CHECKS.create(target, plan.check, spec)
    return CHECKS.follow(target, plan.check, output)


def _emit(result: DemoResult, stopwatch: Stopwatch, output: Output) -> None:
    lines = ["", *show_check(result.check, result.report["html"])]
    if output.brief:
        lines.append(Text(NEXT_STEPS, style="dim"))
    else:
        lines += ["", stopwatch.to_table("Steps of the demo"), Text(REHEARSAL, style="bold yellow")]
    output.emit(
        {
            "check": result.check.to_json_dict(),
            "report": result.report,
            "seconds": stopwatch.seconds,
            "note": REHEARSAL,
        },
        *lines,
    )
