"""The list of commands: its help lines, and what starting the program imports."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import typer
from tests.unit.cli.conftest import Invoke

from vfmalign.cli.__main__ import COMMANDS


def modules_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after running some code."""
    script = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_in_the_list_is_the_first_sentence_of_the_command_s_own_help(name: str) -> None:
    module, _, attribute = COMMANDS[name].target.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if not isinstance(target, typer.Typer):  # a group takes its help from the list
        assert target.__doc__.split("\n")[0].partition(". ")[0].rstrip(".") + "." == COMMANDS[name].help


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_begins_with_its_line_in_the_list(invoke: Invoke, name: str) -> None:
    code, out, _ = invoke(name, "--help")
    assert code == 0
    assert " ".join(COMMANDS[name].help.rstrip(".").split()) in " ".join(out.split())


def test_help_imports_no_command_and_no_large_package() -> None:
    loaded = modules_after("from vfmalign.cli.__main__ import run; run(['--help'])")
    assert "typer" in loaded
    assert not loaded & {"grpc", "minio", "numpy", "pydantic", "rich.table", "structlog", "vfmalign.cli.target"}
    assert not [name for name in loaded if name.startswith("vfmalign.cli.commands.")]


def test_no_command_imports_what_the_thin_installation_lacks() -> None:
    targets = sorted({command.target.partition(":")[0] for command in COMMANDS.values()})
    loaded = modules_after(f"import importlib\nfor name in {targets}: importlib.import_module(name)")
    assert set(targets) <= loaded
    packages = {name.partition(".")[0] for name in loaded}
    assert not packages & {
        "torch",
        "monai",
        "nibabel",
        "matplotlib",
        "scipy",
        "sqlalchemy",
        "isal",
        "kubernetes",
    }


def test_an_unknown_command_suggests_the_nearest(invoke) -> None:
    code, _, err = invoke("chek")
    assert code == 2
    assert "Did you mean 'check'" in err


@pytest.mark.parametrize(
    "group",
    [
        (),
        *((name,) for name in ("dataset", "models", "features", "checks", "experiments", "jobs", "monitors", "store")),
    ],
)
def test_no_line_of_a_list_of_commands_is_cut(
    invoke: Invoke, group: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = invoke(*group, "--help")
    assert not [line for line in out.split("Commands:")[1].splitlines() if line.endswith("...")]


def test_the_help_of_an_experiment_breaks_no_word(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = invoke("experiment", "--help")
    assert {"segmentation:label=gland,", "translation:from=t1w+flair,to=t2w"} <= set(out.split())
