"""`vfmalign rehearse`: a whole experiment on phantoms or on real volumes, from an empty stack to the report.

The steps are stack, dataset, pretrained models, experiment and report. Their ids follow from the size and the seed, so
running the same command again resumes an interrupted rehearsal and repeats nothing. `real_plan` has the plan of a
rehearsal on real volumes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from rich.text import Text

from vfmalign.cli.commands.api import experiments
from vfmalign.cli.commands.api.lifecycle import create_reports_folder
from vfmalign.cli.demo.cell_folder import CellFolder
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
from vfmalign.cli.local.stack import running_stack
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.cli.resources import EXPERIMENTS
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.errors import NotFound, VfmalignError
from vfmalign.core.domain.models import Objective

DEFAULT_SEED = 2025
"""Chosen before any of its numbers were seen."""
MAX_CHECKS = 3
"""Concurrent checks: while one extracts features or compares, the jobs of the others keep every core busy."""
PHANTOM_TASKS = ("segmentation", "super_resolution", "distortion", "translation", "classification")


class Plan(Protocol):
    """What a rehearsal runs, from which its ids follow."""

    @property
    def note(self) -> str:
        """What the result is evidence of, in one line."""

    @property
    def experiment(self) -> str:
        """Id of the experiment."""

    @property
    def superseded(self) -> str:
        """Id of an experiment that this one goes on from; empty for none."""

    @property
    def dataset(self) -> str:
        """Id of the dataset."""

    def create_inputs(self, target: Target, directory: StateDirectory, output: Output) -> None:
        """Creates the dataset and imports models, unless they exist."""

    def pretrainings(self) -> list[PretrainingRun]:
        """Returns how the models are pretrained."""

    def spec(self) -> ExperimentSpec:
        """Returns the specification of the experiment."""


@dataclass(frozen=True)
class Size:
    """The size of a rehearsal.

    Attributes:
        models: architecture and objective of each model.
        counts: number of phantoms by split.
        seeds: number of seeds, counted from the rehearsal's seed.
        pretraining: recipe of every model: the same budget for all, learning rates by objective.
        finetuning: recipe of every check.
        tasks: tasks of the experiment.
    """

    models: tuple[tuple[str, Objective], ...]
    counts: Mapping[Split, int]
    seeds: int
    pretraining: Recipe
    finetuning: Recipe
    tasks: tuple[str, ...] = PHANTOM_TASKS


_SMALL: tuple[tuple[str, Objective], ...] = (
    # One architecture with both objectives separates the effect of the objective from that of the architecture.
    ("profound_conv_micro", "masked_reconstruction"),
    ("profound_conv_micro", "contrastive"),
    ("provicnet_fusion_micro", "contrastive"),
)

SIZES: dict[str, Size] = {
    "small": Size(
        models=_SMALL,
        counts={"pretrain": 24, "train": 20, "val": 8, "test": 20},
        seeds=1,
        pretraining=Recipe(preset="demo", epochs=8, steps_per_epoch=16, batch_size=8),
        finetuning=Recipe(preset="demo", epochs=16, probe_steps=(32, 64, 128)),
    ),
    "evidence": Size(
        # Five models: fewer cannot support or contradict a claim across models.
        models=(*_SMALL, ("profound_vit_micro", "masked_reconstruction"), ("profound_vit_micro", "contrastive")),
        counts={"pretrain": 120, "train": 80, "val": 24, "test": 120},
        seeds=3,
        pretraining=Recipe(preset="demo", epochs=20, steps_per_epoch=30, batch_size=8),
        finetuning=Recipe(preset="demo", epochs=16, steps_per_epoch=32, probe_steps=(32, 64, 128)),
    ),
}


@dataclass(frozen=True)
class RehearsalPlan:
    """The parameters of a rehearsal on phantoms."""

    note: ClassVar[str] = REHEARSAL
    superseded: ClassVar[str] = ""
    name: str
    size: Size
    seed: int

    @property
    def experiment(self) -> str:
        """Id of the experiment."""
        return f"{self.name}-{self.seed}"

    @property
    def dataset(self) -> str:
        """Id of the phantoms."""
        return f"phantoms-{self.experiment}"

    def create_inputs(self, target: Target, directory: StateDirectory, output: Output) -> None:
        """Generates the phantoms, unless they exist."""
        generate_phantoms(target, self.dataset, self.seed, self.size.counts, output)

    def pretrainings(self) -> list[PretrainingRun]:
        """Returns how the models are pretrained."""
        pretrainings = []
        for architecture, objective in self.size.models:
            # Short, so that the ids of checks, which contain it, are not replaced by a digest.
            short = f"{architecture.removesuffix('_micro')}-{objective.partition('_')[0]}".replace("_", "-")
            model = f"{short}-{self.experiment}"
            pretrainings.append(
                PretrainingRun(self.dataset, model, architecture, objective, self.size.pretraining, self.seed)
            )
        return pretrainings

    def spec(self) -> ExperimentSpec:
        """Returns the specification of the experiment."""
        return ExperimentSpec(
            model_ids=tuple(pretraining.model for pretraining in self.pretrainings()),
            dataset_id=self.dataset,
            tasks=tuple(map(Task.parse, self.size.tasks)),
            seeds=tuple(self.seed + number for number in range(self.size.seeds)),
            recipe=self.size.finetuning,
            max_running=MAX_CHECKS,
            title=REHEARSAL,
        )


def get_stack_settings() -> dict[str, str]:
    """Returns the settings of the services.

    The orchestrator polls once per second: at the default rate it takes a seventh of a core from the jobs.
    """
    return get_small_network_settings() | {"VFMALIGN_RECONCILER__POLL_S": "1"}


def run(directory: StateDirectory, output: Output, plan: Plan, reports: Path, cells: CellFolder | None = None) -> None:
    """Runs a rehearsal in a state folder, which is kept in any case.

    Raises:
        VfmalignError: a step failed.
        typer.Exit: code 1 if the experiment did not succeed, else 0.
    """
    require_modules("local", "a local stack", LOCAL_MODULES)
    create_reports_folder(reports)
    output.note(plan.note, "bold yellow")
    directory.create()
    handle_sigterm_as_interrupt()
    try:
        with running_stack(directory, output.note, get_stack_settings()) as state:
            rehearse(Target.from_state(directory, state), directory, output, plan, reports, cells=cells)
    except KeyboardInterrupt:
        output.note("\nthe stack is stopped and its data are kept; run the same command again to resume")
        raise
    except VfmalignError:
        output.note(f"the data are kept in {directory.path}; delete the folder to start over")
        raise


def rehearse(
    target: Target,
    directory: StateDirectory,
    output: Output,
    plan: Plan,
    reports: Path,
    *,
    cells: CellFolder | None = None,
) -> None:
    """Runs the steps on a running stack. Steps that are done are not repeated. Raises as `run`."""
    stopwatch = Stopwatch()
    with stopwatch.step("dataset"):
        plan.create_inputs(target, directory, output)
    with stopwatch.step("pretraining"):
        published = cells.restore_models(target.store) if cells else frozenset()
        models = plan.pretrainings()
        pretrain(target, [model for model in models if model.model not in published], output, directory)
        if cells:
            cells.save_models(target.store, [model.model for model in models])
    with stopwatch.step("experiment"), cells.keep_in_step(target.store, output) if cells else nullcontext():
        if plan.superseded:
            with suppress(NotFound):
                EXPERIMENTS.cancel(target, plan.superseded)  # its finished cells are not computed again
        EXPERIMENTS.create(target, plan.experiment, plan.spec())
        experiment = EXPERIMENTS.follow(target, plan.experiment, output)
    if experiment.state != "succeeded":
        raise to_error(plan.experiment, experiment, directory)
    output.note(f"the data are kept in {directory.path}; {directory.get_command('up')} starts the stack again", "dim")
    experiments.finish_experiment(
        target,
        experiment,
        output,
        reports,
        ["", stopwatch.to_table("Steps of the rehearsal"), Text(plan.note, style="bold yellow")],
        seconds=stopwatch.seconds,
        note=plan.note,
    )
