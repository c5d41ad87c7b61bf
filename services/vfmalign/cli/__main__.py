"""Entry point of `vfmalign`: lists its commands, and maps errors to messages and exit codes.

`vfmalign --help` must stay fast, so the module of a command is imported only when that command runs.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from vfmalign import __version__
from vfmalign.cli.exits import BAD_INPUT, FAILED, INTERRUPTED, OK, epilog, get_exit_code
from vfmalign.cli.option_names import name_option
from vfmalign.core.domain.errors import BadOption, Internal, InvalidInput, VfmalignError


class Command(NamedTuple):
    """A command of the program.

    Attributes:
        target: the function of the command or the `typer.Typer` of the group, as `module:attribute`.
        help: summary in `vfmalign --help`. For a function, this text must equal the first sentence of the docstring.
    """

    target: str
    help: str


_SETUP = "vfmalign.cli.commands.setup"
_API = "vfmalign.cli.commands.api"
COMMANDS: dict[str, Command] = {
    "up": Command(f"{_SETUP}.stack:up", "Start a local stack: object storage and services, or only the MMD service."),
    "down": Command(f"{_SETUP}.stack:down", "Stop the local stack and every process it started."),
    "status": Command(f"{_SETUP}.stack:status", "Show the processes of the local stack and their addresses."),
    "backup": Command(
        f"{_SETUP}.backup:backup",
        "Write the local stack to one file: databases, objects, tokens, and the table of patients and ids.",
    ),
    "restore": Command(f"{_SETUP}.backup:restore", "Restore a backup of a local stack into an empty state folder."),
    "doctor": Command(f"{_SETUP}.doctor:doctor", "Check that the environment is ready to run alignment checks."),
    "login": Command(
        f"{_SETUP}.login:login",
        "Log in to a remote deployment by confirming a code in a browser.",
    ),
    "logout": Command(f"{_SETUP}.login:logout", "Delete the stored login, and revoke it at the provider if possible."),
    "whoami": Command(f"{_SETUP}.login:whoami", "Show the owner and the source of the token that commands send."),
    "store": Command(f"{_SETUP}.store:app", "Prepare the object storage of a deployment."),
    "demo": Command(f"{_SETUP}.demo:demo", "Run one alignment check on phantoms, on a stack of its own."),
    "dataset": Command(f"{_API}.dataset:app", "Import, generate, list and show datasets."),
    "dicom": Command(f"{_SETUP}.dicom:app", "Show the contents of DICOM files, and which series the rules select."),
    "models": Command(f"{_API}.models:app", "List, show, import and pretrain models."),
    "extract": Command(f"{_API}.features:extract", "Extract the features of a dataset's split."),
    "features": Command(f"{_API}.features:app", "List and show feature sets."),
    "mmd": Command(f"{_API}.mmd:mmd", "Compare two samples of features, layer by layer."),
    "drift": Command(f"{_API}.drift:drift", "Watch a stream of features for drift from a reference."),
    "monitors": Command(
        f"{_API}.monitors:app", "Create, feed, list, show, watch and change the drift monitors of a service."
    ),
    "finetune": Command(f"{_API}.jobs:finetune", "Fine-tune a model on a task, without an alignment check."),
    "check": Command(f"{_API}.checks:check", "Run an alignment check."),
    "experiment": Command(f"{_API}.experiments:experiment", "Run an alignment check for every model, task and seed."),
    "watch": Command(f"{_API}.watch:watch", "Follow an experiment, a check or a job until it finishes."),
    "checks": Command(f"{_API}.checks:app", "List, show, cancel and retry checks, and fetch their reports."),
    "experiments": Command(
        f"{_API}.experiments:app", "List, show, cancel and retry experiments, and fetch their reports."
    ),
    "jobs": Command(f"{_API}.jobs:app", "List, show, cancel and retry training jobs."),
    "erase": Command(f"{_API}.erasures:erase", "Erase a patient from datasets, results and monitors."),
    "erasures": Command(f"{_API}.erasures:app", "Show the receipts of erasures, and repeat erasures after a restore."),
}

# \b keeps the line breaks of a paragraph.
EXAMPLES = """\b
Examples:
  vfmalign up --detach
  vfmalign check DATASET --model MODEL --task segmentation --require-pretraining gain
  vfmalign --install-completion     # complete commands and options with Tab"""


