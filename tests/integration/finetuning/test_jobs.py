"""Jobs through the supervisor: real processes, a real S3 server, a real database."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid

import psutil
import pytest
from tests.preloaded import get_command

from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.jobs import JobFailure, JobResult, MetricSpec, TrainingRecipe, TrainingSpec
from vfmalign.core.rpc.access.identity import Identity, current_identity
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.provenance import read_provenance
from vfmalign.finetuning.jobs.converters import to_job
from vfmalign.finetuning.jobs.repository import BASELINE_IN_TRAINING, JobRepository
from vfmalign.finetuning.jobs.retries import Limits, Setbacks
from vfmalign.finetuning.jobs.rounds import JobRounds
from vfmalign.finetuning.jobs.supervisor import Supervisor
from vfmalign.finetuning.launchers.local import LocalLauncher
from vfmalign.finetuning.schema import open_database

# What a training process does, with the outcome told by the seed. Every start leaves a line in the file `starts`.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from vfmalign.core.domain.jobs import JobFailure, JobProgress, JobResult, MetricSpec, TrainingSpec
from vfmalign.core.storage.keys import job_key
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore
store = ObjectStore(StoreSettings())
spec = store.read(store.key(sys.argv[1]), TrainingSpec)
starts = Path(os.environ["STARTS"])
with starts.open("a") as file:
    file.write(f"{spec.job_id} {os.getpid()}\\n")
first = starts.read_text().count(f"{spec.job_id} ") == 1
mode = spec.seed
def progress(epoch):
    store.write(job_key(spec.job_id, f"progress/{epoch:04d}.json"), JobProgress(
        epoch=epoch, epochs=2, step=epoch, steps=2, train_loss=None, validation_score=0.1 * epoch, elapsed_seconds=1.0))
def finish():
    progress(1); progress(2)
    store.write(job_key(spec.job_id, "result.json"), JobResult(
        job_id=spec.job_id, metrics=(MetricSpec(name="m", unit="", higher_is_better=True, floor=0.1),),
        primary_metric="m", curve=(), selected_epoch=0, selected_step=0, test_scores=(),
        weight_change=None, parameters=1, device="cpu", stage_seconds={}, processor_seconds=0.0, software={}))
progress(0)
if mode in (2, 3):
    store.write(job_key(spec.job_id, "failure.json"),
        JobFailure(exit_code=mode, reason="BAD_DATASET", message="the split 'train' holds no case", remedy="add one"))
    sys.exit(mode)
if mode == 1:
    raise RuntimeError("a fault of ours")
if mode == 75 and first:
    sys.exit(75)
if mode == 76:
    sys.exit(75)
if mode == 137 and first:
    os.kill(os.getpid(), signal.SIGKILL)
if mode == 5:  # runs until it is asked to stop, then checkpoints
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    while first:
        time.sleep(0.05)
if mode == 6:  # deaf
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pid = os.fork()
    time.sleep(120)
if mode == 7:  # takes a while
    time.sleep(1.5)
if mode == 8:
    sys.exit(0)
finish()
"""


@pytest.fixture
def world(tmp_path, store, store_environment, python_server, monkeypatch):
    """Builds supervisors over one store, database and state directory, as of successive orchestrators."""
    for name, value in store_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))
    (tmp_path / "starts").touch()
    database = open_database(f"sqlite:///{tmp_path / 'jobs.db'}")
    database.migrate()
    launchers = []

    class World:
        jobs = JobRepository(database)
        prefix = uuid.uuid4().hex[:8]
        folder = tmp_path
        command = tuple(get_command(python_server, ["-c", PROGRAM]))

        def supervisor(self, **limits):
            launchers.append(LocalLauncher(self.command, tmp_path / "jobs", tmp_path / "logs"))
            chosen = Limits(**({"retry_delay_s": 0.0} | limits))
            return JobRounds([Supervisor(self.jobs, store, launchers[-1], chosen)], chosen)

        def add(self, name, mode=0, baseline=""):
            name = f"{self.prefix}-{name}"
            request = JobSpec(kind="finetune", dataset_id="d", model_id="m", task="segmentation", seed=mode)
            recipe = TrainingRecipe(epochs=2, steps_per_epoch=1, batch_size=1, learning_rate=0.1)
            spec = TrainingSpec(
                job_id=name, kind="finetune", dataset_id="d", dataset_digest="0" * 64, architecture="a", seed=mode,
                recipe=recipe, publish_as=f"{name}-encoder", network="scratch" if baseline else "pretrained",
            )  # fmt: skip
            return self.jobs.create(request, spec, baseline=baseline).id

        def starts(self, name):
            return [line for line in (tmp_path / "starts").read_text().splitlines() if line.startswith(f"{name} ")]

        def until(self, supervisor, condition, seconds=60.0):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                supervisor.reconcile()
                if result := condition():
                    return result
                time.sleep(0.05)
            raise AssertionError("condition not met in time")

        def finish(self, supervisor, name):
            return self.until(supervisor, lambda: (job := self.jobs.get(name)).finished and job)

    yield World()
    for launcher in launchers:
        for path in (tmp_path / "jobs").glob("*.lock"):
            launcher.stop(path.stem, 1, None, force=True)
        for child in list(launcher._children.values()):
            child.wait(20)
    database.close()


