"""Faults of the object store under a local stack: the metric that moves, the alert that fires, and what commands say.

The store is a real server that is stopped (SIGSTOP), killed, or stopped again and again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.alert_rules import fires
from tests.integration.cli.commands import Cli, Done, run_stack, suspended, wait_until

COMMAND_TIMEOUT_S = 90.0
"""Safety net for a command that hangs. `doctor` makes about ten calls that wait up to 5 s each for a slow store."""
SERVICES = ("features", "mmd", "finetuning", "monitoring")
LAST_SUCCESS = "vfmalign_store_last_success_timestamp_seconds"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A local stack."""
    with run_stack(tmp_path_factory.mktemp("stack")) as cli:
        yield cli


@pytest.fixture
def cli(stack: Cli) -> Cli:
    """The stack, once its object storage has answered every service since the last test."""
    answered = {name: count(stack, name, outcome="answered") for name in SERVICES}
    wait_until(lambda: all(count(stack, name, outcome="answered") > answered[name] for name in SERVICES), "the probes")
    return stack


def read(cli: Cli, service: str, name: str, **labels: str) -> float:
    """The sum of the samples of a service with these labels."""
    port = cli.home.read().services[service].ports.metrics
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        families = text_string_to_metric_families(page.read().decode())
    samples = [sample for family in families for sample in family.samples]
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


def count(cli: Cli, service: str, **labels: str) -> float:
    return read(cli, service, "vfmalign_store_attempts_total", operation="probe", **labels)


def run_command(cli: Cli, *arguments: str, variables: dict[str, str] | None = None) -> Done:
    """Runs a command, which must not hang."""
    done = subprocess.run(
        [sys.executable, "-m", "vfmalign.cli", *arguments],
        cwd=cli.folder,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        env={**os.environ, **(variables or {})},
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run_doctor(cli: Cli) -> Done:
    """Runs `doctor` with addresses, as for a deployment elsewhere: it need not load torch, which may take as long."""
    state = cli.home.read()
    assert state.store is not None
    variables = {f"VFMALIGN_{name.upper()}_ADDRESS": one.ports.address for name, one in state.services.items()}
    variables |= state.store.to_environment() | {"VFMALIGN_TOKEN_FILE": str(state.token_file)}
    return run_command(cli, "doctor", variables=variables)


def find_store(cli: Cli) -> psutil.Process:
    store = cli.home.read().store
    assert store is not None
    assert store.process is not None
    return psutil.Process(store.process.pid)


def assert_lost(cli: Cli, folder: Path) -> None:
    """Asserts that every service notices that the store is lost, and that the alert fires within three minutes."""
    began = time.time()
    failed = {name: count(cli, name, outcome="failed") for name in SERVICES}
    for name in SERVICES:
        wait_until(lambda name=name: count(cli, name, outcome="failed") > failed[name], f"a failed probe of {name}")  # type: ignore[misc]
    last_success_s = {name: read(cli, name, LAST_SUCCESS) - began for name in SERVICES}
    assert all(seconds < 1 for seconds in last_success_s.values()), "the time of the last success stands still"
    for name in SERVICES:
        log = (cli.home.logs / f"{name}.log").read_text().rpartition('"store_back"')[2]
        assert '"store_lost"' in log
        assert "STORE_UNAVAILABLE" in log
    if shutil.which("promtool") is not None:
        series = {
            f'{LAST_SUCCESS}{{job="vfmalign-{name}",bucket="vfmalign"}}': f"{value:.3f}x5"
            for name, value in last_success_s.items()
        }
        assert not fires(folder, "VfmalignStoreLost", series, 1)
        assert fires(folder, "VfmalignStoreLost", series, 3)


def assert_commands_name_the_store(cli: Cli, health: str) -> None:
    doctor = run_doctor(cli)
    assert doctor.code == 3, doctor.out + doctor.err
    assert "✗ s3         s3://vfmalign: the object store does not answer" in doctor.out
    assert "the first failing step is `s3`" in doctor.err
    status = run_command(cli, "status", "--json")
    assert (status.code, status.document["health"]["s3"]) == (3, health), status.out + status.err
    assert all(status.document["health"][name] == "serving" for name in SERVICES)


def test_a_store_that_is_stopped_is_noticed(cli: Cli, tmp_path: Path) -> None:
    with suspended(find_store(cli)):
        assert_lost(cli, tmp_path)
        assert_commands_name_the_store(cli, "unreachable")
    for name in SERVICES:
        lost_s = read(cli, name, LAST_SUCCESS)
        wait_until(lambda name=name, lost_s=lost_s: read(cli, name, LAST_SUCCESS) > lost_s, "an answer")  # type: ignore[misc]
    assert run_doctor(cli).code == 0


def test_a_store_that_refuses_connections_is_noticed(cli: Cli, tmp_path: Path) -> None:
    state = cli.home.read()
    assert state.supervisor is not None
    with suspended(psutil.Process(state.supervisor.pid)):  # or it would start the store again
        find_store(cli).kill()
        assert_lost(cli, tmp_path)
        assert_commands_name_the_store(cli, "down")


def test_a_store_that_is_slow_is_noticed(cli: Cli, tmp_path: Path) -> None:
    store, ended = find_store(cli), threading.Event()

    def slow_down() -> None:
        """Lets the store work for a tenth of a second every four seconds."""
        while not ended.is_set():
            with suspended(store):
                ended.wait(4)
            ended.wait(0.1)

    def read_probes() -> tuple[float, float]:
        name = "vfmalign_store_seconds"
        return tuple(read(cli, "mmd", f"{name}_{part}", operation="probe") for part in ("sum", "count"))  # type: ignore[return-value]

    before = read_probes()

    def get_mean_s() -> float:
        seconds, number = (after - earlier for after, earlier in zip(read_probes(), before, strict=True))
        return seconds / number if number >= 2 else 0.0

    thread = threading.Thread(target=slow_down)
    thread.start()
    try:
        wait_until(lambda: get_mean_s() > 1, "slow probes")
        mean_s = get_mean_s()
        for done in (run_doctor(cli), run_command(cli, "status")):
            assert done.code in {0, 3}, done.err
    finally:
        ended.set()
        thread.join()
    if shutil.which("promtool") is not None:
        labels = '{job="vfmalign-mmd",operation="probe"}'
        series = {
            f"vfmalign_store_seconds_sum{labels}": f"0+{4 * mean_s:.3f}x15",
            f"vfmalign_store_seconds_count{labels}": "0+4x15",
        }
        assert fires(tmp_path, "VfmalignStoreSlow", series, 10)
