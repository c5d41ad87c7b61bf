"""The local stack: the S3 server and the three services, started, tended and stopped by one supervisor.

Knows processes, ports and the order of starting and stopping. Knows nothing of what the services do. A service that
dies is started again on the same ports, with a growing pause, and the supervisor says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from vfmalign.cli.local import processes, s3_server
from vfmalign.cli.local.environment import NOTHING, ports_file, service_environment
from vfmalign.cli.local.processes import ProcessRef
from vfmalign.cli.local.state_directory import Home, Ports, ServiceState, State, StoreState
from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.runtime.settings import EXIT_BAD_SETTINGS
from vfmalign.core.storage.object_store import ObjectStore

SERVICES = ("features", "mmd", "finetuning")
BUCKET = "vfmalign"
START_TIMEOUT_S = 180.0
STOP_GRACE_S = 45.0
TEND_PERIOD_S = 0.3
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
SETTLED_S = 60.0
"""A process that lived this long has got over what killed the one before it."""
_POLL_S = 0.1
_PORT_TRIES = 3

Say = Callable[[str], None]


@dataclass
class _Process:
    """One process that is kept alive: how often it died, and when it may be started again."""

    name: str
    popen: subprocess.Popen[bytes] | None = None
    serving: bool = False
    started: float = 0.0
    restarts: int = 0
    pause_s: float = FIRST_PAUSE_S
    due: float | None = None

    def ref(self) -> ProcessRef | None:
        return None if self.popen is None else ProcessRef.of(self.popen.pid)


class Stack:
    """One stack in one folder, which the caller holds locked.

    Args:
        home: the folder.
        say: hears one sentence for everything that happens.
        settings: variables of the services that take the place of this machine's defaults.
    """

    def __init__(self, home: Home, say: Say, settings: Mapping[str, str] = NOTHING) -> None:
        self._home = home
        self._say = say
        self._settings = settings
        self._s3 = _Process("s3")
        self._store: StoreState | None = None
        self._ports: dict[str, Ports] = {}
        self._services = {name: _Process(name) for name in SERVICES}
        self._stopping = threading.Event()

    def start(self) -> State:
        """Starts everything, the services at the same time, and waits until all serve.

        Raises:
            Unavailable: a process ended, or did not serve in time; what was started is stopped again.
        """
        earlier = self._home.read()
        if earlier.processes():
            self._say("stopping what an earlier stack left behind")
            bring_down(self._home, earlier)
        try:
            self._start_store()
            self._start_services(_choose_ports(earlier.services))
        except BaseException:
            self.stop()
            raise
        return self.state()

    def tend(self) -> None:
        """Looks once at every process: starts again what died, notes what serves."""
        now = time.monotonic()
        for process in (self._s3, *self._services.values()):
            if process.popen is not None and (code := process.popen.poll()) is not None:
                self._note_death(process, code, now)
            elif process.due is not None and now >= process.due:
                self._revive(process)
            elif process.popen is not None and not process.serving and self._serves(process):
                process.serving = True
                self._say(f"{process.name} serves again")
                self._write()

    def keep(self) -> None:
        """Tends until `stop` or `end` is called."""
        while not self._stopping.wait(TEND_PERIOD_S):
            self.tend()

    def end(self) -> None:
        """Makes `keep` return; safe in a signal handler."""
        self._stopping.set()

    def stop(self) -> None:
        """Stops everything: the orchestrator with its jobs first, the S3 server last."""
        self._stopping.set()
        bring_down(self._home, self.state())
        for process in (self._s3, *self._services.values()):
            if process.popen is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.popen.wait(STOP_GRACE_S)
                process.popen, process.serving = None, False

    def state(self) -> State:
        """The stack as it stands."""
        store = self._store
        if store is not None:
            store = store.model_copy(update={"process": self._s3.ref(), "restarts": self._s3.restarts})
        services = {
            name: ServiceState(
                ports=self._ports[name], process=process.ref(), serving=process.serving, restarts=process.restarts
            )
            for name, process in self._services.items()
            if name in self._ports
        }
        return State(supervisor=ProcessRef.of(os.getpid()), store=store, services=services)

    # --- below ---

    def _start_store(self) -> None:
        before = time.monotonic()
        self._s3.popen, server = s3_server.start(self._home.s3)
        self._s3.started = time.monotonic()
        self._store = StoreState(
            endpoint=server.endpoint, access_key=server.access_key, secret_key=server.secret_key, bucket=BUCKET
        )
        ObjectStore(self._store.settings()).ensure_bucket()
        self._s3.serving = True
        self._say(f"s3 serves at {server.endpoint} ({time.monotonic() - before:.1f} s)")
        self._write()

    def _start_services(self, ports: dict[str, Ports]) -> None:
        """Starts all services; on other ports where somebody took one between its choice and its use."""
        for tries_left in reversed(range(_PORT_TRIES)):
            self._ports = ports
            for service in self._services.values():
                self._spawn(service)
            try:
                self._await_serving()
            except Unavailable:
                if not tries_left or not self._lost_a_port():
                    raise
                self._say("a port was taken meanwhile; starting the services on others")
                refs = [service.ref() for service in self._services.values()]
                processes.stop([ref for ref in refs if ref is not None], STOP_GRACE_S)
                ports = _choose_ports({})
            else:
                return

    def _lost_a_port(self) -> bool:
        """Whether a service ended over its settings while somebody else has one of its ports."""
        return any(
            service.popen is not None
            and service.popen.poll() == EXIT_BAD_SETTINGS
            and not all(s3_server.port_is_free(port) for port in self._ports[name].model_dump().values())
            for name, service in self._services.items()
        )

    def _spawn(self, service: _Process) -> None:
        assert self._store is not None  # noqa: S101 - the store is started first
        ports_file(self._home, service.name).unlink(missing_ok=True)
        with (self._home.logs / f"{service.name}.log").open("ab") as log:
            service.popen = subprocess.Popen(
                [sys.executable, "-m", f"vfmalign.{service.name}"],
                env=service_environment(self._home, self._store, self._ports, service.name, self._settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        service.started, service.serving = time.monotonic(), False
        self._write()

    def _await_serving(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while waiting := [process for process in self._services.values() if not process.serving]:
            for process in waiting:
                if process.popen is None or process.popen.poll() is not None:
                    raise self._did_not_come_up(process.name, "ended before it served")
                if self._serves(process):
                    process.serving = True
                    seconds = time.monotonic() - process.started
                    self._say(f"{process.name} serves at {self._ports[process.name].address} ({seconds:.1f} s)")
                    self._write()
            if time.monotonic() > deadline:
                raise self._did_not_come_up(waiting[0].name, f"does not serve after {START_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)

    def _serves(self, process: _Process) -> bool:
        if process is self._s3 or process.popen is None:
            return process is self._s3
        try:
            content = json.loads(ports_file(self._home, process.name).read_text())
        except FileNotFoundError:
            return False
        return bool(content["pid"] == process.popen.pid)

    def _did_not_come_up(self, name: str, what: str) -> Unavailable:
        log = self._home.logs / f"{name}.log"
        return Unavailable(
            f"the service {what}{_last_words(log.read_text(errors='replace'))}",
            subject=name,
            remedy=f"read {log}",
            reason="SERVICE_DID_NOT_START",
        )

    def _note_death(self, process: _Process, code: int, now: float) -> None:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if now - process.started > SETTLED_S:
            process.pause_s = FIRST_PAUSE_S
        self._say(f"{process.name} {how}; starting it again in {process.pause_s:g} s")
        process.popen, process.serving, process.due = None, False, now + process.pause_s
        process.pause_s = min(2 * process.pause_s, LONGEST_PAUSE_S)
        process.restarts += 1
        self._write()

    def _revive(self, process: _Process) -> None:
        process.due = None
        if process is not self._s3:
            self._spawn(process)
            return
        try:
            self._start_store()
        except Unavailable as error:
            self._say(f"s3 did not start: {error}; trying again in {process.pause_s:g} s")
            process.popen, process.due = None, time.monotonic() + process.pause_s
            process.pause_s = min(2 * process.pause_s, LONGEST_PAUSE_S)

    def _write(self) -> None:
        self._home.write(self.state())


@contextlib.contextmanager
def running(home: Home, say: Say, settings: Mapping[str, str] = NOTHING) -> Iterator[State]:
    """A stack for the time of a block, tended by a thread; it holds the folder's lock and stops whatever happens."""
    with home.locked():
        stack = Stack(home, say, settings)
        keeper = threading.Thread(target=stack.keep, name="keeper", daemon=True)
        try:
            state = stack.start()
            keeper.start()
            yield state
        finally:
            stack.end()
            if keeper.is_alive():
                keeper.join()
            stack.stop()


