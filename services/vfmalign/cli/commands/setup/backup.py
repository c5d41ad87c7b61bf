"""`vfmalign backup` and `vfmalign restore`: write the local stack to one file, and restore it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vfmalign.cli.demo.steps import handle_sigterm_as_interrupt
from vfmalign.cli.extras import LOCAL_MODULES, require_modules
from vfmalign.cli.local import backup as writing
from vfmalign.cli.local import restore as reading
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import HomeOption, JsonOption
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.progress import progress_bar

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="File of the backup.")]


def backup(file: FileArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Write the local stack to one file: databases, objects, tokens, and the table of patients and ids.

    The stack may be running or stopped. New observations wait while the monitors are copied. The command first lists
    the secrets that the file will contain. Only you can read the file. Everybody who can read the file can read the
    data, so keep the file encrypted (docs/operations.md).
    """
    require_modules("local", "a local stack", LOCAL_MODULES)
    output, directory = Output.to_terminal(as_json=as_json), StateDirectory(home)
    handle_sigterm_as_interrupt()
    secrets = writing.list_secrets(directory)
    for secret in secrets:
        output.note(f"the backup will contain a secret: {secret}", "yellow")
    with progress_bar(output) as progress:
        count = writing.back_up(directory, file, secrets, output.note, progress)
    size_bytes = file.stat().st_size
    output.emit(
        {"file": str(file), "files": count, "size_bytes": size_bytes, "secrets": secrets},
        f"{file}: {count:,} files of the stack, {size_bytes / 2**20:,.1f} MiB",
    )


def restore(file: FileArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Restore a backup of a local stack into an empty state folder.

    Only the version of vfmalign that wrote the file can restore it. The file is verified before anything is restored.
    If the command is interrupted, the state folder stays empty. Run the command again. Then start the stack with
    `vfmalign up`.
    """
    require_modules("local", "a local stack", LOCAL_MODULES)
    output, directory = Output.to_terminal(as_json=as_json), StateDirectory(home)
    handle_sigterm_as_interrupt()
    with progress_bar(output) as progress:
        count = reading.restore(directory, file, output.note, progress)
    output.emit(
        {"home": str(directory.path), "files": count},
        f"restored {count:,} files to {directory.path}; start the stack with {directory.get_command('up --detach')}",
    )
