"""`vfmalign demo`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vfmalign.cli.demo import check_demo
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import (
    DEFAULT_REPORTS,
    PRETRAINING_OBJECTIVES,
    JsonOption,
    ReportsOption,
    SeedOption,
    SeedsOption,
    TaskOption,
    parse_choice,
)
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.declarations import get_declaration
from vfmalign.core.domain.task_text import Task
from vfmalign.core.domain.tasks import get_task_spec


def demo(
    *,
    seed: SeedOption = check_demo.DEFAULT_SEED,
    seeds: SeedsOption = 1,
    task: TaskOption = "segmentation",
    objective: Annotated[
        str,
        typer.Option(
            "--objective", metavar="NAME", help=f"Pretraining objective: {' or '.join(PRETRAINING_OBJECTIVES)}."
        ),
    ] = "masked_reconstruction",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data. They are deleted by default.")] = False,
    reports: ReportsOption = DEFAULT_REPORTS,
    home: Annotated[
        Path, typer.Option("--home", metavar="DIR", help="State folder of the demo; its earlier content is deleted.")
    ] = DEFAULT_HOME / "demo",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show learning curves, all stages and the time of each step.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run one alignment check on phantoms, on a stack of its own.

    The demo takes about two minutes on two cores with one seed. The same seed gives the same numbers. The demo only
    shows the procedure: its result is not evidence. The demo trains the pretrained network and the same network from
    random weights with different recipes. If VFMALIGN_FEATURES_ADDRESS, VFMALIGN_MMD_ADDRESS and
    VFMALIGN_FINETUNING_ADDRESS name a deployment, the check runs there and its data stay there.
    """
    get_task_spec(Task.parse(task), get_declaration("prostate_mpmri"))
    output = Output.to_terminal(as_json=as_json, brief=not verbose)
    plan = check_demo.DemoPlan(seed, task, parse_choice(objective, PRETRAINING_OBJECTIVES, "--objective"), seeds)
    if (target := Target.from_environment()) is not None:
        check_demo.run_on_deployment(target, output, plan, reports=reports)
    else:
        check_demo.run(StateDirectory(home), output, plan, reports=reports, keep=keep)
