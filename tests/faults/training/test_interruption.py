"""A job that is killed, terminated, drained, stopped or run twice at once ends with the uninterrupted result."""

import re
import shutil
import signal
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.integration.finetuning.kubernetes.emulator import NAMESPACE, Api
from tests.integration.training.conftest import comparable, wait_for
from tests.integration.training.machines import FIRST, SECOND, Machines

from vfmalign.core.domain.errors import Cancelled
from vfmalign.core.domain.jobs import JobResult
from vfmalign.core.runtime.work_queue import ShutdownRequest
from vfmalign.core.storage.keys import job_key
from vfmalign.finetuning.launchers.base import Exited, Running
from vfmalign.finetuning.launchers.kubernetes.api import Cluster
from vfmalign.finetuning.launchers.kubernetes.launcher import KubernetesLauncher
from vfmalign.finetuning.launchers.kubernetes.manifest import Options

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


def test_a_killed_job_continues_to_the_same_result(store, long_spec, start, finish, undisturbed):
    spec = long_spec("killed")
    process = start("killed")
    wait_for(store, job_key("killed", "progress/0002.json"), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert not store.exists(job_key("killed", "result.json"))
    with capture_logs() as entries:
        result = finish(spec)
    (resumed,) = (entry for entry in entries if entry["event"] == "resumed")
    assert resumed["step"] >= 8
    assert comparable(result) == comparable(undisturbed)


def test_a_terminated_job_stores_its_state_and_continues_to_the_same_result(
    store, long_spec, start, finish, undisturbed
):
    spec = long_spec("terminated")
    process = start("terminated")
    wait_for(store, job_key("terminated", "progress/0001.json"), process)
    process.terminate()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 143, log
    step = store.get_json(job_key("terminated", "checkpoint/latest.json"))["step"]
    assert 4 <= step < 20
    assert not store.exists(job_key("terminated", "failure.json"))
    assert comparable(finish(spec)) == comparable(undisturbed)


class StopAfter(ShutdownRequest):
    """Stops when it is asked for the n-th time."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def check(self):
        self.times -= 1
        if self.times < 0:
            self.request()
        super().check()


def test_a_job_can_be_stopped_at_any_point(store, long_spec, finish, undisturbed):
    """Also while loading, between validation cases and while scoring; each attempt gets a little further."""
    spec, attempts, steps = long_spec("often"), 0, []
    while not store.exists(job_key("often", "result.json")):
        try:
            finish(spec, StopAfter(15 + attempts))
        except Cancelled:
            attempts += 1
            if store.exists(job_key("often", "checkpoint/latest.json")):
                steps.append(store.get_json(job_key("often", "checkpoint/latest.json"))["step"])
    assert attempts >= 4
    assert all(earlier <= later for earlier, later in pairwise(steps))
    assert any(step % 4 for step in steps), "no attempt was stopped within an epoch"
    assert comparable(finish(spec)) == comparable(undisturbed)


def test_two_processes_of_one_job_agree(store, long_spec, start, undisturbed):
    long_spec("twice")
    processes = [start("twice"), start("twice")]
    for process in processes:
        _, log = process.communicate(timeout=300)
        assert process.returncode == 0, log
    result = store.read(job_key("twice", "result.json"), JobResult)
    assert comparable(result) == comparable(undisturbed)
    for figure in result.figures:
        store.get(figure.key, sha256=figure.sha256)


def test_lost_or_foreign_checkpoints_restart_the_job(store, long_spec, finish, undisturbed):
    spec = long_spec("lost")
    with pytest.raises(Cancelled):
        finish(spec, StopAfter(25))
    latest = store.get_json(job_key("lost", "checkpoint/latest.json"))
    store.delete(latest["state"]["key"])
    with pytest.raises(Cancelled):
        finish(spec, StopAfter(25))
    assert store.get_json(job_key("lost", "checkpoint/latest.json"))["step"] == latest["step"]
    other = spec.model_copy(update={"seed": 99})
    with pytest.raises(Cancelled):
        finish(other, StopAfter(17))
    assert store.get_json(job_key("lost", "checkpoint/latest.json"))["step"] < latest["step"]
    assert comparable(finish(spec)) == comparable(undisturbed)


# --- a node is drained: the API, kubelets and the Job controller are emulated, all else is real -----------------------


@pytest.fixture
def api():
    """The API."""
    found = Api()
    yield found
    found.close()


@pytest.fixture
def launcher(api, tmp_path, monkeypatch):
    """The launcher, and KUBECONFIG for kubectl as well."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path)))
    monkeypatch.setenv("HOME", str(tmp_path))  # kubectl keeps what it has discovered
    found = KubernetesLauncher(Cluster.connect(NAMESPACE), Options(), jobs_every_s=0.0, pods_every_s=0.0)
    yield found
    found.close()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not there")
def test_a_drained_node_costs_no_attempt(store, api, launcher, long_spec, start, undisturbed):
    spec = long_spec("drained")
    uri = store.uri(job_key(spec.job_id, "spec.json"))
    handle = launcher.launch(spec.job_id, 1, uri).handle
    machines = Machines(api, start)
    machines.until(lambda: store.exists(job_key(spec.job_id, "progress/0001.json")))
    assert isinstance(launcher.observe(spec.job_id, 1, handle), Running)

    # Without the pause, a training that is faster than kubectl ends before it is evicted.
    machines.pods[0].process.send_signal(signal.SIGSTOP)
    written = re.search(r"^kubectl drain NODE .*$", OPERATIONS.read_text(), re.MULTILINE)
    command = written.group().replace("NODE", FIRST).split()
    drain = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        machines.until(lambda: machines.pods[0].ending or drain.poll() is not None)
        machines.pods[0].process.send_signal(signal.SIGCONT)
        machines.until(lambda: drain.poll() is not None)
    finally:
        drain.kill()
        said, _ = drain.communicate()
    assert drain.returncode == 0, said

    def end():
        seen = launcher.observe(spec.job_id, 1, handle)
        return seen if isinstance(seen, Exited) else None

    assert machines.until(end) == Exited(0)
    assert [(pod.node, pod.code) for pod in machines.pods] == [(FIRST, 143), (SECOND, 0)]
    assert api.jobs() == [handle["name"]]
    assert comparable(store.read(job_key(spec.job_id, "result.json"), JobResult)) == comparable(undisturbed)