class LazyGroup(TyperGroup):
    """Lists the commands in `COMMANDS`. Imports a command only when the user runs or completes the command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns the name of the command, the imported command, and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            command = self.commands[name] = _load(name)
        return name, command, rest


app = typer.Typer(
    name="vfmalign",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=f"{EXAMPLES}\n\n{epilog()}",
)


def _stand_in() -> None:
    """Placeholder for a command until it is imported."""


for _name, _command in COMMANDS.items():
    app.command(_name, short_help=_command.help)(_stand_in)


def _load(name: str) -> Any:
    """Imports a command, or a group of commands."""
    module, _, attribute = COMMANDS[name].target.partition(":")
    imported = import_module(module)
    target = getattr(imported, attribute)
    parent = typer.Typer(rich_markup_mode=None)
    if isinstance(target, typer.Typer):
        parent.add_typer(target, name=name, help=COMMANDS[name].help, no_args_is_help=True)
    else:
        parent.command(name, epilog=getattr(imported, "EPILOG", None))(target)
    return typer.main.get_group(parent).commands[name]


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"vfmalign {__version__}")
        raise typer.Exit(OK)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Measure how far fine-tuning moves the features of a vision foundation model, and how much the model improves."""
    from vfmalign.core.runtime import logs
    from vfmalign.core.runtime.settings import LogSettings

    logs.configure("cli", LogSettings(level="warning"))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; never raises."""
    as_json = "--json" in arguments
    program = typer.main.get_command(app)
    try:
        code = program.main(args=list(arguments), prog_name="vfmalign", standalone_mode=False)
    except VfmalignError as error:
        if isinstance(error, InvalidInput):
            error.subject = name_option(error.subject, program, arguments)
        return _report(error, as_json=as_json)
    except TyperException as error:
        return _report_usage(error, arguments, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the pipe has gone; Python would print a traceback when it flushes stderr
        return FAILED
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return _report_full_disk()
        return _report(_to_internal_error(error), as_json=as_json)
    return code if isinstance(code, int) else OK


def main() -> None:
    """Runs the program on its command line, and exits with the exit code."""
    # gRPC, which commands import, would write a line for every failed handshake. Processes of the stack inherit this.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # a second Ctrl-C, while the first is handled
        code = INTERRUPTED
    sys.exit(code)


def _report(error: VfmalignError, *, as_json: bool) -> int:
    """Prints an error; returns its exit code."""
    from vfmalign.cli.views.output import Output

    Output.to_terminal(as_json=as_json).fail(error)
    return get_exit_code(error)


def _report_usage(error: TyperException, arguments: Sequence[str], *, as_json: bool) -> int:
    """Prints a usage error. Commands that read folders do not repeat the folder's name, often a patient's name."""
    _add_longer_options(error)
    message: str = getattr(error, "format_message", lambda: str(error))()
    if type(error).__name__ == "NoArgsIsHelpError":  # not a public class of typer; its message is the help text
        typer.echo(message)
        return BAD_INPUT
    command: str = getattr(getattr(error, "ctx", None), "command_path", "vfmalign")
    if command.endswith((" import", " dicom show")):
        for argument in arguments:
            if not argument.startswith("-") and argument not in command.split():
                message = message.replace(argument, "…")
    _report(BadOption(message.rstrip("."), field="", remedy=f"see `{command} --help`", reason="USAGE"), as_json=as_json)
    return int(getattr(error, "exit_code", BAD_INPUT))


def _add_longer_options(error: Any) -> None:
    """Suggests the options that begin with an unknown option, such as --steps-per-epoch for --steps."""
    if hasattr(error, "possibilities") and error.ctx is not None:
        known = [option for parameter in error.ctx.command.params for option in parameter.opts]
        longer = (option for option in known if option.startswith(f"{error.option_name}-"))
        error.possibilities = sorted({*(error.possibilities or ()), *longer})


def _report_full_disk() -> int:
    """Prints that a disk is full, possibly the disk that stdout writes to; returns the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            sys.stdout.close()
        sys.stdout = io.StringIO()  # Python would try again to write the rest at the end of the program
    error = VfmalignError(
        "the output or a file cannot be written, because its disk is full",
        remedy="free disk space, or write to another disk",
        reason="DISK_FULL",
    )
    return _report(error, as_json=False)


def _to_internal_error(error: Exception) -> Internal:
    """Writes the traceback of an unexpected error to a file, without its message, which may hold a patient's name."""
    with tempfile.NamedTemporaryFile("w", prefix="vfmalign-traceback-", suffix=".txt", delete=False) as file:
        file.write(f"vfmalign {__version__}: {type(error).__name__}\n")
        file.writelines(traceback.format_tb(error.__traceback__))
    return Internal(
        f"internal error ({type(error).__name__})", remedy=f"report this error, and attach the traceback in {file.name}"
    )


if __name__ == "__main__":
    main()
