"""Which services of a stack come back after they end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vfmalign.cli.local import stack
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
