"""The local stack when its processes are killed or hang: what is killed comes back, and what hangs is named."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest
from tests.integration.cli.commands import Cli, run_stack, wait_until

from vfmalign.cli.local.stack import SERVICES


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A local stack."""
    with run_stack(tmp_path_factory.mktemp("cli")) as cli:
        yield cli


@pytest.fixture(scope="module")
def dataset(cli: Cli) -> str:
    """One phantom."""
    counts = ("--cases", "pretrain=0", "--cases", "train=1", "--cases", "val=0", "--cases", "test=0")
    cli.run("dataset", "phantoms", "--id", "d1", "--seed", "5", *counts)
    return "d1"


def test_a_killed_service_comes_back_at_its_address(cli: Cli) -> None:
    before = cli.service("mmd")
    os.kill(before["pid"], signal.SIGKILL)
    wait_until(lambda: cli.service("mmd")["restarts"] == before["restarts"] + 1, "the restart")
    wait_until(lambda: cli.call("status", code=None).code == 0, "serving again")
    after = cli.service("mmd")
    assert after["address"] == before["address"]
    assert after["pid"] != before["pid"]
    log = cli.home.logs / "supervisor.log"
    # The service may answer before the supervisor has noticed.
    wait_until(lambda: "mmd serves again" in log.read_text(), "the note that it serves again")
    assert "mmd was killed by signal 9; restarting it" in log.read_text()


def test_doctor_names_the_service_that_hangs(cli: Cli) -> None:
    hanging = psutil.Process(cli.service("features")["pid"])
    hanging.suspend()
    try:
        done = cli.call("doctor", code=3)
        status = cli.call("status", "--json", code=3).document
    finally:
        hanging.resume()
    assert "✗ features" in done.out
    assert f"its process {hanging.pid} is alive and does not answer, so it hangs" in done.out
    assert f"`kill -9 {hanging.pid}`" in " ".join(done.out.split())
    assert "logs/features.log" in done.out
    # The step `s3` may fail beside it: its writes have some seconds, and other tests load the disk at the same time.
    assert not any(f"✗ {name}" in done.out for name in ("mmd", "finetuning", "monitoring"))
    assert status["health"]["features"] == "unreachable"
    assert status["health"]["mmd"] == "serving"


def test_a_killed_s3_server_comes_back_with_its_data(cli: Cli, dataset: str) -> None:
    state = cli.home.read()
    assert state.store is not None
    assert state.store.process is not None
    os.kill(state.store.process.pid, signal.SIGKILL)
    old = state.store.process

    def came_back() -> bool:
        store = cli.home.read().store
        return store is not None and store.process is not None and store.process != old

    wait_until(came_back, "the S3 server's restart")
    assert cli.call("dataset", "show", dataset, "--json").document["dataset"] == dataset


def test_a_supervisor_that_was_killed_leaves_nothing_in_the_way(cli: Cli, dataset: str) -> None:
    before = cli.home.read()
    assert before.supervisor is not None
    os.kill(before.supervisor.pid, signal.SIGKILL)
    wait_until(lambda: not before.running, "the supervisor's end")
    assert "the stack of this state folder was killed" in cli.run("dataset", "list", code=3).err
    token = (cli.home.tokens / "owner" / "token").read_text()
    cli.run("up", "--detach")
    assert (cli.home.tokens / "owner" / "token").read_text() == token
    after = cli.home.read()
    assert not any(process.alive() for process in before.list_processes())
    assert {name: service.ports for name, service in after.services.items()} == {
        name: service.ports for name, service in before.services.items()
    }
    assert [item["dataset"] for item in cli.call("dataset", "list", "--json").document["datasets"]] == [dataset]


@pytest.mark.parametrize("service", ["finetuning", "monitoring"])
def test_a_damaged_database_keeps_its_service_down_until_it_is_restored(cli: Cli, service: str) -> None:
    files = sorted(cli.home.service_state.glob(f"{service}.db*"))
    before = cli.service(service)
    process = psutil.Process(before["pid"])
    process.suspend()
    contents = {path: path.read_bytes() for path in files}
    for path in files:
        path.write_bytes(b"damaged" * 1000)
    process.kill()
    log = cli.home.logs / "supervisor.log"
    ending = f"{service} ended with exit code 3 and stays down (VFMALIGN_DATABASE__URL: the database is damaged"
    wait_until(lambda: ending in log.read_text(), "the end")
    expected = dict.fromkeys(("s3", *SERVICES), "serving") | {service: "down"}
    # On a busy machine, another one may answer later than `status` waits.
    wait_until(lambda: cli.call("status", "--json", code=3).document["health"] == expected, "that the others serve")
    assert cli.service(service)["restarts"] == before["restarts"] + 1, "the one that found it"
    cli.run("down")
    refused = cli.run("up", "--detach", code=3).err
    assert f"{service}: the service ended before it served (VFMALIGN_DATABASE__URL: the database is damaged" in refused
    assert "restore the file from a backup" in refused
    for path, content in contents.items():
        path.write_bytes(content)
    cli.run("up", "--detach")
    wait_until(lambda: cli.call("status", "--json", code=None).document["serving"], "that all serve")
