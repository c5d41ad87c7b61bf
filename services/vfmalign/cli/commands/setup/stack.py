"""`vfmalign up`, `down` and `status`: start, stop and show the local stack."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from vfmalign.cli.exits import OK, UNAVAILABLE
from vfmalign.cli.extras import LOCAL_MODULES, MMD_MODULES, require_modules
from vfmalign.cli.local import processes, registry
from vfmalign.cli.local.ports import PortChoice, number_ports
from vfmalign.cli.local.probes import get_health, get_store_health
from vfmalign.cli.local.stack import SERVICES, START_TIMEOUT_S, STOP_GRACE_S, WITHOUT_STORE, Stack, bring_down
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StackState, StateDirectory
from vfmalign.cli.options import HomeOption, JsonOption, parse_choice
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import new_table
from vfmalign.client.formatting import ABSENT
from vfmalign.core.domain.errors import Conflict, Unavailable

_POLL_S = 0.1
_DOWN_TIMEOUT_S = 4 * STOP_GRACE_S

DetachOption = Annotated[bool, typer.Option("--detach", "-d", help="Return once every service serves.")]
OnlyOption = Annotated[
    str | None,
    typer.Option("--only", metavar="mmd", help="Start the MMD service alone, without object storage (docs/api.md)."),
]
PortOption = Annotated[
    int | None,
    typer.Option(
        "--port",
        metavar="N",
        min=1024,
        max=65_524,
        help="First port. N to N+3 are the APIs of features, mmd, finetuning and monitoring. The next four ports are "
        "their metrics; the last four, their health. With --only: N, N+1 and N+2. Later starts keep the ports.",
    ),
]
AnyPortOption = Annotated[
    bool, typer.Option("--any-port", help="If ports are in use, use free ports instead, but only for this start.")
]


def up(
    home: HomeOption = DEFAULT_HOME,
    detach: DetachOption = False,
    *,
    only: OnlyOption = None,
    port: PortOption = None,
    any_port: AnyPortOption = False,
    as_json: JsonOption = False,
) -> None:
    """Start a local stack: object storage and services, or only the MMD service.

    A service that crashes is restarted. Services keep their ports and tokens across restarts of the stack. Press Ctrl-C
    to stop the stack. With `--only mmd`, the stack is the MMD service alone. Callers must then send features in the
    request (docs/api.md).
    """
    services: Sequence[str] = SERVICES
    if only is None:
        require_modules("local", "a local stack", LOCAL_MODULES)
    else:
        services = (parse_choice(only, WITHOUT_STORE, "--only"),)
        require_modules("mmd", "the MMD service", MMD_MODULES)
    output, directory = Output.to_terminal(as_json=as_json), StateDirectory(home)
    if detach:
        _start_detached(directory, output, services, PortChoice(port or 0, any_port))
        return
    with directory.single_instance_lock():
        stack = Stack(directory, output.note, services=services, port_choice=PortChoice(port or 0, any_port))
        # Install the handlers before anything is started, so that an interrupted start stops what it started.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _interrupt)
        try:
            with output.err.status("starting the stack"):
                state = stack.start()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stack.request_stop())
        except KeyboardInterrupt:
            stack.stop()  # `start` stops what it started, but not if it is interrupted as it returns
            output.note("stopped while starting")
            raise
        _show_started(directory, state, output, "Ctrl-C")
        stack.supervise()
        output.note("stopping the stack; jobs first write their checkpoints", "dim")
        stack.stop()
        output.note("stopped")


def down(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Stop the local stack and every process it started. Its data are kept."""
    output, directory = Output.to_terminal(as_json=as_json), StateDirectory(home)
    state = directory.read()
    was_running = state.running or bool(state.list_processes())
    with output.err.status("stopping the stack; jobs first write their checkpoints"):
        if state.supervisor is not None and state.running:
            state.supervisor.signal(signal.SIGTERM)
            for _ in processes.wait_for_exit([state.supervisor], _DOWN_TIMEOUT_S):
                state.supervisor.kill_group()
        state = directory.read()
        killed = bring_down(directory, state) if state.list_processes() else []
    if killed:
        output.note(f"killed after the grace period: {', '.join(killed)}", "yellow")
    if not was_running and (others := registry.describe_running()):
        output.note(others)
    output.emit({"was_running": was_running, "killed": killed}, "stopped" if was_running else "nothing was running")


