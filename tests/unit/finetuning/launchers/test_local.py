"""The local launcher with real processes: one per job, found again, killed whole."""

import os
import shlex
import signal
import subprocess
import sys
import time

import psutil
import pytest

from vfmalign.core.domain.errors import LeaseLost, Unavailable
from vfmalign.finetuning.launchers.base import Exited, Running, classify, describe
from vfmalign.finetuning.launchers.local import LocalLauncher, get_lock_dir

SLEEP = "import sys, time; print('started', sys.argv[1], flush=True); time.sleep(60)"


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError("condition not met in time")


def exited(launcher, job, handle=None):
    return wait_for(lambda: (seen := launcher.observe(job, 1, handle)) and isinstance(seen, Exited) and seen)


@pytest.fixture
def make(tmp_path):
    """Launchers over one folder of locks, as of several orchestrators; every child is killed at the end."""
    launchers = []

    def build(script=SLEEP):
        launchers.append(LocalLauncher((sys.executable, "-c", script), tmp_path / "jobs", tmp_path / "logs"))
        return launchers[-1]

    yield build
    for launcher in launchers:
        for path in (tmp_path / "jobs").glob("*.lock"):
            launcher.stop(path.stem, 1, None, force=True)
        for child in list(launcher._children.values()):
            child.wait(20)


def test_runs_the_command_with_the_spec_and_reports_the_exit_code(make, tmp_path):
    launcher = make("import sys; print(sys.argv[1]); sys.exit(3)")
    assert isinstance(launcher.observe("job", 1, None), Exited)
    launcher.launch("job", 1, "s3://bucket/jobs/job/spec.json")
    assert exited(launcher, "job") == Exited(3)
    assert "s3://bucket/jobs/job/spec.json" in (tmp_path / "logs" / "job.log").read_text()


def test_the_log_command_shows_what_the_process_wrote(make):
    launcher = make("print('a fault of ours')")
    launcher.launch("job", 1, "x")
    exited(launcher, "job")
    shown = subprocess.run(shlex.split(launcher.log_command("job", 1)), capture_output=True, text=True, check=True)
    assert shown.stdout == "a fault of ours\n"


def test_child_leads_its_own_session(make):
    launcher = make()
    handle = launcher.launch("job", 1, "x").handle
    assert os.getsid(handle["pid"]) == handle["pid"] != os.getsid(0)


def test_killed_child_reads_as_a_shell_shows_it(make):
    launcher = make()
    handle = launcher.launch("job", 1, "x").handle
    os.kill(handle["pid"], signal.SIGKILL)
    assert exited(launcher, "job", handle) == Exited(137)


def test_never_two_for_one_job_within_one_orchestrator_or_two(make, tmp_path):
    first, second = make(), make()
    handle = first.launch("job", 1, "x").handle
    assert first.launch("job", 1, "x").handle["pid"] == handle["pid"]
    assert second.launch("job", 1, "x").handle["pid"] == handle["pid"]
    assert not second._children
    assert second.launch("other", 1, "x").handle["pid"] != handle["pid"]