def bring_down(home: Home, state: State) -> list[str]:
    """Stops the processes of a stack, whoever started them, and writes down that it is down.

    Returns:
        Names of those that had to be killed.
    """
    names = {service.process: name for name, service in state.services.items() if service.process is not None}
    finetuning = [process for process, name in names.items() if name == "finetuning"]
    others = [process for process, name in names.items() if name != "finetuning"]
    killed = processes.stop(finetuning, STOP_GRACE_S)
    killed += processes.stop(list(processes.holders(home.service_state)), STOP_GRACE_S)
    killed += processes.stop(others, STOP_GRACE_S)
    if state.store is not None and state.store.process is not None and state.store.process.alive():
        s3_server.stop(state.store.process.pid)
        processes.wait_gone([state.store.process], STOP_GRACE_S)
    down = {
        name: service.model_copy(update={"process": None, "serving": False}) for name, service in state.services.items()
    }
    store = None if state.store is None else state.store.model_copy(update={"process": None})
    home.write(State(supervisor=None, store=store, services=down))
    return [names.get(process, "a job") for process in killed]


def _choose_ports(earlier: Mapping[str, ServiceState]) -> dict[str, Ports]:
    """The ports of the earlier stack where they are free still, else others.

    They lie below the range that outgoing connections take theirs from: after a restart nobody else has them.
    """
    kept = {name: earlier[name].ports for name in SERVICES if name in earlier}
    if len(kept) == len(SERVICES) and all(
        s3_server.port_is_free(port) for ports in kept.values() for port in ports.model_dump().values()
    ):
        return kept
    fresh = iter(s3_server.free_ports(3 * len(SERVICES)))
    return {name: Ports(grpc=next(fresh), metrics=next(fresh), health=next(fresh)) for name in SERVICES}


def _last_words(log: str) -> str:
    """The last line of a log where it is a sentence and not a record or a trace."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if not lines or lines[-1].startswith("{"):
        return ""
    return f" ({lines[-1][:300]})"
