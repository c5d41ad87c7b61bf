"""The folder that a local stack lives in: its state file, its logs, its data, its lock.

    state.json      processes, ports and credentials of the stack (mode 0600)
    s3/             the S3 server's data
    state/          the finetuning service's database and job locks
    logs/           one file per process; state/logs/ has one per job
    private/        who is who in imported datasets (mode 0700); never leaves this machine

Knows files. Knows nothing of processes' lives or of gRPC.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, ValidationError

from vfmalign.cli.local.processes import ProcessRef
from vfmalign.core.domain.artifacts import Record
from vfmalign.core.domain.errors import BadOption, Conflict
from vfmalign.core.runtime.settings import StoreSettings

DEFAULT_HOME = Path(".vfmalign")
REGION = "us-east-1"


class Ports(Record):
    """Ports of one service on the loopback."""

    grpc: int
    metrics: int
    health: int

    @property
    def address(self) -> str:
        """Where its API listens."""
        return f"127.0.0.1:{self.grpc}"


class ServiceState(Record):
    """One service.

    Attributes:
        ports: kept for the stack's whole life and over restarts, so that clients find it again.
        process: the running process; None while it is down.
        serving: whether it has said that it serves.
        restarts: times it died by itself and was started again since the stack came up.
    """

    ports: Ports
    process: ProcessRef | None = None
    serving: bool = False
    restarts: int = 0


class StoreState(Record):
    """The S3 server."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    process: ProcessRef | None = None
    restarts: int = 0

    def settings(self) -> StoreSettings:
        """How to reach it; no environment variable changes that."""
        return StoreSettings.model_validate(
            {
                "bucket": self.bucket,
                "endpoint": self.endpoint,
                "access_key": self.access_key,
                "secret_key": self.secret_key,
                "region": REGION,
            }
        )


class State(Record):
    """`state.json`: a stack that runs, or what is kept of one that ran."""

    supervisor: ProcessRef | None = None
    store: StoreState | None = None
    services: dict[str, ServiceState] = Field(default_factory=dict)

    @property
    def running(self) -> bool:
        """Whether its supervisor lives."""
        return self.supervisor is not None and self.supervisor.alive()

    @property
    def ready(self) -> bool:
        """Whether everything serves."""
        return self.running and bool(self.services) and all(service.serving for service in self.services.values())

    def processes(self) -> list[ProcessRef]:
        """Every process that the stack started and that is alive, the S3 server last."""
        found = [service.process for service in self.services.values()]
        found.append(None if self.store is None else self.store.process)
        return [process for process in found if process is not None and process.alive()]


class Home:
    """One stack's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.logs = self.path / "logs"
        self.s3 = self.path / "s3"
        self.service_state = self.path / "state"
        self.job_logs = self.service_state / "logs"
        self.private = self.path / "private"
        self._state = self.path / "state.json"

    def make(self) -> None:
        """Makes the folder, readable by its owner alone.

        Raises:
            BadOption: it cannot be made.
        """
        try:
            for folder in (self.path, self.logs, self.s3, self.service_state, self.private):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadOption(
                f"the state folder cannot be made ({error.strerror})", field="--home", remedy="name another folder"
            ) from None

    def read(self) -> State:
        """The state as it was last written; an empty one where there is none.

        Raises:
            BadOption: the file is not such a state.
        """
        try:
            return State.model_validate_json(self._state.read_bytes())
        except FileNotFoundError:
            return State()
        except (OSError, ValidationError):
            raise BadOption(
                "state.json in the state folder cannot be read",
                field="--home",
                remedy="stop what still runs there, then delete the folder's state.json",
            ) from None

    def write(self, state: State) -> None:
        """Replaces the state, whole or not at all, readable by its owner alone."""
        partial = self._state.with_name(f".state-{os.getpid()}.json")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(state.to_json())
        partial.replace(self._state)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for one supervisor.

        Raises:
            Conflict: another one holds it.
        """
        self.make()
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    "a stack runs in this state folder already",
                    subject="--home",
                    remedy="see `vfmalign status`, or end it with `vfmalign down`",
                ) from None
            yield
