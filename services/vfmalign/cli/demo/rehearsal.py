"""`vfmalign rehearse`: a whole experiment from nothing, on phantoms: a rehearsal, not evidence.

Steps: stack, dataset, pretrained models, experiment, report. Every step has an id that follows from
size and seed and is done once: the same command again goes on where the last one ended, however it ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from vfmalign.cli.commands import experiments
from vfmalign.cli.demo.steps import REHEARSAL, Clock, Pretraining, end_as_interrupted, failed, make_phantoms, pretrain
from vfmalign.cli.extras import LOCAL_MODULES, require_modules
from vfmalign.cli.local.environment import small_networks
from vfmalign.cli.local.stack import running
from vfmalign.cli.local.state_directory import Home
from vfmalign.cli.target import Target
from vfmalign.cli.views.enum_labels import EXPERIMENT_STATES, word
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.artifacts import Split
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.domain.tasks import TASKS
from vfmalign.v1 import experiment_pb2, finetuning_pb2

DEFAULT_SEED = 2025
"""Chosen before any of its numbers were seen."""
MAX_CHECKS = 3
"""Checks at once: while one extracts features or compares, the jobs of the others keep every core busy."""


@dataclass(frozen=True)
class Size:
    """How much is rehearsed.

    Attributes:
        models: architecture and objective of each.
        counts: phantoms by split.
        seeds: of the experiment, counted from the rehearsal's own.
        pretraining: of every model, whatever its objective: one budget for all, rates by objective.
        finetuning: of every check.
        tasks: of the experiment.
    """

    models: tuple[tuple[str, str], ...]
    counts: Mapping[Split, int]
    seeds: int
    pretraining: finetuning_pb2.Recipe
    finetuning: finetuning_pb2.Recipe
    tasks: tuple[str, ...] = tuple(TASKS)


_SMALL = (
    # One architecture with both objectives: what tells the objective from the network.
    ("profound_conv_micro", "masked_reconstruction"),
    ("profound_conv_micro", "contrastive"),
    ("provicnet_fusion_micro", "contrastive"),
)

SIZES: dict[str, Size] = {
    "small": Size(
        models=_SMALL,
        counts={"pretrain": 24, "train": 20, "val": 8, "test": 16},
        seeds=1,
        pretraining=finetuning_pb2.Recipe(preset="demo", epochs=8, steps_per_epoch=16, batch_size=8),
        finetuning=finetuning_pb2.Recipe(preset="demo", epochs=16, probe_steps=(32, 64, 128)),
    ),
    "evidence": Size(
        models=(*_SMALL, ("profound_vit_micro", "masked_reconstruction")),
        counts={"pretrain": 120, "train": 80, "val": 24, "test": 120},
        seeds=3,
        pretraining=finetuning_pb2.Recipe(preset="demo", epochs=20, steps_per_epoch=30, batch_size=8),
        finetuning=finetuning_pb2.Recipe(preset="demo", epochs=16, steps_per_epoch=32, probe_steps=(32, 64, 128)),
    ),
}


@dataclass(frozen=True)
class Plan:
    """One rehearsal; the ids follow from it."""

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

    def pretrainings(self) -> list[Pretraining]:
        """The models that take part."""
        made = []
        for architecture, objective in self.size.models:
            # Short, so that the ids of checks, which hold it, need no digest.
            short = f"{architecture.removesuffix('_micro')}-{objective.partition('_')[0]}".replace("_", "-")
            model = f"{short}-{self.experiment}"
            made.append(Pretraining(self.dataset, model, architecture, objective, self.size.pretraining, self.seed))
        return made

    def spec(self) -> experiment_pb2.ExperimentSpec:
        """What is asked of the experiment."""
        return experiment_pb2.ExperimentSpec(
            model_ids=[one.model for one in self.pretrainings()],
            dataset_id=self.dataset,
            tasks=self.size.tasks,
            seeds=[self.seed + number for number in range(self.size.seeds)],
            recipe=self.size.finetuning,
            max_running=MAX_CHECKS,
            title=REHEARSAL,
        )


def stack_settings() -> dict[str, str]:
    """As for small networks; the orchestrator looks once a second: four times took a seventh of a core from jobs."""
    return small_networks() | {"VFMALIGN_RECONCILER__POLL_S": "1"}


def run(home: Home, output: Output, plan: Plan, reports: Path) -> None:
    """Runs a rehearsal in a state folder that is kept whatever happens.

    Raises:
        VfmalignError: a step failed.
        typer.Exit: code 1 where the experiment did not succeed, else 0.
    """
    require_modules("local", "a local stack", LOCAL_MODULES)
    output.say(REHEARSAL, "bold yellow")
    home.make()
    end_as_interrupted()
    try:
        with running(home, output.say, stack_settings()) as state:
            rehearse(Target.of(state), home, output, plan, reports)
    except KeyboardInterrupt:
        output.say("\nthe stack is stopped and its data are kept: the same command again goes on from here")
        raise
    except VfmalignError:
        output.say(f"data are kept in {home.path}; delete the folder to begin anew")
        raise


def rehearse(target: Target, home: Home, output: Output, plan: Plan, reports: Path) -> None:
    """The steps on a stack that runs; what is done is not done again. Raises as `run`."""
    clock = Clock()
    with clock.step("phantoms"):
        make_phantoms(target, plan.dataset, plan.seed, plan.size.counts, output)
    with clock.step("pretraining"):
        pretrain(target, plan.pretrainings(), output, home)
    with clock.step("experiment"):
        experiments.create(target, plan.experiment, plan.spec())
        found = experiments.follow(target, plan.experiment, output)
    if word(EXPERIMENT_STATES, found.state) != "succeeded":
        raise failed(plan.experiment, found.failure, found.status, home)
    output.say(f"data are kept in {home.path}; `vfmalign up --home {home.path}` serves them again", "dim")
    experiments.finish(
        target,
        found,
        output,
        reports,
        ["", clock.table("The rehearsal's own steps"), Text(REHEARSAL, style="bold yellow")],
        seconds=clock.seconds,
        note=REHEARSAL,
    )
