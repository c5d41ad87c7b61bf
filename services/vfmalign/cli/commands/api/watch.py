"""`vfmalign watch`: follow an experiment, a check or a job by its id."""

from __future__ import annotations

from typing import Annotated

import typer

from vfmalign.cli.commands.api import checks, experiments, jobs
from vfmalign.cli.commands.api.lifecycle import create_reports_folder, follow
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import DEFAULT_REPORTS, HomeOption, JsonOption, ReportsOption
from vfmalign.cli.resources import CHECKS, EXPERIMENTS, JOBS, Resource
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.client.operations import OperationT, SpecT
from vfmalign.core.domain.errors import NotFound


def watch(
    resource_id: Annotated[str, typer.Argument(metavar="ID", help="Id of an experiment, a check or a job.")],
    reports: ReportsOption = DEFAULT_REPORTS,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Follow an experiment, a check or a job until it finishes."""
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))
    if _exists(EXPERIMENTS, target, resource_id):
        create_reports_folder(reports)
        experiments.finish_experiment(target, follow(target, EXPERIMENTS, resource_id, output), output, reports)
    elif _exists(CHECKS, target, resource_id):
        create_reports_folder(reports)
        checks.finish_check(target, follow(target, CHECKS, resource_id, output), output, reports)
    elif _exists(JOBS, target, resource_id):
        jobs.finish_job(follow(target, JOBS, resource_id, output), output)
    else:
        lists = [target.get_command(f"{resource.noun}s list") for resource in (EXPERIMENTS, CHECKS, JOBS)]
        raise NotFound("no experiment, check or job has this id", subject=resource_id, remedy=f"see {', '.join(lists)}")


def _exists(resource: Resource[SpecT, OperationT], target: Target, name: str) -> bool:
    try:
        resource.get(target, name)
    except NotFound:
        return False
    return True