def status(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show the processes of the local stack and their addresses.

    The exit code is 3 if a process does not serve.
    """
    output, directory = Output.to_terminal(as_json=as_json), StateDirectory(home)
    state = directory.read()
    health = {
        name: get_health(service.ports.address) if service.process is not None and service.process.alive() else "down"
        for name, service in state.services.items()
    }
    if state.store is not None:
        alive = state.store.process is not None and state.store.process.alive()
        health = {"s3": get_store_health(state.store.to_settings()) if alive else "down"} | health
    serving = state.running and bool(state.services) and set(health.values()) == {"serving"}
    if not state.running:
        start = f"start it with {directory.get_command('up --detach')}"
        output.note(f"{directory.path}: {state.describe_absence()}; {start}")
        if not state.killed and (others := registry.describe_running()):
            output.note(others)
    content = _to_json_dict(directory, state) | {"running": state.running, "health": health, "serving": serving}
    output.emit(content, _show_stack(state, health))
    raise typer.Exit(OK if serving else UNAVAILABLE)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _start_detached(
    directory: StateDirectory, output: Output, services: Sequence[str], port_choice: PortChoice
) -> None:
    """Starts a supervisor in a session of its own and waits until every service serves.

    Raises:
        Conflict: a stack with other services or ports runs already.
    """
    directory.create()
    state = directory.read()
    if state.running:
        _check_same(directory, state, services, port_choice)
        output.note("the stack is already running")
    else:
        options = [] if services is SERVICES else ["--only", *services]
        options += ["--port", str(port_choice.first)] if port_choice.first else []
        options += ["--any-port"] if port_choice.any else []
        with (directory.logs / "supervisor.log").open("ab") as log:
            log_start = log.tell()
            supervisor = subprocess.Popen(
                [sys.executable, "-m", "vfmalign.cli", "up", "--home", str(directory.path), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONSAFEPATH": "1"},
            )
        try:
            with output.err.status("starting the stack"):
                state = _await_ready(directory, supervisor, output, log_start)
        except KeyboardInterrupt:
            with output.err.status("stopping"):
                supervisor.terminate()
                supervisor.wait(_DOWN_TIMEOUT_S)
            output.note("stopped while starting")
            raise
    _show_started(directory, state, output, directory.get_command("down"))


def _show_started(directory: StateDirectory, state: StackState, output: Output, stop: str) -> None:
    output.emit(_to_json_dict(directory, state), _show_stack(state))
    output.note(f"logs are in {directory.logs}; {stop} stops the stack", "dim")
    if others := registry.describe_running(directory):
        output.note(f"this stack has its own datasets and models; {others}", "yellow")


def _check_same(directory: StateDirectory, state: StackState, services: Sequence[str], port_choice: PortChoice) -> None:
    """Raises Conflict if the running stack has other services or ports than requested."""
    ports = {name: service.ports for name, service in state.services.items()}
    if ports and set(ports) != set(services):
        difference = f"services ({', '.join(ports)})"
    elif ports and port_choice.first and ports != number_ports(services, port_choice.first):
        difference = f"ports ({', '.join(service.address for service in ports.values())})"
    else:
        return
    raise Conflict(
        f"a stack with other {difference} already runs in this state folder",
        subject="--home",
        remedy=f"stop it with {directory.get_command('down')}, or choose another folder",
    )


def _await_ready(
    directory: StateDirectory, supervisor: subprocess.Popen[bytes], output: Output, log_start: int
) -> StackState:
    deadline = time.monotonic() + 2 * START_TIMEOUT_S
    reported: set[str] = set()
    while time.monotonic() < deadline:
        state = directory.read()
        if state.supervisor is not None and state.supervisor.pid == supervisor.pid:
            for name, service in state.services.items():
                if service.serving and name not in reported:
                    reported.add(name)
                    output.note(f"{name} serves at {service.ports.address}")
            if state.ready:
                return state
        if supervisor.poll() is not None:
            break
        time.sleep(_POLL_S)
    log = (directory.logs / "supervisor.log").read_bytes()[log_start:].decode(errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in log if line.startswith("error: ")]
    remedies = [line.removeprefix("  → ") for line in log if line.startswith("  → ")]
    raise Unavailable(
        "the stack did not start" + (f" ({errors[-1]})" if errors else ""),
        subject="vfmalign up",
        remedy=remedies[-1] if remedies else f"read the logs in {directory.logs}",
        reason="STACK_DID_NOT_START",
    )


def _to_json_dict(directory: StateDirectory, state: StackState) -> dict[str, object]:
    """Returns the addresses and paths that other programs need. The credentials stay in their files."""
    store = state.store
    return {
        "home": str(directory.path),
        "logs": str(directory.logs),
        "token_file": None if state.token_file is None else str(state.token_file),
        "store": None
        if store is None
        else {
            "endpoint": store.endpoint,
            "bucket": store.bucket,
            "pid": None if store.process is None else store.process.pid,
            "restarts": store.restarts,
        },
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


def _show_stack(state: StackState, health: dict[str, str] | None = None) -> Table:
    columns = ("process", "address", "metrics", "pid", "restarts", "health")
    table = new_table("Stack", *columns, numbers=["pid", "restarts"])
    if state.store is not None:
        process = state.store.process
        alive = process is not None and process.alive()
        pid = str(process.pid) if process is not None and alive else ABSENT
        store_health = health["s3"] if health is not None else "serving" if alive else "down"
        table.add_row("s3", state.store.endpoint, ABSENT, pid, str(state.store.restarts), store_health)
    for name in SERVICES:
        if name in state.services:
            service = state.services[name]
            pid = ABSENT if service.process is None else str(service.process.pid)
            service_health = health[name] if health is not None else "serving" if service.serving else "starting"
            metrics = f"127.0.0.1:{service.ports.metrics}"
            table.add_row(name, service.ports.address, metrics, pid, str(service.restarts), service_health)
    return table
