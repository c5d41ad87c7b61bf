"""Counts the options of the command line: `python -m tests.command_options`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.core import TyperGroup

from vfmalign.cli.__main__ import COMMANDS, _load

COMMON = frozenset({"--json", "--home", "--help"})
"""Options that nearly every command has."""


def count_options() -> int:
    """Returns the number of pairs of a command and one of its options, without `COMMON`."""
    return len(list(list_options()))


def list_options() -> Iterator[tuple[str, str]]:
    """Yields every command with each of its options, such as `checks list` and `--state`, without `COMMON`."""
    for name in COMMANDS:
        yield from _list_options(name, _load(name))


def _list_options(name: str, command: Any) -> Iterator[tuple[str, str]]:
    for parameter in command.params:
        if parameter.param_type_name == "option" and COMMON.isdisjoint(parameter.opts):
            yield name, parameter.opts[0]
    if isinstance(command, TyperGroup):
        for child in command.commands.values():
            yield from _list_options(f"{name} {child.name}", child)


if __name__ == "__main__":
    print(count_options())
