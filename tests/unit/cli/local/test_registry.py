"""The user's stacks, as commands in other folders find them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vfmalign.cli import exits
from vfmalign.cli.local import registry
from vfmalign.cli.local.processes import ProcessRef
from vfmalign.cli.local.state_directory import ServicePorts, ServiceState, StackState, StateDirectory
from vfmalign.cli.target import Target


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state-home"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


def start_stack(folder: Path) -> StateDirectory:
    """A folder whose supervisor is this process."""
    directory = StateDirectory(folder)
    directory.create()
    directory.write(StackState(supervisor=ProcessRef.from_pid(os.getpid())))
    registry.register(directory)
    return directory


def test_stacks_that_run_are_listed_until_they_stop(tmp_path: Path) -> None:
    assert registry.describe_running() == ""
    second, first = start_stack(tmp_path / "b"), start_stack(tmp_path / "a")
    assert [directory.path for directory in registry.list_running()] == [first.path, second.path]
    assert registry.describe_running().startswith(f"2 stacks run in {first.path}, {second.path}: name one ")
    registry.unregister(first)
    assert registry.describe_running().startswith(f"a stack runs in {second.path}: name it with `--home`")


def test_a_stack_that_was_killed_or_whose_folder_has_gone_is_not_listed(tmp_path: Path) -> None:
    killed, gone = start_stack(tmp_path / "killed"), start_stack(tmp_path / "gone")
    killed.write(StackState(supervisor=ProcessRef(pid=2**22 + 1, started=0.0)))
    (gone.path / "state.json").unlink()
    assert registry.list_running() == []


def test_a_list_that_is_empty_names_other_stacks_that_run(tmp_path: Path, output, said) -> None:
    here, other = start_stack(tmp_path / "here"), start_stack(tmp_path / "other")
    Target.from_state(here, here.read()).note_other_stacks(output)
    note = " ".join(said())
    assert f"another stack runs in {other.path}: name it with `--home`" in note
    assert str(here.path) not in note
    registry.unregister(other)
    Target.from_state(here, here.read()).note_other_stacks(output)
    assert " ".join(said()) == note


def test_a_start_names_other_stacks_that_run(invoke, tmp_path: Path) -> None:
    start_stack(tmp_path / "here")
    assert "another stack" not in invoke("up", "--detach", "--home", "here")[2]
    other = start_stack(tmp_path / "other")
    code, _, err = invoke("up", "--detach", "--home", "here")
    assert code == exits.OK
    assert "this stack has its own datasets and models" in err
    assert str(other.path) in " ".join(err.split())


def test_files_are_private(tmp_path: Path, state_home: Path) -> None:
    start_stack(tmp_path / "a")
    (file,) = (path for path in state_home.rglob("*") if path.is_file())
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("command", [("jobs", "list"), ("status",), ("down",)], ids=" ".join)
def test_a_command_in_another_folder_names_the_stacks_that_run(invoke, tmp_path: Path, command) -> None:
    running = start_stack(tmp_path / "other" / ".vfmalign")
    code, _, err = invoke(*command)
    assert code == (exits.OK if command == ("down",) else exits.UNAVAILABLE)
    assert f"a stack runs in {running.path}: name it with `--home`" in err
    if command != ("down",):
        assert str(tmp_path / ".vfmalign") in err


@pytest.mark.parametrize("variable", ["VFMALIGN_TOKEN", "VFMALIGN_TOKEN_FILE"])
def test_a_token_that_a_local_stack_does_not_take_is_named_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    directory = start_stack(tmp_path / "a")
    state = directory.read()
    ports = ServicePorts(grpc=1, metrics=2, health=3)
    directory.write(state.model_copy(update={"services": {"mmd": ServiceState(ports=ports)}}))
    for name in ("FEATURES", "MMD", "FINETUNING"):
        monkeypatch.delenv(f"VFMALIGN_{name}_ADDRESS", raising=False)
    Target.find(directory)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(variable, __file__)
    Target.find(directory)
    captured = capsys.readouterr()
    assert f"{variable} is not sent" in captured.err
    assert __file__ not in captured.err
    assert captured.out == ""
