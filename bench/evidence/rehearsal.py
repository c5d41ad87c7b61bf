"""A whole experiment, from an empty stack to the report.

The steps are stack, dataset, pretrained models, experiment and report. Their ids follow from the plan, so running the
same command again resumes an interrupted experiment and repeats nothing.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from rich.text import Text

from bench.evidence.cell_folder import CellFolder
from bench.evidence.plans import Plan
from vfmalign.cli.commands.api.experiments import finish_experiment
from vfmalign.cli.commands.api.lifecycle import create_reports_folder
from vfmalign.cli.demo.steps import Stopwatch, handle_sigterm_as_interrupt, pretrain, to_error
from vfmalign.cli.local.environment import get_small_network_settings
from vfmalign.cli.local.stack import running_stack
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.cli.resources import EXPERIMENTS
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import VfmalignError

# At the default rate, the orchestrator takes a seventh of a core from the jobs.
SETTINGS = get_small_network_settings() | {"VFMALIGN_RECONCILER__POLL_S": "1"}


def run(directory: StateDirectory, output: Output, plan: Plan, reports: Path, cells: CellFolder | None = None) -> None:
    """Runs an experiment in a state folder, which is kept in any case.

    Raises:
        VfmalignError: a step failed.
        typer.Exit: code 1 if the experiment did not succeed, else 0.
    """
    create_reports_folder(reports)
    output.note(plan.note, "bold yellow")
    directory.create()
    handle_sigterm_as_interrupt()
    try:
        with running_stack(directory, output.note, SETTINGS) as state:
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
        EXPERIMENTS.create(target, plan.experiment, plan.spec())
        experiment = EXPERIMENTS.follow(target, plan.experiment, output)
    if experiment.state != "succeeded":
        raise to_error(plan.experiment, experiment, directory)
    output.note(f"the data are kept in {directory.path}; {directory.get_command('up')} starts the stack again", "dim")
    finish_experiment(
        target,
        experiment,
        output,
        reports,
        ["", stopwatch.to_table("Steps of the experiment"), Text(plan.note, style="bold yellow")],
        seconds=stopwatch.seconds,
        note=plan.note,
    )
