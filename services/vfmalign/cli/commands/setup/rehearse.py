"""`vfmalign rehearse`: its options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vfmalign.cli.demo import rehearsal
from vfmalign.cli.demo.cell_folder import CellFolder
from vfmalign.cli.demo.real_plan import DECLARATION, REAL_SIZES, RealPlan
from vfmalign.cli.extras import needs_extra
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import DEFAULT_REPORTS, JsonOption, ReportsOption, SeedOption, parse_choice
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import BadOption

SizeOption = Annotated[
    str,
    typer.Option(
        help=f"Size: {', '.join(rehearsal.SIZES)} (docs/experiments.md). "
        f"small by default on phantoms, {', '.join(REAL_SIZES)} on real volumes."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of real volumes with masks, as for `vfmalign dataset import`."),
]
EncodersOption = Annotated[
    Path | None,
    typer.Option("--encoders", metavar="DIR", help="Folder of pretrained checkpoints, for --data: see docs/models.md."),
]
DeclarationOption = Annotated[
    str, typer.Option("--declaration", metavar="FILE", help="What the volumes of --data hold: a JSON file, or a name.")
]

ControlsOption = Annotated[
    bool,
    typer.Option("--controls", help="With --data: run a control on shuffled labels for every model and task as well."),
]
CellsOption = Annotated[
    Path | None,
    typer.Option(
        "--cells",
        metavar="DIR",
        help="Folder of pretrained models, and of finished cells as JSON: what is there is not computed again, and the "
        "rest is written as it finishes.",
    ),
]


def rehearse(
    *,
    size: SizeOption = "",
    data: DataOption = None,
    encoders: EncodersOption = None,
    declaration: DeclarationOption = DECLARATION,
    controls: ControlsOption = False,
    cells: CellsOption = None,
    seed: SeedOption = rehearsal.DEFAULT_SEED,
    reports: ReportsOption = DEFAULT_REPORTS,
    home: Annotated[
        Path, typer.Option("--home", metavar="DIR", help="State folder of the rehearsal; it is kept.")
    ] = DEFAULT_HOME / "rehearsal",
    as_json: JsonOption = False,
) -> None:
    """Run a whole experiment on phantoms, or on real volumes, on a stack of its own.

    Pretrains the models, runs every check and writes the report. Run the same command again to resume an interrupted
    rehearsal. The same size and seed give the same numbers. On phantoms the result rehearses the procedure; it is not
    evidence.
    """
    plan = _make_plan(size, data, encoders, declaration, seed)
    if controls:
        if not isinstance(plan, RealPlan):
            raise BadOption("phantoms have no controls", field="--controls", remedy="leave it out, or name --data")
        plan = replace(plan, controls=True)
    folder = CellFolder(cells, plan.dataset) if cells is not None else None
    rehearsal.run(StateDirectory(home), Output.to_terminal(as_json=as_json), plan, reports, cells=folder)


def _make_plan(size: str, data: Path | None, encoders: Path | None, declaration: str, seed: int) -> rehearsal.Plan:
    """Builds the plan.

    Raises:
        BadOption: an option is missing or does not fit.
    """
    if data is None:
        if encoders is not None:
            raise BadOption("the encoders are not of prostate MRI", field="--encoders", remedy="name --data as well")
        name = parse_choice(size or "small", tuple(rehearsal.SIZES), "--size")
        return rehearsal.RehearsalPlan(name, rehearsal.SIZES[name], seed)
    if encoders is None:
        raise BadOption("required with --data", field="--encoders", remedy="name a folder of checkpoints")
    name = parse_choice(size or "evidence", tuple(REAL_SIZES), "--size")
    with needs_extra("local", "an experiment on real volumes"):
        from vfmalign.imaging.datasets.layouts.derivation import read_declaration
    plan = RealPlan(name, REAL_SIZES[name], seed, data, encoders, *read_declaration(declaration))
    plan.check()
    return plan
