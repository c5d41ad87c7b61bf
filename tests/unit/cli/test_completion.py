"""Shells complete commands and options, by the scripts that the program prints for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cli.test_command_list import modules_after

CALLS = {
    "bash": "COMP_WORDS=({words}); COMP_CWORD={last}; _vfmalign_completion vfmalign; echo ${{COMPREPLY[@]}}",
    "zsh": "words=({words}); CURRENT={last}; (( CURRENT += 1 )); _vfmalign_completion",
    "fish": "complete --do-complete '{words}'",
}
OPTIONS = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}
# Functions of zsh that exist only while somebody types.
STUBS = {"bash": "", "zsh": "compdef() { }; _arguments() { print -r -- $@; }; ", "fish": ""}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home folder of its own, and the program on the path."""
    program = tmp_path / "bin/vfmalign"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vfmalign.cli "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "HOME": str(tmp_path), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


def run_shell(shell: str, script: str, environment: dict[str, str]) -> str:
    command = [shell, *OPTIONS[shell], "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout


def complete(shell: str, words: str, environment: dict[str, str]) -> str:
    """Returns what a shell offers for the last word of a command line."""
    load = f"cd ~; _VFMALIGN_COMPLETE=source_{shell} vfmalign > script; source ./script"
    call = CALLS[shell].format(words=words, last=len(words.split()) - 1)
    return run_shell(shell, f"{STUBS[shell]}{load}; {call}", environment)


@pytest.mark.parametrize(
    ("shell", "words", "offered", "absent"),
    [
        ("bash", "vfmalign ch", {"check", "checks"}, {"doctor"}),
        ("bash", "vfmalign check --re", {"--reports", "--require", "--require-pretraining"}, {"--gate"}),
        ("zsh", "vfmalign check --re", {"--reports", "--require", "--require-pretraining"}, {"--gate"}),
        ("fish", "vfmalign checks re", {"report", "retry"}, {"cancel"}),
    ],
)
def test_a_shell_offers_commands_and_options(
    shell: str, words: str, offered: set[str], absent: set[str], environment: dict[str, str]
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    text = complete(shell, words, environment)
    listed = set(text.replace('"', " ").replace(":", " ").split())
    assert offered <= listed, text
    assert not absent & listed


def test_the_installed_script_is_that_of_the_page(environment: dict[str, str]) -> None:
    """In bash, which every machine has; `true` keeps the shell as the parent of the program."""
    run_shell("bash", "vfmalign --install-completion > /dev/null; true", environment)
    home = Path(environment["HOME"])
    assert str(home / ".bash_completions/vfmalign.sh") in (home / ".bashrc").read_text()
    printed = run_shell("bash", "_VFMALIGN_COMPLETE=source_bash vfmalign", environment)
    assert (home / ".bash_completions/vfmalign.sh").read_text().split() == printed.split()


def test_completing_a_command_imports_none() -> None:
    typed = {"_VFMALIGN_COMPLETE": "complete_bash", "COMP_WORDS": "vfmalign ", "COMP_CWORD": "1"}
    program = "from vfmalign.cli.__main__ import run\ntry: run([])\nexcept SystemExit: pass"
    loaded = modules_after(f"import os\nos.environ |= {typed}\n{program}")
    assert "typer" in loaded
    assert not [name for name in loaded if name.startswith("vfmalign.cli.commands.")]
