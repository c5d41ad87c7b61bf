"""`vfmalign rehearse`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vfmalign.cli.demo import rehearsal
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import DEFAULT_REPORTS, JsonOption, ReportsOption, SeedOption, parse_choice
from vfmalign.cli.views.output import Output


def rehearse(
    *,
    size: Annotated[str, typer.Option(help=f"Size: {', '.join(rehearsal.SIZES)} (docs/experiments.md).")] = "small",
    seed: SeedOption = rehearsal.DEFAULT_SEED,
    reports: ReportsOption = DEFAULT_REPORTS,
    home: Annotated[Path, typer.Option("--home", help="State folder of the rehearsal; it is kept.")] = DEFAULT_HOME
    / "rehearsal",
    as_json: JsonOption = False,
) -> None:
    """Run a whole experiment on phantoms, on a stack of its own.

    Pretrains the models, runs every check and writes the report. Run the same command again to resume an interrupted
    rehearsal. The same size and seed give the same numbers. The result rehearses the procedure; it is not evidence.
    """
    parse_choice(size, tuple(rehearsal.SIZES), "--size")
    plan = rehearsal.RehearsalPlan(size, rehearsal.SIZES[size], seed)
    rehearsal.run(StateDirectory(home), Output.to_terminal(as_json=as_json), plan, reports)
