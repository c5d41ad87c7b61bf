"""Killed test runs leave none of their servers, services and jobs behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests import process_guard

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120.0
# One process of each kind: S3 server, database, service, and a job in a session of its own, which waits for a file. The
# service is a fork of the preloaded interpreter, whose command line it has.
TEST = """
import asyncio, os, threading
import pytest

@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_waits_for_ever(service):
    await service.create("check", seed=5)
    while not service.starts():
        await asyncio.sleep(0.05)
    (service.folder.parent / "ready").write_text(str(os.getpid()))
    threading.Event().wait()
"""
KINDS = ("weed ", "postgres ", "preloaded.py", "/spec.json")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def get_commands(run_id: str) -> list[str]:
    """Command lines of the processes of a run."""
    commands = []
    for process in process_guard.find_processes(run_id):
        try:
            commands.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return commands


def find_sockets(run_id: str) -> set[Path]:
    """Unix sockets of the run's S3 server outside its folder."""
    servers = (process for process in process_guard.find_processes(run_id) if process.name() == "weed")
    paths = {str(connection.laddr) for server in servers for connection in server.net_connections(kind="unix")}
    return {Path(path) for path in paths if path.startswith("/tmp/")}


@pytest.mark.usefixtures("postgres_url")  # skips without PostgreSQL
def test_a_killed_worker_of_a_test_run_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "test_run.py").write_text(TEST)
    run_id = uuid.uuid4().hex
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += ["-p", "tests.conftest", "-p", "tests.integration.finetuning.conftest", f"--basetemp={tmp_path / 'run'}"]
    command += ["-n", "1", "--max-worker-restart", "0"]
    environment = os.environ | {process_guard.VARIABLE: f"{os.environ[process_guard.VARIABLE]}:{run_id}"}
    environment.pop("PYTEST_XDIST_WORKER", None)  # this run has a worker of its own
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen([*command, str(tmp_path / "test_run.py")], cwd=ROOT, env=environment, stdout=log)
    try:
        wait_until(lambda: bool(list(tmp_path.rglob("ready"))) or run.poll() is not None, "the test did not start")
        assert run.poll() is None, (tmp_path / "log").read_text()
        commands = get_commands(run_id)
        assert all(any(kind in command for command in commands) for kind in KINDS), commands
        sockets = find_sockets(run_id)
        assert sockets
        (ready,) = tmp_path.rglob("ready")
        os.kill(int(ready.read_text()), signal.SIGKILL)
        run.wait(TIMEOUT_S)
        wait_until(lambda: not get_commands(run_id), "processes are left")
        wait_until(lambda: not any(path.exists() for path in sockets), "sockets are left in /tmp")
    finally:
        process_guard.kill_processes(run_id)
