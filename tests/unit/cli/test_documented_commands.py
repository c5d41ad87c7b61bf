"""Commands on the pages of the documentation exist and take the options that the pages give them.

The tests of operations and Kubernetes run theirs on an emulated cluster (tests/k8s/documented), and those of the
tutorial run on a stack (tests/tutorials/test_check.py).
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from typer.core import TyperCommand

from vfmalign.cli.__main__ import EXAMPLES, run

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "k8s/README.md",
    # `make site` generates the API reference, which names no commands.
    *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md") if path.name != "api-reference.md"),
]
SHELLS = {"", "bash", "sh"}
MODULE = re.compile(r"\bpython -m ([\w.]+)")


def list_commands(page: str) -> Iterator[tuple[str, bool]]:
    """Yields the lines of the fenced blocks of a page, and its code spans; with whether it is a line to be typed."""
    for token in MarkdownIt().enable("table").parse((ROOT / page).read_text()):
        if token.type == "fence" and token.info.strip() in SHELLS:
            yield from ((line.strip(), True) for line in token.content.replace("\\\n", " ").splitlines())
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content, False


COMMANDS = {command: page for page in PAGES for command in list_commands(page)}
COMMANDS |= {(line.strip(), True): "vfmalign --help" for line in EXAMPLES.splitlines()}
OURS = sorted(command for command in COMMANDS if command[0].startswith("vfmalign "))


@pytest.mark.parametrize(("command", "is_line"), OURS)
def test_the_program_takes_a_documented_command(
    command: str, is_line: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line parses as it is; a code span may leave out arguments, but names a command and options that exist."""
    monkeypatch.setattr(TyperCommand, "invoke", lambda self, ctx: None)
    monkeypatch.setattr("typer.completion.install", lambda: ("bash", Path()))
    words = shlex.split(re.split(r" [|>] ", command)[0], comments=True)[1:]
    try:
        code = run(words if is_line else [*words, "--help"])
    except SystemExit as ended:  # the options of completion end the process themselves
        code = ended.code
    assert code == 0, (COMMANDS[command, is_line], capsys.readouterr().err)


def test_every_documented_target_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for (command, _), page in COMMANDS.items():
        if command.startswith("make "):
            assert set(re.findall(r"\bmake ([a-z0-9-]+)", command)) <= targets, f"{page}: {command}"


def test_every_documented_module_exists() -> None:
    modules = {match[1]: page for (command, _), page in COMMANDS.items() if (match := MODULE.search(command))}
    assert modules
    for module, page in modules.items():
        assert importlib.util.find_spec(module) is not None, f"{page}: {module}"