def test_lock_outlives_an_orchestrator_killed_before_it_recorded_anything(make, tmp_path):
    """A real orchestrator process spawns and is killed with -9 at once; only the kernel knows of the child."""
    program = (
        "import sys, os, signal; from pathlib import Path\n"
        "from vfmalign.finetuning.launchers.local import LocalLauncher\n"
        "root = Path(sys.argv[1])\n"
        "launcher = LocalLauncher((sys.executable, '-c', sys.argv[2]), root / 'jobs', root / 'logs')\n"
        "launcher.launch('job', 1, 'x'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), SLEEP], check=False)
    assert done.returncode == -signal.SIGKILL
    after = make()
    seen = after.observe("job", 1, None)
    assert isinstance(seen, Running)
    pid = seen.handle["pid"]
    assert psutil.Process(pid).cmdline()[-1] == "x"
    assert after.launch("job", 1, "x").handle["pid"] == pid
    assert not after._children
    after.stop("job", 1, seen.handle, force=True)
    assert exited(after, "job", seen.handle) == Exited(None)


def test_gentle_stop_reaches_the_main_process_which_may_checkpoint(make):
    # Blocked and waited for: a handler beside a long sleep misses a signal that comes just before the sleep.
    launcher = make(
        "import signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "print('ready', flush=True)\n"
        "signal.sigwait({signal.SIGTERM})\n"
        "sys.exit(75)"
    )
    handle = launcher.launch("job", 1, "x").handle
    wait_for(lambda: "ready" in (launcher._logs / "job.log").read_text())
    launcher.stop("job", 1, handle, force=False)
    assert exited(launcher, "job", handle) == Exited(75), "not 143, which a process that SIGTERM kills shows as well"


WITH_WORKER = (
    "import os, signal, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "pid = os.fork()\n"
    "print(os.getpid(), flush=True) if pid == 0 else None\n"
    "time.sleep(60)\n"
)


def worker_pid(launcher):
    text = wait_for(lambda: (launcher._logs / "job.log").read_text().strip())
    return int(text)


def test_forced_stop_kills_the_whole_group(make):
    launcher = make(WITH_WORKER)
    handle = launcher.launch("job", 1, "x").handle
    worker = worker_pid(launcher)
    launcher.stop("job", 1, handle, force=False)
    assert isinstance(launcher.observe("job", 1, handle), Running)
    launcher.stop("job", 1, handle, force=True)
    assert exited(launcher, "job", handle) == Exited(137)
    wait_for(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE)


def test_a_worker_that_outlives_its_main_process_is_killed_before_the_job_counts_as_ended(make):
    launcher = make(WITH_WORKER)
    handle = launcher.launch("job", 1, "x").handle
    worker = worker_pid(launcher)
    os.kill(handle["pid"], signal.SIGKILL)
    assert exited(launcher, "job", handle) == Exited(137)
    assert not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE


def test_a_clock_that_is_set_does_not_look_like_a_death(make):
    launcher = make()
    handle = launcher.launch("job", 1, "x").handle
    seen = launcher.observe("job", 1, handle | {"started": handle["started"] - 3600})
    assert seen.handle["pid"] == handle["pid"]
    time.sleep(0.1)
    assert isinstance(launcher.observe("job", 1, handle), Running)


def test_stopping_a_job_that_does_not_run_does_nothing(make):
    make().stop("job", 1, {"pid": os.getpid(), "started": psutil.Process().create_time()}, force=True)


def test_missing_program_is_one_sentence(tmp_path):
    launcher = LocalLauncher(("/nonexistent/python",), tmp_path / "jobs", tmp_path / "logs")
    with pytest.raises(Unavailable, match="VFMALIGN_LAUNCHER__COMMAND"):
        launcher.launch("job", 1, "x")
    assert isinstance(launcher.observe("job", 1, None), Exited)


# Holds the lock like an orchestrator that is stopped right before it starts the job.
STARTING = (
    "import sys, time; from pathlib import Path\n"
    "from vfmalign.finetuning.launchers.local import LocalLauncher\n"
    "def confirm():\n"
    "    print('locked', flush=True)\n"
    "    sys.stdin.readline()\n"
    "root = Path(sys.argv[1])\n"
    "launcher = LocalLauncher((sys.executable, '-c', sys.argv[2]), root / 'jobs', root / 'logs')\n"
    "launcher.launch('job', 1, 'x', confirm)\n"
    "print('started', flush=True); sys.stdin.readline()\n"
)


@pytest.fixture
def starting(tmp_path):
    """Another orchestrator's process, which leads a session of its own as under systemd."""
    command = [sys.executable, "-c", STARTING, str(tmp_path), SLEEP]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_an_orchestrator_that_starts_a_job_is_neither_taken_for_it_nor_overtaken(make, starting):
    launcher = make()
    assert launcher.observe("job", 1, None) == Running(None)
    assert launcher.launch("job", 1, "x") == Running(None)
    launcher.stop("job", 1, None, force=True)
    launcher.observe("job", 1, {"pid": 1, "started": 0.0})
    starting.stdin.write("go\n")
    starting.stdin.flush()
    assert starting.stdout.readline() == "started\n", "the job's launcher was killed in place of the job"
    seen = wait_for(lambda: (seen := launcher.observe("job", 1, None)).handle and seen)
    assert seen.handle["pid"] != starting.pid
    assert psutil.Process(seen.handle["pid"]).cmdline()[-1] == "x"
    assert not launcher._children


def test_nothing_is_started_where_leadership_is_lost(make):
    def lost():
        raise LeaseLost("another orchestrator has taken over")

    launcher = make()
    with pytest.raises(LeaseLost):
        launcher.launch("job", 1, "x", lost)
    assert not launcher._children
    assert isinstance(launcher.observe("job", 1, None), Exited)


def test_the_folder_of_locks_depends_on_the_user_and_the_database_alone(monkeypatch, tmp_path):
    folder = get_lock_dir("scope")
    for name in ("TMPDIR", "XDG_RUNTIME_DIR", "HOME", "VFMALIGN_STATE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    assert get_lock_dir("scope") == folder != get_lock_dir("other")
    assert folder.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_locks_that_others_may_enter_is_refused(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 99_999_999)
    with pytest.raises(Unavailable, match="mode to 0700"):
        get_lock_dir("scope")
    os.rmdir("/tmp/vfmalign-99999999")


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(0, "succeeded"), (2, "permanent"), (3, "permanent"), (1, "permanent"), (75, "retryable"), (139, "retryable"),
     (134, "retryable"), (143, "interrupted"), (137, "interrupted"), (129, "interrupted"), (76, "interrupted"),
     (None, "interrupted"), (69, "unavailable")],
)  # fmt: skip
def test_exit_codes(code, outcome):
    assert classify(code) == outcome
    assert describe(code)


def test_what_the_platform_reports_outweighs_the_exit_code():
    assert classify(137, "memory") == "retryable"
    assert classify(139, "platform") == "interrupted"
    assert classify(143, "limit") == "permanent"