def test_a_job_leaves_its_creator_for_the_model_that_it_publishes(world, store):
    token = current_identity.set(Identity("ada", "https://idp", frozenset({"default"}), frozenset({"researcher"})))
    name = world.add("created")
    current_identity.reset(token)
    job = world.finish(world.supervisor(), name)
    provenance = read_provenance(store, job_key(name, ""), job.spec.digest())
    assert (provenance.created_by, provenance.created_at) == ("https://idp#ada", job.created_at)
    assert b"ada" not in store.get(job_key(name, "spec.json")), "another caller may continue it after a lost database"


def test_a_job_runs_to_its_result(world, store):
    name = world.add("plain")
    job = world.finish(world.supervisor(), name)
    assert job.state == "succeeded"
    assert [point.epoch for point in job.curve] == [0, 1, 2]
    assert store.get(job.result.key, sha256=job.result.sha256)
    assert len(world.starts(name)) == 1
    assert [(a.exit_code, a.outcome) for a in world.jobs.attempts(name)] == [(0, "succeeded")]


@pytest.mark.parametrize("mode", [75, 137])
def test_retryable_ends_are_tried_again_and_resume(world, mode):
    name = world.add("retry", mode)
    job = world.finish(world.supervisor(), name)
    assert job.state == "succeeded"
    assert [a.exit_code for a in world.jobs.attempts(name)] == [mode, 0]
    assert [point.epoch for point in job.curve] == [0, 1, 2], "epochs that were written again are not counted twice"


def test_a_job_that_keeps_failing_is_given_up(world):
    name = world.add("hopeless", 76)
    job = world.finish(world.supervisor(max_attempts=2), name)
    assert job.state == "failed"
    assert job.failure.reason == "JOB_GIVEN_UP"
    assert "2 attempts" in job.progress.detail
    assert len(world.starts(name)) == 2


@pytest.mark.parametrize("mode", [2, 3])
def test_bad_spec_and_bad_data_are_not_tried_again_and_keep_their_sentence(world, mode):
    name = world.add("bad", mode)
    job = world.finish(world.supervisor(), name)
    assert (job.state, job.failure.reason, job.exit_code) == ("failed", "BAD_DATASET", mode)
    assert job.progress.detail == "the split 'train' holds no case; add one"
    assert len(world.starts(name)) == 1


def test_a_crash_points_to_the_log_and_is_not_tried_again(world):
    name = world.add("crash", 1)
    job = world.finish(world.supervisor(), name)
    assert job.state == "failed"
    command = re.search(r"see its log: `(.+)`$", job.failure.message)[1]
    shown = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)
    assert "a fault of ours" in shown.stdout
    assert len(world.starts(name)) == 1


def test_exit_without_a_result_is_a_failure(world):
    job = world.finish(world.supervisor(), world.add("empty", 8))
    assert job.state == "failed"
    assert "without writing its result" in job.progress.detail


def test_the_limit_holds_and_queued_jobs_start_in_order(world):
    names = [world.add(f"q{i}", 7 if i < 2 else 0) for i in range(3)]
    supervisor = world.supervisor(max_running=2)
    supervisor.reconcile()
    assert [world.jobs.get(name).state for name in names] == ["running", "running", "queued"]
    for _ in range(5):
        supervisor.reconcile()
        assert len(world.jobs.launched()) <= 2
    for name in names:
        assert world.finish(supervisor, name).state == "succeeded"


