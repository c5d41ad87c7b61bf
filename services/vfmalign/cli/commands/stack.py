"""`vfmalign up`, `down` and `status`: the local stack's life.

Knows the supervisor and its state. Heavy imports happen in the services alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Annotated, Any

import typer
from rich.table import Table

from vfmalign.cli.exits import OK, UNAVAILABLE
from vfmalign.cli.extras import LOCAL_MODULES, require_modules
from vfmalign.cli.local import processes
from vfmalign.cli.local.probes import get_health
from vfmalign.cli.local.stack import SERVICES, START_TIMEOUT_S, STOP_GRACE_S, Stack, bring_down
from vfmalign.cli.local.state_directory import DEFAULT_HOME, Home, State
from vfmalign.cli.options import HomeOption, JsonOption
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import ABSENT, table
from vfmalign.core.domain.errors import Unavailable

_POLL_S = 0.1
_DOWN_TIMEOUT_S = 4 * STOP_GRACE_S

DetachOption = Annotated[bool, typer.Option("--detach", "-d", help="Return once everything serves.")]


def up(home: HomeOption = DEFAULT_HOME, detach: DetachOption = False, as_json: JsonOption = False) -> None:
    """Start a local stack: object storage and the three services.

    A service that dies is restarted. Press Ctrl-C to stop the stack.
    """
    require_modules("local", "a local stack", LOCAL_MODULES)
    output, folder = Output.to_terminal(as_json=as_json), Home(home)
    if detach:
        _detach(folder, output)
        return
    with folder.locked():
        stack = Stack(folder, output.say)
        # The handlers come first: whatever has been started is stopped again.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _interrupt)
        try:
            with output.err.status("starting the S3 server and the services"):
                state = stack.start()
        except KeyboardInterrupt:
            output.say("stopped while starting")
            raise
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stack.end())
        output.emit(_document(folder, state), _table(state))
        output.say(f"logs in {folder.logs}; Ctrl-C stops everything", "dim")
        stack.keep()
        output.say("stopping: jobs write their checkpoints first", "dim")
        stack.stop()
        output.say("stopped")


def down(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Stop the local stack and every process it started. Its data are kept."""
    output, folder = Output.to_terminal(as_json=as_json), Home(home)
    state = folder.read()
    was_running = state.running or bool(state.processes())
    with output.err.status("stopping: jobs write their checkpoints first"):
        if state.supervisor is not None and state.running:
            state.supervisor.signal(signal.SIGTERM)
            for _ in processes.wait_gone([state.supervisor], _DOWN_TIMEOUT_S):
                state.supervisor.kill_group()
        state = folder.read()
        killed = bring_down(folder, state) if state.processes() else []
    if killed:
        output.say(f"had to be killed: {', '.join(killed)}", "yellow")
    output.emit({"was_running": was_running, "killed": killed}, "stopped" if was_running else "nothing ran")


def status(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show the processes of the local stack and their addresses.

    The exit code is 3 unless every process serves.
    """
    output, folder = Output.to_terminal(as_json=as_json), Home(home)
    state = folder.read()
    health = {
        name: get_health(service.ports.address) if service.process is not None and service.process.alive() else "down"
        for name, service in state.services.items()
    }
    store_up = state.store is not None and state.store.process is not None and state.store.process.alive()
    well = state.running and store_up and bool(health) and all(word == "serving" for word in health.values())
    if not state.services:
        output.say("no stack was ever started in this state folder; start one with `vfmalign up --detach`")
    document = _document(folder, state) | {"running": state.running, "health": health, "serving": well}
    output.emit(document, _table(state, health))
    raise typer.Exit(OK if well else UNAVAILABLE)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _detach(folder: Home, output: Output) -> None:
    """Starts a supervisor of its own session and waits until everything serves."""
    folder.make()
    state = folder.read()
    if not state.running:
        log = folder.logs / "supervisor.log"
        with log.open("ab") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "vfmalign.cli", "up", "--home", str(folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONSAFEPATH": "1"},
            )
        with output.err.status("starting the S3 server and the services"):
            state = _await_ready(folder, child, output)
    else:
        output.say("runs already")
    output.emit(_document(folder, state), _table(state))
    output.say(f"logs in {folder.logs}; `vfmalign down` stops everything", "dim")


def _await_ready(folder: Home, child: subprocess.Popen[bytes], output: Output) -> State:
    deadline = time.monotonic() + 2 * START_TIMEOUT_S
    said: set[str] = set()
    while time.monotonic() < deadline:
        state = folder.read()
        if state.supervisor is not None and state.supervisor.pid == child.pid:
            for name, service in state.services.items():
                if service.serving and name not in said:
                    said.add(name)
                    output.say(f"{name} serves at {service.ports.address}")
            if state.ready:
                return state
        if child.poll() is not None:
            break
        time.sleep(_POLL_S)
    lines = [line for line in (folder.logs / "supervisor.log").read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    raise Unavailable(
        "the stack did not come up" + (f" ({errors[-1]})" if errors else ""),
        subject="vfmalign up",
        remedy=f"read the logs in {folder.logs}",
        reason="STACK_DID_NOT_START",
    )


def _document(folder: Home, state: State) -> dict[str, Any]:
    """What other programs need; the credentials stay in state.json."""
    store = state.store
    return {
        "home": str(folder.path),
        "logs": str(folder.logs),
        "store": None if store is None else {"endpoint": store.endpoint, "bucket": store.bucket},
        "services": {
            name: {
                "address": service.ports.address,
                "metrics": f"http://127.0.0.1:{service.ports.metrics}/metrics",
                "health": f"127.0.0.1:{service.ports.health}",
                "pid": None if service.process is None else service.process.pid,
                "restarts": service.restarts,
            }
            for name, service in state.services.items()
        },
    }


def _table(state: State, health: dict[str, str] | None = None) -> Table:
    result = table("Stack", "what", "address", "metrics", "pid", "restarts", "health", numbers=["pid", "restarts"])
    if state.store is not None:
        process = state.store.process
        alive = process is not None and process.alive()
        pid = str(process.pid) if process is not None and alive else ABSENT
        word = "serving" if alive else "down"
        result.add_row("s3", state.store.endpoint, ABSENT, pid, str(state.store.restarts), word)
    for name in SERVICES:
        if name in state.services:
            service = state.services[name]
            pid = ABSENT if service.process is None else str(service.process.pid)
            word = health[name] if health is not None else "serving" if service.serving else "starting"
            metrics = f"127.0.0.1:{service.ports.metrics}"
            result.add_row(name, service.ports.address, metrics, pid, str(service.restarts), word)
    return result
