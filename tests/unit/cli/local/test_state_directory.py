"""The state folder, processes in it, and their environment."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vfmalign.cli.local import processes
from vfmalign.cli.local.environment import get_malloc_settings, get_service_environment
from vfmalign.cli.local.processes import ProcessRef
from vfmalign.cli.local.stack import bring_down
from vfmalign.cli.local.state_directory import ServicePorts, ServiceState, StackState, StateDirectory, StoreState
from vfmalign.core.domain.errors import BadOption, Conflict

STORE = StoreState(
    endpoint="http://127.0.0.1:9",
    access_key="a",
    secret_key="s3cret",
    service_keys={name: (f"of-{name}", "s3cret") for name in ("features", "mmd", "finetuning", "monitoring")},
    bucket="vfmalign",
)
PORTS = {
    name: ServicePorts(grpc=n, metrics=n + 1, health=n + 2)
    for n, name in ((1, "features"), (4, "mmd"), (7, "finetuning"), (10, "monitoring"))
}
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)",
]


def test_the_state_is_its_owners_alone_and_comes_back_as_written(tmp_path: Path) -> None:
    home = StateDirectory(tmp_path / "home")
    home.create()
    state = StackState(store=STORE, services={"mmd": ServiceState(ports=PORTS["mmd"], serving=True)})
    home.write(state)
    assert home.read() == state
    assert (home.path / "state.json").stat().st_mode & 0o777 == 0o600
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in home.path.glob(".state*")] == []


def test_a_stack_that_was_killed_is_told_from_one_that_was_stopped() -> None:
    assert StackState().describe_absence() == "no stack runs in this state folder"
    state = StackState(supervisor=ProcessRef(pid=os.getpid(), started=0.0))
    assert state.killed
    assert f"was killed (supervisor {os.getpid()})" in state.describe_absence()
    assert not StackState(supervisor=ProcessRef.from_pid(os.getpid())).killed


def test_a_command_names_the_folder_unless_it_is_the_default_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert StateDirectory(Path(".vfmalign")).get_command("down") == "`vfmalign down`"
    assert StateDirectory(tmp_path / "a b").get_command("down") == f"`vfmalign down --home '{tmp_path}/a b'`"


def test_a_damaged_state_is_said_and_not_guessed(tmp_path: Path) -> None:
    home = StateDirectory(tmp_path)
    (tmp_path / "state.json").write_text('{"services": 3}')
    with pytest.raises(BadOption, match="cannot be read"):
        home.read()


def test_one_supervisor_holds_the_folder(tmp_path: Path) -> None:
    home = StateDirectory(tmp_path)
    with (
        home.single_instance_lock(),
        pytest.raises(Conflict, match="already runs in this state folder"),
        home.single_instance_lock(),
    ):
        pass
    with home.single_instance_lock():
        pass


def test_the_stores_settings_do_not_listen_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "http://elsewhere")
    monkeypatch.setenv("VFMALIGN_BUCKET", "elsewhere")
    settings = STORE.to_settings()
    assert (settings.endpoint, settings.bucket, settings.region) == (STORE.endpoint, "vfmalign", "us-east-1")
    assert settings.secret_key.get_secret_value() == "s3cret"


def test_mmd_alone_gets_neither_peers_nor_a_store_of_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "of-elsewhere")
    found = get_service_environment(StateDirectory(tmp_path), None, {"mmd": PORTS["mmd"]}, "mmd")
    assert not [name for name in found if name.startswith("AWS_")]
    assert {name for name in found if name.endswith("_ADDRESS")} == {"VFMALIGN_MMD_ADDRESS"}
    assert found["VFMALIGN_AUTH__MODE"] == "local"


def test_a_service_gets_its_ports_its_peers_and_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFMALIGN_TRAINING__THREADS", "7")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    monkeypatch.setenv("VFMALIGN_MMD_ADDRESS", "elsewhere:1")
    for name in ("VFMALIGN_CA_FILE", "VFMALIGN_TOKEN_FILE", "VFMALIGN_AUTH__ISSUERS", "VFMALIGN_AUTH__TENANTS"):
        monkeypatch.setenv(name, "/of/elsewhere")
    found = get_service_environment(StateDirectory(tmp_path), STORE, PORTS, "finetuning")
    assert found["VFMALIGN_SERVER__GRPC_PORT"] == "7"
    assert found["VFMALIGN_MMD_ADDRESS"] == "127.0.0.1:4"
    assert found["VFMALIGN_FEATURES_ADDRESS"] == "127.0.0.1:1"
    assert not [name for name, value in found.items() if value == "/of/elsewhere"]
    assert found["VFMALIGN_AUTH__MODE"] == "local"
    assert found["VFMALIGN_AUTH__TOKEN_FILE"] == str(tmp_path / "tokens" / "finetuning" / "token")
    assert found["AWS_SECRET_ACCESS_KEY"] == "s3cret"
    assert found["VFMALIGN_TRAINING__THREADS"] == "7"
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"
    assert found["MALLOC_ARENA_MAX"] == "3"
    assert found["MALLOC_TRIM_THRESHOLD_"] == "2147483647"
    assert (
        get_service_environment(StateDirectory(tmp_path), STORE, PORTS, "mmd")["MALLOC_TRIM_THRESHOLD_"] == "268435456"
    )
    monkeypatch.delenv("VFMALIGN_TRAINING__THREADS")
    settings = {"VFMALIGN_TRAINING__THREADS": "1", "VFMALIGN_MMD_ADDRESS": "nowhere:1"}
    found = get_service_environment(StateDirectory(tmp_path), STORE, PORTS, "finetuning", settings)
    assert found["VFMALIGN_TRAINING__THREADS"] == "1"
    assert found["VFMALIGN_MMD_ADDRESS"] == "127.0.0.1:4"


PAGES_OF_FREED_MEMORY = """
import resource
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = bytearray(24 * 2**20)
del block
before = faults()
block = bytearray(24 * 2**20)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators ignore these variables")
@pytest.mark.parametrize("service", ["features", "mmd", "finetuning"])
def test_a_service_reuses_the_memory_that_it_freed(service: str) -> None:
    environment = {**os.environ, **get_malloc_settings(service)}
    done = subprocess.run(
        [sys.executable, "-c", PAGES_OF_FREED_MEMORY], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 24 * 2**20 / os.sysconf("SC_PAGE_SIZE") / 10


def test_images_set_the_same_allocator_as_the_local_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    dockerfile = (Path(__file__).parents[4] / "deploy" / "Dockerfile").read_text()
    for image, service in {
        "features": "features",
        "mmd": "mmd",
        "training": "finetuning",
        "finetuning-local": "finetuning",
        "monitoring": "monitoring",
    }.items():
        stage = re.search(rf"^FROM \w+ AS {image}\n(?:(?!FROM ).*\n)*", dockerfile, re.MULTILINE)
        assert stage is not None
        assert dict(re.findall(r"(MALLOC_\w+)=(\d+)", stage[0])) == get_malloc_settings(service)


def test_an_older_glibc_gets_a_threshold_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.34"))
    assert get_malloc_settings("features")["MALLOC_MMAP_THRESHOLD_"] == str(32 * 2**20)


def test_a_process_is_known_by_its_start_time_too() -> None:
    me = ProcessRef.from_pid(os.getpid())
    assert me.alive()
    assert not ProcessRef(pid=me.pid, started=me.started - 60).alive()
    assert not ProcessRef(pid=2**22 + 1, started=0.0).alive()


def test_a_process_that_does_not_heed_is_killed() -> None:
    gentle = subprocess.Popen(SLEEP, start_new_session=True)
    deaf = subprocess.Popen(DEAF, start_new_session=True, stdout=subprocess.PIPE)
    assert deaf.stdout is not None
    deaf.stdout.readline()
    refs = [ProcessRef.from_pid(gentle.pid), ProcessRef.from_pid(deaf.pid)]
    killed = processes.stop(refs, grace_s=1.0)
    assert killed == [refs[1]]
    assert not any(ref.alive() for ref in refs)
    assert (gentle.wait(), deaf.wait()) == (-15, -9)
    deaf.stdout.close()


def test_bringing_down_stops_a_job_that_holds_its_lock(tmp_path: Path) -> None:
    home = StateDirectory(tmp_path)
    home.create()
    with (home.service_state / "job.lock").open("w") as lock:
        job = subprocess.Popen(SLEEP, start_new_session=True, pass_fds=(lock.fileno(),))
    service = subprocess.Popen(SLEEP, start_new_session=True)
    state = StackState(
        services={"mmd": ServiceState(ports=PORTS["mmd"], process=ProcessRef.from_pid(service.pid), serving=True)}
    )
    assert bring_down(home, state) == []
    assert job.wait(5) == -15
    assert service.wait(5) == -15
    assert home.read().services["mmd"] == ServiceState(ports=PORTS["mmd"])


@pytest.mark.skipif(sys.platform != "linux", reason="threads end one by one through a system call of Linux")
def test_a_process_whose_first_thread_has_ended_is_alive_until_the_last_has() -> None:
    code = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start(); print(flush=True)"
    exit_thread = "ctypes.CDLL(None).syscall(60 if __import__('platform').machine() == 'x86_64' else 93, 0)"
    child = subprocess.Popen([sys.executable, "-c", f"{code}; {exit_thread}"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    ref = ProcessRef.from_pid(child.pid)
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert ref.alive()
    os.kill(child.pid, signal.SIGKILL)
    assert processes.wait_for_exit([ref], 10.0) == []
    child.wait()
    child.stdout.close()
