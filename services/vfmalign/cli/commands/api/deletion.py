"""Options and steps shared by the `delete` commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from vfmalign.cli.views.output import Output
from vfmalign.client.messages.common import Deletion
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.formats.documents import pluralise

YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")]


def confirm(question: str, output: Output) -> None:
    """Asks the user to confirm a deletion.

    Raises:
        BadOption: standard input is not a terminal.
        typer.Abort: the user did not confirm the deletion.
    """
    if not sys.stdin.isatty():
        raise BadOption("there is no terminal to confirm the deletion", field="--yes", remedy="add --yes")
    if not typer.confirm(question, err=True):
        output.note("nothing is deleted", "yellow")
        raise typer.Abort


def delete(name: str, call: Callable[[bool], Deletion], output: Output, *, yes: bool, dry_run: bool) -> None:
    """Measures an object, asks the user unless `yes` is set, deletes the object, and prints what was deleted.

    Args:
        name: the object's kind and id.
        call: deletes the object. `call(True)` only measures it.
        output: where the result goes.
        yes: do not ask.
        dry_run: only measure.
    """
    if dry_run:
        measured = call(True)
        output.emit(_to_document(measured, dry_run=True), f"{name}: {_describe(measured)} would be deleted")
        return
    if not yes:
        confirm(f"Delete {name} ({_describe(call(True))})?", output)
    deleted = call(False)
    output.emit(_to_document(deleted, dry_run=False), f"{name} is deleted: {_describe(deleted)}")


def _describe(deletion: Deletion) -> str:
    return f"{pluralise(deletion.objects, 'object')}, {deletion.size_bytes / 1e6:,.1f} MB"


def _to_document(deletion: Deletion, *, dry_run: bool) -> dict[str, object]:
    return {"deletion": deletion.to_json_dict(), "dry_run": dry_run}
