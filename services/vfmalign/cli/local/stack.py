"""The local stack: one process starts, supervises and stops the S3 server and the services.

A stack with only the MMD service has no S3 server, because callers send their features. A service that crashes is
restarted on the same ports, after a pause that grows with every restart. A service with damaged data is not restarted.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vfmalign.cli.local import processes, registry, s3_server, signing_key, tokens
from vfmalign.cli.local.environment import NO_SETTINGS, get_ports_file, get_service_environment
from vfmalign.cli.local.log_rotation import rotate
from vfmalign.cli.local.ports import KEEP_PORTS, PortChoice, port_is_free
from vfmalign.cli.local.processes import ProcessRef
from vfmalign.cli.local.s3_configuration import BUCKET
from vfmalign.cli.local.state_directory import ServicePorts, ServiceState, StackState, StateDirectory, StoreState
from vfmalign.core.domain.errors import BAD_DATA, Unavailable
from vfmalign.core.runtime.settings import EXIT_BAD_SETTINGS
from vfmalign.core.storage.store.object_store import ObjectStore

SERVICES = ("features", "mmd", "finetuning", "monitoring")
WITHOUT_STORE = ("mmd",)
"""Services that also work without object storage."""
START_TIMEOUT_S = 180.0
STOP_GRACE_S = 45.0
SUPERVISION_PERIOD_S = 0.3
LOG_ROTATION_PERIOD_S = 10.0
FIRST_RESTART_PAUSE_S = 0.5
MAX_RESTART_PAUSE_S = 30.0
STABLE_AFTER_S = 60.0
"""If a process crashes after it ran this long, its next pause is the shortest one again."""
_POLL_S = 0.1
_PORT_ATTEMPTS = 3

Notify = Callable[[str], None]


@dataclass
class _SupervisedProcess:
    """One process that is kept running."""

    name: str
    popen: subprocess.Popen[bytes] | None = None
    serving: bool = False
    started: float = 0.0
    restarts: int = 0
    pause_s: float = FIRST_RESTART_PAUSE_S
    restart_at: float | None = None

    def to_ref(self) -> ProcessRef | None:
        return None if self.popen is None else ProcessRef.from_pid(self.popen.pid)


class Stack:
    """One stack in one state folder. The caller must hold the folder's lock.

    Args:
        directory: the state folder.
        notify: called with one sentence about every event.
        settings: environment variables of the services, which override the defaults for this machine.
        services: the services to run. The S3 server is started if a service needs it, or if there are no services.
        port_choice: rule for the choice of the services' ports.
    """

    def __init__(
        self,
        directory: StateDirectory,
        notify: Notify,
        settings: Mapping[str, str] = NO_SETTINGS,
        services: Collection[str] = SERVICES,
        port_choice: PortChoice = KEEP_PORTS,
    ) -> None:
        self._directory = directory
        self._notify = notify
        self._settings = settings
        self._port_choice = port_choice
        self._s3 = _SupervisedProcess("s3")
        self._store: StoreState | None = None
        self._ports: dict[str, ServicePorts] = {}
        self._services = {name: _SupervisedProcess(name) for name in services}
        self._stop_requested = threading.Event()
        self._rotate_logs_at = 0.0

    def start(self) -> StackState:
        """Starts the S3 server, then the services concurrently, and waits until all of them serve.

        Raises:
            Unavailable: a port is taken, or a process ended or did not serve in time. In this case, the started
                processes are stopped.
        """
        earlier = self._directory.read()
        if earlier.list_processes():
            self._notify("stopping the processes of an earlier stack")
            bring_down(self._directory, earlier)
        try:
            tokens.ensure(self._directory.tokens)
            signing_key.ensure(self._directory.tokens)
            if set(self._services) != set(WITHOUT_STORE):
                self._start_store()
            self._start_services()
            self._register()
        except BaseException:
            self.stop()
            raise
        return self.get_state()

    def reconcile(self) -> None:
        """Checks every process once: restarts dead processes, records serving processes, and rotates logs if due."""
        now = time.monotonic()
        if now >= self._rotate_logs_at:
            rotate((self._directory.logs, self._directory.job_logs, self._directory.s3))
            self._rotate_logs_at = now + LOG_ROTATION_PERIOD_S
        for process in (self._s3, *self._services.values()):
            if process.popen is not None and (code := process.popen.poll()) is not None:
                self._schedule_restart(process, code, now)
            elif process.restart_at is not None and now >= process.restart_at:
                self._restart(process)
            elif process.popen is not None and not process.serving and self._serves(process):
                process.serving = True
                self._notify(f"{process.name} serves again")
                self._write()

    def supervise(self) -> None:
        """Reconciles until `stop` or `request_stop` is called."""
        while not self._stop_requested.wait(SUPERVISION_PERIOD_S):
            # On a full disk, neither the state nor a log can be written. The processes need their supervisor even then.
            with contextlib.suppress(OSError):
                self.reconcile()

    def request_stop(self) -> None:
        """Makes `supervise` return. Safe to call in a signal handler."""
        self._stop_requested.set()

    def stop(self) -> None:
        """Stops all processes. The orchestrator and its jobs stop first, the S3 server last."""
        self._stop_requested.set()
        bring_down(self._directory, self.get_state())
        registry.unregister(self._directory)
        self._reap(self._s3, *self._services.values())

    @staticmethod
    def _reap(*stopped: _SupervisedProcess) -> None:
        """Reads the exit codes of processes that were stopped, which would otherwise stay as zombies."""
        for process in stopped:
            if process.popen is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.popen.wait(STOP_GRACE_S)
                process.popen, process.serving = None, False

    def get_state(self) -> StackState:
        """Returns the current state of the stack."""
        store = self._store
        if store is not None:
            store = store.model_copy(update={"process": self._s3.to_ref(), "restarts": self._s3.restarts})
        services = {
            name: ServiceState(
                ports=self._ports[name], process=process.to_ref(), serving=process.serving, restarts=process.restarts
            )
            for name, process in self._services.items()
            if name in self._ports
        }
        return StackState(
            supervisor=ProcessRef.from_pid(os.getpid()),
            token_file=tokens.TokenFiles.find(self._directory.tokens, tokens.OWNER).token,
            store=store,
            services=services,
        )

    def _start_store(self) -> None:
        before = time.monotonic()
        self._s3.popen, server = s3_server.start(self._directory.s3)
        self._s3.started = time.monotonic()
        self._store = StoreState(
            endpoint=server.endpoint,
            access_key=server.access_key,
            secret_key=server.secret_key,
            service_keys=server.service_keys,
            bucket=BUCKET,
        )
        ObjectStore(self._store.to_settings()).ensure_bucket()
        self._s3.serving = True
        self._notify(f"s3 serves at {server.endpoint} ({time.monotonic() - before:.1f} s)")
        self._write()

    def _register(self) -> None:
        try:
            registry.register(self._directory)
        except OSError as error:
            self._notify(f"commands in other folders will not name this stack ({error.strerror}: {registry.FOLDER})")

    def _start_services(self) -> None:
        """Starts all services. If another process takes a new port first, tries others."""
        kept = self._directory.read_ports()
        for attempts_left in reversed(range(_PORT_ATTEMPTS)):
            self._ports = self._port_choice.choose(self._services, kept)
            for service in self._services.values():
                self._spawn(service)
            try:
                self._await_serving()
                return
            except Unavailable:
                if not attempts_left or not self._lost_a_port():
                    raise
                self._notify("another process took a port; starting the services again")
                refs = [service.to_ref() for service in self._services.values()]
                processes.stop([ref for ref in refs if ref is not None], STOP_GRACE_S)
                self._reap(*self._services.values())

    def _lost_a_port(self) -> bool:
        """Whether a service ended because of its settings while another process holds one of its ports."""
        return any(
            service.popen is not None
            and service.popen.poll() == EXIT_BAD_SETTINGS
            and not all(port_is_free(port) for port in self._ports[name].model_dump().values())
            for name, service in self._services.items()
        )

    def _spawn(self, service: _SupervisedProcess) -> None:
        get_ports_file(self._directory, service.name).unlink(missing_ok=True)
        with self._get_log(service.name).open("ab") as log:
            service.popen = subprocess.Popen(
                [sys.executable, "-m", f"vfmalign.{service.name}"],
                env=get_service_environment(self._directory, self._store, self._ports, service.name, self._settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        service.started, service.serving = time.monotonic(), False
        self._write()

    def _await_serving(self) -> None:
        """Waits until all services serve. Each keeps its ports for later starts."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while waiting := [process for process in self._services.values() if not process.serving]:
            for process in waiting:
                if process.popen is None or process.popen.poll() is not None:
                    raise self._did_not_start(process.name, "ended before it served")
                if self._serves(process):
                    process.serving = True
                    seconds = time.monotonic() - process.started
                    self._notify(f"{process.name} serves at {self._ports[process.name].address} ({seconds:.1f} s)")
                    # Before the state says so: whoever sees a service serve may stop the stack and start it again.
                    if not self._port_choice.any:
                        self._directory.write_ports({process.name: self._ports[process.name]})
                    self._write()
            if time.monotonic() > deadline:
                raise self._did_not_start(waiting[0].name, f"does not serve after {START_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)

    def _serves(self, process: _SupervisedProcess) -> bool:
        if process is self._s3 or process.popen is None:
            return process is self._s3
        try:
            content = json.loads(get_ports_file(self._directory, process.name).read_text())
        except FileNotFoundError:
            return False
        return bool(content["pid"] == process.popen.pid)

    def _did_not_start(self, name: str, problem: str) -> Unavailable:
        log = self._get_log(name)
        return Unavailable(
            f"the service {problem}{_get_last_message(log.read_text(errors='replace'))}",
            subject=name,
            remedy=f"read {log}",
            reason="SERVICE_DID_NOT_START",
        )

    def _get_log(self, name: str) -> Path:
        return self._directory.logs / f"{name}.log"

    def _schedule_restart(self, process: _SupervisedProcess, code: int, now: float) -> None:
        process.popen, process.serving, process.restart_at = None, False, None
        if code == BAD_DATA and process is not self._s3:
            message = _get_last_message(self._get_log(process.name).read_text(errors="replace"))
            self._notify(f"{process.name} ended with exit code {code} and stays down{message}")
            self._write()
            return
        ending = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if now - process.started > STABLE_AFTER_S:
            process.pause_s = FIRST_RESTART_PAUSE_S
        self._notify(f"{process.name} {ending}; restarting it in {process.pause_s:g} s")
        process.restart_at = now + process.pause_s
        process.pause_s = min(2 * process.pause_s, MAX_RESTART_PAUSE_S)
        process.restarts += 1
        self._write()

    def _restart(self, process: _SupervisedProcess) -> None:
        process.restart_at = None
        if process is not self._s3:
            self._spawn(process)
            return
        try:
            self._start_store()
        except Unavailable as error:
            self._notify(f"s3 did not start: {error}; retrying in {process.pause_s:g} s")
            process.popen, process.restart_at = None, time.monotonic() + process.pause_s
            process.pause_s = min(2 * process.pause_s, MAX_RESTART_PAUSE_S)

    def _write(self) -> None:
        self._directory.write(self.get_state())


@contextlib.contextmanager
def running_stack(
    directory: StateDirectory,
    notify: Notify,
    settings: Mapping[str, str] = NO_SETTINGS,
    services: Collection[str] = SERVICES,
) -> Iterator[StackState]:
    """Runs a stack during a block. The stack locks the folder. A thread supervises the stack.

    The stack is always stopped at the end. The stack has no other callers, so it may use any ports.
    """
    with directory.single_instance_lock():
        stack = Stack(directory, notify, settings, services, PortChoice(any=True))
        supervisor = threading.Thread(target=stack.supervise, name="supervisor", daemon=True)
        try:
            state = stack.start()
            supervisor.start()
            yield state
        finally:
            stack.request_stop()
            if supervisor.is_alive():
                supervisor.join()
            stack.stop()


def bring_down(directory: StateDirectory, state: StackState) -> list[str]:
    """Stops the processes of a stack and writes the new state. Another process may have started these processes.

    Returns:
        Names of the processes that had to be killed.
    """
    names = {service.process: name for name, service in state.services.items() if service.process is not None}
    finetuning = [process for process, name in names.items() if name == "finetuning"]
    others = [process for process, name in names.items() if name != "finetuning"]
    killed = processes.stop(finetuning, STOP_GRACE_S)
    # The database of a service that still runs is there too.
    jobs = [one for one in processes.find_processes_with_open_files(directory.service_state) if one not in names]
    killed += processes.stop(jobs, STOP_GRACE_S)
    killed += processes.stop(others, STOP_GRACE_S)
    if state.store is not None and state.store.process is not None and state.store.process.alive():
        s3_server.stop(state.store.process.pid)
        processes.wait_for_exit([state.store.process], STOP_GRACE_S)
    stopped = {
        name: service.model_copy(update={"process": None, "serving": False}) for name, service in state.services.items()
    }
    store = None if state.store is None else state.store.model_copy(update={"process": None})
    directory.write(StackState(supervisor=None, store=store, services=stopped))
    return [names.get(process, "a job") for process in killed]


def _get_last_message(log: str) -> str:
    """Returns the last line of a log in parentheses; empty if that line is a JSON record."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if not lines or lines[-1].startswith("{"):
        return ""
    return f" ({lines[-1][:300]})"
