"""The command line: `python -m bench.evidence`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from bench.evidence import rehearsal
from bench.evidence.cell_folder import CellFolder
from bench.evidence.plans import LabelPlan, Plan, RealPlan
from vfmalign.cli.exits import INTERRUPTED, OK, get_exit_code
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import DEFAULT_REPORTS
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.settings import LogSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment that the arguments name; returns the exit code, which is one of `vfmalign`'s."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.evidence",
        description="Run a whole experiment on phantoms, or with --data that of docs/evidence.md, on a stack of its "
        "own. Run the same command again to resume. On phantoms the result rehearses the procedure; it is not "
        "evidence.",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of task 4 of the Decathlon, the hippocampus")
    parser.add_argument(
        "--encoders", type=Path, metavar="DIR", help="folder of pretrained checkpoints, for --data: see docs/models.md"
    )
    parser.add_argument(
        "--labels", action="store_true", help="run the experiment on label efficiency, which needs --data alone"
    )
    parser.add_argument(
        "--cells",
        type=Path,
        metavar="DIR",
        help="folder of pretrained models, and of finished cells as JSON: what is there is not computed again, and the "
        "rest is written as it finishes",
    )
    parser.add_argument("--reports", type=Path, metavar="DIR", default=DEFAULT_REPORTS, help="folder for the report")
    parser.add_argument(
        "--home", type=Path, metavar="DIR", default=DEFAULT_HOME / "rehearsal", help="state folder, which is kept"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    if options.labels and (options.data is None or options.encoders is not None):
        parser.error("--labels needs --data, and takes no --encoders")
    if not options.labels and (options.data is None) != (options.encoders is None):
        parser.error("name both --data and --encoders, or neither")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else gRPC writes a line for every failed handshake
    logs.configure("cli", LogSettings(level="warning"))
    output = Output.to_terminal(as_json=options.json)
    try:
        if options.data is None:
            plan = Plan()
        elif options.labels:
            plan = LabelPlan(data=options.data)
        else:
            plan = RealPlan(data=options.data, encoders=options.encoders)
        plan.spec()  # a folder without checkpoints is refused before a stack starts
        cells = None if options.cells is None else CellFolder(options.cells, plan.dataset)
        rehearsal.run(StateDirectory(options.home), output, plan, options.reports, cells)
    except typer.Exit as end:
        return end.exit_code
    except VfmalignError as error:
        output.fail(error)
        return get_exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


if __name__ == "__main__":
    sys.exit(main())
