"""`vfmalign watch`: follows whatever has an id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from vfmalign.cli.commands import checks, experiments, jobs
from vfmalign.cli.commands.checks import DEFAULT_REPORTS, ReportsOption
from vfmalign.cli.local.state_directory import DEFAULT_HOME, Home
from vfmalign.cli.options import HomeOption, JsonOption
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import NotFound


def watch(
    name: Annotated[str, typer.Argument(metavar="ID", help="Id of an experiment, a check or a job.")],
    reports: ReportsOption = DEFAULT_REPORTS,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Follow an experiment, a check or a job until it finishes."""
    output, target = Output.to_terminal(as_json=as_json), Target.find(Home(home))
    if _exists(experiments.get, target, name):
        experiments.finish(target, experiments.watch_experiment(target, name, output), output, reports)
    elif _exists(checks.get, target, name):
        checks.finish(target, checks.watch_check(target, name, output), output, reports)
    else:
        jobs.finish_job(jobs.watch_job(target, name, output), output)


def _exists(get: Callable[[Target, str], object], target: Target, name: str) -> bool:
    try:
        get(target, name)
    except NotFound:
        return False
    return True
