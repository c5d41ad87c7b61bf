"""`vfmalign doctor`: check the environment, step by step."""

from __future__ import annotations

import dataclasses

import typer
from rich.text import Text

from vfmalign.cli.exits import OK, UNAVAILABLE
from vfmalign.cli.local.doctor import Step, examine
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import HomeOption, JsonOption
from vfmalign.cli.views.output import Output

_MARKS = {"ok": ("✓", "green"), "failed": ("✗", "bold red"), "skipped": ("-", "dim")}


def doctor(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Check that the environment is ready to run alignment checks.

    The exit code is 3 if a step fails.
    """
    output = Output.to_terminal(as_json=as_json)
    steps = []
    for step in examine(StateDirectory(home)):
        steps.append(step)
        if not as_json:
            output.out.print(_format_step(step))
    failed = [step.name for step in steps if step.outcome == "failed"]
    if failed:
        output.note(f"the first failing step is `{failed[0]}`", "bold")
    if as_json:
        output.emit({"ok": not failed, "failed": failed, "steps": [dataclasses.asdict(step) for step in steps]})
    raise typer.Exit(UNAVAILABLE if failed else OK)


def _format_step(step: Step) -> Text:
    mark, style = _MARKS[step.outcome]
    line = Text.assemble((f"{mark} {step.name:<11}", style), step.detail)
    if step.remedy:
        line.append(f"\n    → {step.remedy}")
    return line
