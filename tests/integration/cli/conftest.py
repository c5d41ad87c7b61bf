"""Ctrl-C for commands that tests start."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from tests.integration.cli.commands import Cli


@pytest.fixture(scope="module", autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A test run in the background of a shell ignores Ctrl-C, and the commands would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def mmd_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A stack of the MMD service alone, which `vfmalign up --only mmd --detach` started."""
    result = Cli(tmp_path_factory.mktemp("mmd-alone"))
    result.run("up", "--only", "mmd", "--detach")
    yield result
    assert result.call("down", "--json").document == {"was_running": True, "killed": []}