def test_cancel_lets_a_job_checkpoint(world):
    name = world.add("gentle", 5)
    supervisor = world.supervisor()
    world.until(supervisor, lambda: world.jobs.get(name).curve)
    world.jobs.cancel(name)
    job = world.finish(supervisor, name)
    assert job.state == "cancelled"
    assert world.jobs.attempts(name)[0].exit_code == 143


def test_cancel_kills_a_deaf_job_with_its_whole_group(world):
    world.command = (sys.executable, "-c", PROGRAM)  # the processes of a fork are in no group of the command's
    name = world.add("deaf", 6)
    supervisor = world.supervisor(stop_grace_s=0.3)
    world.until(supervisor, lambda: world.jobs.get(name).curve)
    pid = world.jobs.get(name).handle["pid"]
    group = [p.pid for p in psutil.process_iter() if _group(p.pid) == pid]
    world.until(supervisor, lambda: len([p for p in psutil.process_iter() if _group(p.pid) == pid]) == 2)
    world.jobs.cancel(name)
    assert world.finish(supervisor, name).state == "cancelled"
    world.until(supervisor, lambda: not [p for p in psutil.process_iter() if _group(p.pid) == pid and _alive(p)])
    assert group


def _group(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_stopping_the_service_lets_jobs_resume_without_counting_against_them(world):
    name = world.add("service-stop", 5)
    first = world.supervisor(max_attempts=1)
    world.until(first, lambda: world.jobs.get(name).curve)
    first.stop_all()
    waiting = world.jobs.get(name)
    assert (waiting.state, waiting.setbacks) == ("queued", Setbacks())
    assert world.finish(world.supervisor(max_attempts=1), name).state == "succeeded"
    assert [a.outcome for a in world.jobs.attempts(name)] == ["interrupted", "succeeded"]


ORCHESTRATOR = """
import os, signal, sys
from pathlib import Path
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.schema import open_database
from vfmalign.finetuning.jobs.repository import BASELINE_IN_TRAINING, JobRepository
from vfmalign.finetuning.launchers.local import LocalLauncher
from vfmalign.finetuning.jobs.retries import Limits
from vfmalign.finetuning.jobs.rounds import JobRounds
from vfmalign.finetuning.jobs.supervisor import Supervisor
root, when = Path(sys.argv[1]), sys.argv[2]
jobs = JobRepository(open_database(f"sqlite:///{root / 'jobs.db'}"))
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
launcher = LocalLauncher(sys.argv[3:], root / "jobs", root / "logs")
if when == "before launch":
    launcher.launch = die
if when == "before record":
    jobs.record = die
JobRounds([Supervisor(jobs, ObjectStore(StoreSettings()), launcher, Limits())], Limits()).reconcile()
die()
"""


@pytest.fixture
def orchestrate(world, python):
    """Runs a round in a process that kills itself at a moment; returns its exit code."""

    def run(when):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        return python([sys.executable, "-c", ORCHESTRATOR, str(world.folder), when, *world.command], **pipes).wait(60)

    return run


@pytest.mark.parametrize(
    ("when", "outcomes"),
    [("before launch", ["interrupted", "succeeded"]), ("before record", ["succeeded"]), ("later", ["succeeded"])],
)
def test_an_orchestrator_killed_at_any_moment_neither_loses_nor_doubles_a_job(world, orchestrate, when, outcomes):
    name = world.add("orphan", 7)
    assert orchestrate(when) == -signal.SIGKILL
    assert world.jobs.get(name).state == ("running" if when == "later" else "pending")
    job = world.finish(world.supervisor(), name)
    assert job.state == "succeeded"
    assert len(world.starts(name)) == 1
    assert [a.outcome for a in world.jobs.attempts(name)] == outcomes


def test_a_child_killed_while_nobody_watched_is_tried_again(world, orchestrate):
    name = world.add("unseen", 5)
    orchestrate("later")
    while not world.starts(name):
        time.sleep(0.05)
    os.kill(world.jobs.get(name).handle["pid"], signal.SIGKILL)
    job = world.finish(world.supervisor(), name)
    assert job.state == "succeeded"
    assert [(a.exit_code, a.outcome) for a in world.jobs.attempts(name)] == [(None, "interrupted"), (0, "succeeded")]


def test_a_job_that_cannot_be_started_waits_and_says_why(world, store):
    name = world.add("stuck")
    launcher = LocalLauncher(("/nonexistent/python",), world.folder / "jobs", world.folder / "logs")
    limits = Limits(retry_delay_s=0.0)
    supervisor = JobRounds([Supervisor(world.jobs, store, launcher, limits)], limits)
    for _ in range(4):
        supervisor.reconcile()
    job = world.jobs.get(name)
    assert (job.state, job.attempts, job.setbacks) == ("queued", 0, Setbacks())
    assert "VFMALIGN_LAUNCHER__COMMAND" in job.progress.detail
    assert world.finish(world.supervisor(), name).attempts == 1


def test_a_job_whose_result_exists_is_done_without_a_process(world, store):
    name = world.add("done-before")
    store.write(
        job_key(name, "result.json"),
        JobResult(
            job_id=name, metrics=(MetricSpec(name="m", unit="", higher_is_better=True, floor=0.1),), primary_metric="m",
            curve=(), selected_epoch=0, selected_step=0, test_scores=(), weight_change=None, parameters=1,
            device="cpu", stage_seconds={}, processor_seconds=0.0, software={},
        ),
    )  # fmt: skip
    assert world.finish(world.supervisor(), name).state == "succeeded"
    assert world.starts(name) == []


def test_another_spec_at_the_same_address_fails_the_job(world, store):
    name = world.add("taken")
    store.write(job_key(name, "spec.json"), JobFailure(exit_code=2, reason="X", message="something else"))
    job = world.finish(world.supervisor(), name)
    assert (job.state, job.failure.reason) == ("failed", "ALREADY_EXISTS")
    assert world.starts(name) == []


def test_a_baseline_that_several_checks_share_is_trained_once(world, store):
    first, second = world.add("first", 7, baseline="b" * 64), world.add("second", 7, baseline="b" * 64)
    other = world.add("other", 7, baseline="c" * 64)
    supervisor = world.supervisor(max_running=3)
    waits = world.until(
        supervisor, lambda: (job := world.jobs.get(second)).progress.reason == BASELINE_IN_TRAINING and job
    )
    assert (waits.state, waits.progress.detail) == (
        "queued",
        f"waiting for job {first}, which trains the same baseline",
    )
    jobs = [world.finish(supervisor, name) for name in (first, second, other)]
    assert [job.state for job in jobs] == ["succeeded"] * 3
    assert [job.attempts for job in jobs] == [1, 0, 1]
    assert jobs[1].progress.detail == f"taken from job {first}, which trained the same baseline"
    assert jobs[1].curve == jobs[0].curve
    encoders = [to_job(job, store).encoder_model_id for job in jobs]
    assert encoders == [f"{first}-encoder", "", f"{other}-encoder"], "a job names an encoder that it did not publish"
    assert store.read(job_key(second, "result.json"), JobResult).job_id == first
    third = world.add("third", 7, baseline="b" * 64)
    assert world.finish(supervisor, third).attempts == 0
    assert world.starts(second) == world.starts(third) == []


def test_a_baseline_is_trained_again_where_the_other_job_ends_without_a_result_or_loses_it(world, store):
    first, second = world.add("first", 5, baseline="b" * 64), world.add("second", 5, baseline="b" * 64)
    supervisor = world.supervisor(max_running=2)
    world.until(supervisor, lambda: world.starts(first))
    world.until(supervisor, lambda: world.jobs.get(second).progress.reason == BASELINE_IN_TRAINING)
    world.jobs.cancel(first)
    world.until(supervisor, lambda: world.starts(second))
    assert world.jobs.get(first).state == "cancelled"
    world.jobs.cancel(second)
    world.finish(supervisor, second)

    third = world.add("third", baseline="d" * 64)
    world.finish(supervisor, third)
    store.delete(job_key(third, "result.json"))
    fourth = world.add("fourth", baseline="d" * 64)
    assert world.finish(supervisor, fourth).attempts == 1
