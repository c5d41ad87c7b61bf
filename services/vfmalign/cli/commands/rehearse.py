"""`vfmalign rehearse`: options of an experiment's rehearsal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vfmalign.cli.commands.checks import DEFAULT_REPORTS, ReportsOption
from vfmalign.cli.demo import rehearsal
from vfmalign.cli.local.state_directory import DEFAULT_HOME, Home
from vfmalign.cli.options import JsonOption, SeedOption
from vfmalign.cli.views.enum_labels import parse
from vfmalign.cli.views.output import Output


def rehearse(
    *,
    size: Annotated[str, typer.Option(help=f"One of {', '.join(rehearsal.SIZES)} (docs/experiments.md).")] = "small",
    seed: SeedOption = rehearsal.DEFAULT_SEED,
    reports: ReportsOption = DEFAULT_REPORTS,
    home: Annotated[Path, typer.Option("--home", help="State folder of the rehearsal; kept.")] = DEFAULT_HOME
    / "rehearsal",
    as_json: JsonOption = False,
) -> None:
    """Rehearse an experiment on phantoms: bring the system up, pretrain models, run every check, report; not evidence.

    However it ended, the same command goes on where it stopped. The same size and seed give the same numbers.
    """
    plan = rehearsal.Plan(size, parse(rehearsal.SIZES, size, "--size"), seed)
    rehearsal.run(Home(home), Output.to_terminal(as_json=as_json), plan, reports)
