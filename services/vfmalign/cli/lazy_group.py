"""A command group that imports a command's module when the command runs, so that `--help` stays fast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from vfmalign.cli.option_names import name_options


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is defined.

    Attributes:
        target: `module:attribute` of a command function, or of the `typer.Typer` of a group of commands.
        help: its line in `vfmalign --help`; equal to the first sentence of its own help (a test compares them).
    """

    target: str
    help: str


def new_group(help_text: str) -> typer.Typer:
    """An empty group of commands, such as `vfmalign checks`."""
    return typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=help_text)


def lazy_group(commands: Mapping[str, LazyCommand]) -> type[TyperGroup]:
    """A group class for `typer.Typer(cls=…)` that holds these commands, listed in the order of the mapping."""

    class LazyGroup(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = _Commands(commands)  # type: ignore[assignment]

        def list_commands(self, ctx: Any) -> list[str]:
            return list(commands)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            # The inherited method would import every command for its help.
            with formatter.section("Commands"):
                formatter.write_dl([(name, command.help) for name, command in commands.items()])

        def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
            # Likewise: a shell waits for it.
            names: dict[str, Any] = {name: TyperCommand(name, help=command.help) for name, command in commands.items()}
            ctx.command = TyperGroup(commands=names, params=self.params)
            completions: list[Any] = ctx.command.shell_complete(ctx, incomplete)
            return completions

    return LazyGroup


class _Commands(Mapping[str, Any]):
    """Commands by name; looking one up imports its module."""

    def __init__(self, commands: Mapping[str, LazyCommand]) -> None:
        self._commands = commands
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _load(name, self._commands[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)


def _load(name: str, command: LazyCommand) -> Any:
    module, _, attribute = command.target.partition(":")
    target = getattr(import_module(module), attribute)
    parent = new_group("")
    parent.callback()(lambda: None)  # typer turns an app into a group only if it has a callback or several commands
    if isinstance(target, typer.Typer):
        parent.add_typer(target, name=name)
    else:
        parent.command(name)(target)
    group: Any = typer.main.get_command(parent)
    loaded = group.commands[name]
    name_options(loaded)
    return loaded
