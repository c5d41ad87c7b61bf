"""Launcher for a single machine: each job has at most one subprocess, even if the orchestrator is killed.

A kernel lock decides whether a job is alive: `flock` on `<lock dir>/<id>.lock`. The child process inherits the file
descriptor of the lock. The kernel keeps the lock until all processes of the job have ended. An orchestrator may be
killed after it has started a process and before it has recorded the process. Because of the lock, the next orchestrator
then cannot start a second process. The pid and the start time identify the process that receives signals. The pid is
not sufficient, because it may have been reused. The lock does not need the number of the attempt, because a job has one
process at a time.

On one machine, all orchestrators of a database must find the same lock, even if their state directories and
environments differ. The path of the lock folder is therefore fixed: `/tmp/vfmalign-<user id>/<scope of the database>`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from vfmalign.core.domain.errors import Unavailable
from vfmalign.finetuning.launchers.base import (
    UNKNOWN_ORIGIN,
    Confirm,
    Exited,
    Handle,
    Origin,
    Running,
    lead_always,
)

_REAP_TIMEOUT_S = 5.0
_SAME_START_S = 2.0  # a process's start time changes slightly when the system clock is adjusted
_LOCK_VARIABLE = "VFMALIGN_JOB_LOCK"
"""Environment variable that distinguishes a job's processes from an orchestrator that has the job's lock open."""


def get_lock_dir(scope: str) -> Path:
    """Returns the lock folder for the jobs of one database. The lock folder is inside a private folder of this user.

    Raises:
        Unavailable: the private folder belongs to another user, or other users may access it.
    """
    # TMPDIR and XDG_RUNTIME_DIR differ between a login session and a system service.
    private = Path(f"/tmp/vfmalign-{os.getuid()}")  # noqa: S108 - its owner and mode are verified
    private.mkdir(mode=0o700, exist_ok=True)
    info = private.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise Unavailable(
            "the folder of job locks is not a private folder of this user",
            subject=str(private),
            remedy="remove it, or set its owner and its mode to 0700",
        )
    return private / scope


class LocalLauncher:
    """Launcher for a single machine.

    Args:
        command: program and arguments. The URI of the job's spec is appended.
        lock_dir: folder of the locks. All orchestrators of a database share this folder.
        log_dir: folder of the logs. All attempts of a job write to the same file `<id>.log`.
    """

    def __init__(self, command: Sequence[str], lock_dir: Path, log_dir: Path) -> None:
        self._command = tuple(command)
        self._locks = lock_dir
        self._logs = log_dir
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._exit_codes: dict[str, int] = {}

    def launch(
        self,
        job: str,
        attempt: int,
        spec_uri: str,
        confirm: Confirm = lead_always,
        *,
        origin: Origin = UNKNOWN_ORIGIN,
    ) -> Running:
        """Starts `command spec_uri` in a new session, unless a process of the job already holds the lock."""
        for folder in (self._locks, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
        path = self._lock_path(job)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try_lock(lock):
                return Running(self._find(job))
            # Confirmed while the lock is held: an orchestrator that takes over from now on finds the job locked.
            confirm()
            self._exit_codes.pop(job, None)
            with self._log_path(job).open("ab") as log:
                child = subprocess.Popen(
                    [*self._command, spec_uri],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, _LOCK_VARIABLE: str(path.resolve())},
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        except OSError as error:
            raise Unavailable(
                f"the training process could not be started ({error.strerror})",
                subject=job,
                remedy="check VFMALIGN_LAUNCHER__COMMAND and the free memory and processes of this machine",
            ) from error
        finally:
            os.close(lock)  # the child's copy of the descriptor keeps the lock
        self._children[job] = child
        return Running(_handle(child.pid))

    def observe(self, job: str, attempt: int, handle: Handle | None) -> Running | Exited:
        """Returns `Running` while any process holds the lock. Kills the workers if the main process has ended."""
        if not self._locked(job):
            # The kernel releases the lock of an ending process shortly before its exit code can be read.
            return Exited(self._exit_codes.get(job)) if self._reap(job, _REAP_TIMEOUT_S) else Running(handle)
        self._reap(job, 0.0)  # the main process may have ended before its workers
        if handle is not None and _alive(handle):
            return Running(handle)
        # No handle was recorded, or the system clock changed, so the start time does not match. The processes that hold
        # the lock belong to the job in any case.
        holders = self._holders(job)
        if main := _find_main(holders):
            return Running(_handle(main.pid))
        if handle is not None:
            for process in holders:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        return Running(handle)

    def stop(self, job: str, attempt: int, handle: Handle | None, *, force: bool) -> None:
        """Sends SIGTERM to the main process, so that it writes a checkpoint.

        If `force` is set, sends SIGKILL to the process group instead.
        """
        if not self._locked(job):
            return
        if handle is None or not _alive(handle):
            handle = self._find(job)
        if handle is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if force:
                os.killpg(handle["pid"], signal.SIGKILL)
            else:
                os.kill(handle["pid"], signal.SIGTERM)

    def log_command(self, job: str, attempt: int) -> str:
        """Returns the command that shows the end of the job's log. This log contains the output of all attempts."""
        return shlex.join(["tail", "-n", "200", str(self._log_path(job))])

    def close(self) -> None:
        """Does nothing. The launcher has no resources to release, because the processes of the jobs own the locks."""

    def _log_path(self, job: str) -> Path:
        return self._logs / f"{job}.log"

    def _lock_path(self, job: str) -> Path:
        return self._locks / f"{job}.lock"

    def _locked(self, job: str) -> bool:
        try:
            lock = os.open(self._lock_path(job), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            os.utime(lock)  # programs that clean /tmp remove old files
            return not _try_lock(lock)
        finally:
            os.close(lock)

    def _reap(self, job: str, timeout_s: float) -> bool:
        """Reads the exit code of a child of this process; returns False while it runs."""
        child = self._children.get(job)
        if child is None:
            return True
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._exit_codes[job] = code if code >= 0 else 128 - code
        del self._children[job]
        return True

    def _find(self, job: str) -> Handle | None:
        main = _find_main(self._holders(job))
        return None if main is None else _handle(main.pid)

    def _holders(self, job: str) -> list[psutil.Process]:
        """Returns the processes of a job, without orchestrators that hold its lock during the start."""
        path = str(self._lock_path(job).resolve())
        return [process for process in _own_processes() if _belongs_to(process, path) and _has_open(process, path)]


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _own_processes() -> Iterator[psutil.Process]:
    own_pid, user = os.getpid(), os.getuid()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != own_pid and process.uids().real == user:
                yield process


def _handle(pid: int) -> Handle | None:
    try:
        return {"pid": pid, "started": psutil.Process(pid).create_time()}
    except psutil.NoSuchProcess:
        return None


def _alive(handle: Handle) -> bool:
    try:
        process = psutil.Process(handle["pid"])
        same = abs(process.create_time() - handle["started"]) < _SAME_START_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _find_main(holders: Sequence[psutil.Process]) -> psutil.Process | None:
    """Returns the session leader among the processes that hold a job's lock: its main process, if it lives."""
    for process in holders:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == process.pid:
                return process
    return None


def _belongs_to(process: psutil.Process, path: str) -> bool:
    try:
        return process.environ().get(_LOCK_VARIABLE) == path
    except (psutil.Error, OSError):
        return False


def _has_open(process: psutil.Process, path: str) -> bool:
    try:
        return any(file.path == path for file in process.open_files())
    except (psutil.Error, OSError):
        return False
