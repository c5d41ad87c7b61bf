"""`vfmalign`: every command, and the one place where errors become a sentence and an exit code."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from vfmalign import __version__
from vfmalign.cli.commands import (
    checks,
    dataset,
    demo,
    doctor,
    experiments,
    features,
    jobs,
    mmd,
    models,
    rehearse,
    stack,
    watch,
)
from vfmalign.cli.exits import BAD_INPUT, FAILED, INTERRUPTED, OK, epilog, exit_code_of
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import BadOption, Internal, VfmalignError
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.settings import LogSettings

app = typer.Typer(
    name="vfmalign",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=epilog(),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vfmalign {__version__}")
        raise typer.Exit(OK)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Measure how far fine-tuning moves a vision foundation model's features, and what it gains."""


app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.status)
app.command()(doctor.doctor)
app.command()(demo.demo)
app.command()(rehearse.rehearse)
app.add_typer(dataset.app, name="dataset")
app.add_typer(models.app, name="models")
app.command()(features.extract)
app.command()(mmd.mmd)
app.command()(jobs.finetune)
app.command()(checks.check)
app.command()(experiments.experiment)
app.command()(watch.watch)
app.add_typer(checks.app, name="checks")
app.add_typer(experiments.app, name="experiments")
app.add_typer(jobs.app, name="jobs")


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code and never raises."""
    output = Output.to_terminal(as_json="--json" in arguments)
    logs.configure("cli", LogSettings(level="warning"))
    try:
        code = typer.main.get_command(app).main(args=list(arguments), prog_name="vfmalign", standalone_mode=False)
    except VfmalignError as error:
        output.fail(error)
        return exit_code_of(error)
    except TyperException as error:
        return _usage(error, arguments, output)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more: not a word about it
        return FAILED
    except Exception as error:
        output.fail(_fault(error))
        return FAILED
    return code if isinstance(code, int) else OK


def main() -> None:
    """The program `vfmalign`."""
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # between two others
        code = INTERRUPTED
    sys.exit(code)


def _usage(error: TyperException, arguments: Sequence[str], output: Output) -> int:
    """A mistake in the command line, in one sentence; a folder's name is often a patient's and is not repeated."""
    shown: str = getattr(error, "format_message", lambda: str(error))()
    if type(error).__name__ == "NoArgsIsHelpError":  # no class of typer's public names; its message is the help
        typer.echo(shown)
        return BAD_INPUT
    path: str = getattr(getattr(error, "ctx", None), "command_path", "vfmalign")
    if path.endswith(" import"):
        for word in arguments:
            shown = shown if word.startswith("-") or word in path.split() else shown.replace(word, "…")
    output.fail(BadOption(shown.rstrip("."), field="", remedy=f"see `{path} --help`", reason="USAGE"))
    return int(getattr(error, "exit_code", BAD_INPUT))


def _fault(error: Exception) -> Internal:
    """A fault of ours: the trace goes to a file, without the error's own words, which may hold a name."""
    with tempfile.NamedTemporaryFile("w", prefix="vfmalign-fault-", suffix=".txt", delete=False) as file:
        file.write(f"vfmalign {__version__}: {type(error).__name__}\n")
        file.writelines(traceback.format_tb(error.__traceback__))
    return Internal(f"vfmalign failed ({type(error).__name__})", remedy=f"report it with the trace in {file.name}")


if __name__ == "__main__":
    main()
