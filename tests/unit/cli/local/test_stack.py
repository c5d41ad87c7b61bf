"""How a stack starts its services, and which come back after they end."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from vfmalign.cli.local import stack
from vfmalign.cli.local.environment import get_ports_file
from vfmalign.cli.local.stack import Stack
from vfmalign.cli.local.state_directory import ServicePorts, StateDirectory
from vfmalign.core.domain.errors import BAD_DATA, BAD_SPEC, RETRYABLE

ENDINGS = {
    "damaged data": (f"import sys; print('the database is damaged'); sys.exit({BAD_DATA})", False),
    "a wrong setting, such as a port that is taken": (f"raise SystemExit({BAD_SPEC})", True),
    "an unavailable database": (f"raise SystemExit({RETRYABLE})", True),
    "a crash": ("import os; os.kill(os.getpid(), 9)", True),
    "an end without an error": ("", True),
}


@pytest.mark.parametrize(("program", "comes_back"), ENDINGS.values(), ids=ENDINGS)
def test_only_a_service_whose_data_are_damaged_stays_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, comes_back: bool
) -> None:
    monkeypatch.setattr(stack, "FIRST_RESTART_PAUSE_S", 0.0)
    events: list[str] = []
    directory = StateDirectory(tmp_path)
    directory.create()
    running = Stack(directory, events.append, services=("finetuning",))
    running._ports["finetuning"] = ServicePorts(grpc=1, metrics=2, health=3)
    started: list[str] = []
    monkeypatch.setattr(running, "_spawn", lambda service: started.append(service.name))
    service = running._services["finetuning"]
    service.pause_s = 0.0
    with (directory.logs / "finetuning.log").open("wb") as log:
        service.popen = subprocess.Popen([sys.executable, "-c", program], stdout=log)
    service.popen.wait()
    for _ in range(3):
        running.reconcile()
    assert started == ["finetuning"] * comes_back
    assert service.restarts == comes_back
    assert len(events) == 1
    if not comes_back:
        assert events[0] == "finetuning ended with exit code 3 and stays down (the database is damaged)"
        assert directory.read().services["finetuning"].process is None


SERVE = """
import json, os, pathlib, time
unfinished = pathlib.Path("{path}.new")
unfinished.write_text(json.dumps(dict(pid=os.getpid())))
unfinished.rename("{path}")
time.sleep(600)
"""


def test_services_that_start_again_on_other_ports_leave_no_zombies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = StateDirectory(tmp_path)
    directory.create()
    events: list[str] = []
    started: list[subprocess.Popen[bytes]] = []
    running = Stack(directory, events.append, services=("features", "mmd"))

    def spawn(service: stack._SupervisedProcess) -> None:
        path = get_ports_file(directory, service.name)
        program = SERVE.format(path=str(path))
        if service.name == "features" and not started:
            resources.enter_context(socket.create_server(("127.0.0.1", running._ports["features"].grpc)))
            program = f"raise SystemExit({BAD_SPEC})"
        with running._get_log(service.name).open("wb") as log:
            service.popen = subprocess.Popen([sys.executable, "-c", program], stdout=log)
        started.append(service.popen)

    monkeypatch.setattr(running, "_spawn", spawn)
    with ExitStack() as resources:
        running._start_services()
        assert [process.returncode is not None for process in started] == [True, True, False, False]
        assert "another process took a port; starting the services again" in events
        running.stop()
    assert all(process.returncode is not None for process in started)


def test_ports_are_kept_before_a_service_is_said_to_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever sees a service serve may stop the stack at once. The next start must find the ports.
    directory = StateDirectory(tmp_path)
    directory.create()
    running = Stack(directory, lambda _: None, services=("features", "mmd"))
    seen: list[set[str]] = []

    def spawn(service: stack._SupervisedProcess) -> None:
        program = SERVE.format(path=str(get_ports_file(directory, service.name)))
        service.popen = subprocess.Popen([sys.executable, "-c", program])

    def write() -> None:
        serving = {one.name: running._ports[one.name] for one in running._services.values() if one.serving}
        assert serving.items() <= directory.read_ports().items()
        seen.append(set(serving))

    monkeypatch.setattr(running, "_spawn", spawn)
    monkeypatch.setattr(running, "_write", write)
    running._start_services()
    running.stop()
    assert {"features", "mmd"} in seen
