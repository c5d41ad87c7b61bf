"""`vfmalign demo`: options of the rehearsal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vfmalign.cli.commands.checks import DEFAULT_REPORTS, ReportsOption
from vfmalign.cli.demo import check_demo as rehearsal
from vfmalign.cli.local.state_directory import DEFAULT_HOME, Home
from vfmalign.cli.options import JsonOption, SeedOption
from vfmalign.cli.target import Target
from vfmalign.cli.views.enum_labels import OBJECTIVES, PRETRAINING_OBJECTIVES, parse
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.tasks import TASKS, get_task_spec


def demo(
    *,
    seed: SeedOption = rehearsal.DEFAULT_SEED,
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.")] = "segmentation",
    objective: Annotated[
        str, typer.Option(help=f"Pretraining: {' or '.join(PRETRAINING_OBJECTIVES)}.")
    ] = "masked_reconstruction",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data; they are deleted otherwise.")] = False,
    reports: ReportsOption = DEFAULT_REPORTS,
    home: Annotated[Path, typer.Option("--home", help="State folder of the demo; emptied first.")] = DEFAULT_HOME
    / "demo",
    as_json: JsonOption = False,
) -> None:
    """Run one alignment check on phantoms, on a stack of its own.

    Takes about two minutes on two cores. The same seed gives the same numbers. The result rehearses the procedure; it
    is not evidence. If VFMALIGN_FEATURES_ADDRESS, VFMALIGN_MMD_ADDRESS and VFMALIGN_FINETUNING_ADDRESS name a
    deployment, the check runs there and its data stay there.
    """
    get_task_spec(task)
    parse({name: OBJECTIVES[name] for name in PRETRAINING_OBJECTIVES}, objective, "--objective")
    output = Output.to_terminal(as_json=as_json)
    plan = rehearsal.Plan(seed, task, objective)
    if (target := Target.named()) is not None:
        rehearsal.run_there(target, output, plan, reports=reports)
    else:
        rehearsal.run(Home(home), output, plan, reports=reports, keep=keep)
