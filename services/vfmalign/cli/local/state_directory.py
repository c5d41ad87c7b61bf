"""The state folder of a local stack: its state file, logs, data and lock.

ports.json      ports of the services at every start; may be edited while the stack is stopped
state.json      processes, ports and credentials of the stack (mode 0600)
s3/             data of the S3 server
state/          the databases of finetuning and monitoring, and the jobs' locks
logs/           one file per process; state/logs/ has one per job
tokens/         tokens of the owner and of each service, and the key that signs results (mode 0700); delete the folder
                to get new ones
private/        the table of patients and ids of imported datasets, and data of unfinished imports from a PACS (mode
                0700); this folder leaves the machine only in a backup
"""

from __future__ import annotations

import contextlib
import fcntl
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from vfmalign.cli.local.processes import ProcessRef
from vfmalign.cli.private_files import write_private
from vfmalign.core.domain.errors import BadOption, Conflict
from vfmalign.core.domain.record import Record
from vfmalign.core.runtime.settings import StoreSettings

DEFAULT_HOME = Path(".vfmalign")
REGION = "us-east-1"


Port = Annotated[int, Field(ge=1, le=65535)]


class ServicePorts(Record):
    """Ports of one service on the loopback interface."""

    grpc: Port
    metrics: Port
    health: Port

    @property
    def address(self) -> str:
        """`host:port` of the API."""
        return f"127.0.0.1:{self.grpc}"


class ServiceState(Record):
    """State of one service.

    Attributes:
        ports: ports of the service. The ports stay the same across restarts, so that clients find the service again.
        process: the running process; None while the service is down.
        serving: whether the service has reported that it serves.
        restarts: number of restarts of the service since the start of the stack.
    """

    ports: ServicePorts
    process: ProcessRef | None = None
    serving: bool = False
    restarts: int = 0


class StoreState(Record):
    """State of the S3 server.

    Attributes:
        access_key, secret_key: S3 keys of the stack's owner.
        service_keys: maps each service to its access key and secret key.
    """

    endpoint: str
    access_key: str
    secret_key: str
    service_keys: dict[str, tuple[str, str]] = Field(default_factory=dict)
    bucket: str
    process: ProcessRef | None = None
    restarts: int = 0

    def to_settings(self) -> StoreSettings:
        """Returns the settings with which a process reaches the server.

        Environment variables do not override these settings.
        """
        return StoreSettings.model_validate(
            {
                "bucket": self.bucket,
                "endpoint": self.endpoint,
                "access_key": self.access_key,
                "secret_key": self.secret_key,
                "region": REGION,
            }
        )

    def to_environment(self, service: str = "") -> dict[str, str]:
        """Returns the environment variables with which a process reaches the server.

        Args:
            service: service that owns the keys; empty for the keys of the owner.
        """
        access_key, secret_key = self.service_keys[service] if service else (self.access_key, self.secret_key)
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_REGION": REGION,
            "VFMALIGN_BUCKET": self.bucket,
        }


class StackState(Record):
    """Content of `state.json`: the state of a running stack, or the last state of a stopped stack.

    Attributes:
        token_file: file of the owner's token, which commands send to the services.
    """

    supervisor: ProcessRef | None = None
    token_file: Path | None = None
    store: StoreState | None = None
    services: dict[str, ServiceState] = Field(default_factory=dict)

    @property
    def running(self) -> bool:
        """Whether the supervisor is alive."""
        return self.supervisor is not None and self.supervisor.alive()

    @property
    def killed(self) -> bool:
        """Whether the supervisor has ended without stopping the stack, for example because it was killed."""
        return self.supervisor is not None and not self.supervisor.alive()

    def describe_absence(self) -> str:
        """Returns the reason why no stack runs in the state folder."""
        if not self.killed or self.supervisor is None:
            return "no stack runs in this state folder"
        return (
            f"the stack of this state folder was killed (supervisor {self.supervisor.pid}), and its processes end too"
        )

    @property
    def ready(self) -> bool:
        """Whether every service serves."""
        return self.running and bool(self.services) and all(service.serving for service in self.services.values())

    def list_processes(self) -> list[ProcessRef]:
        """Returns the live processes of the stack. The S3 server comes last."""
        processes = [service.process for service in self.services.values()]
        processes.append(None if self.store is None else self.store.process)
        return [process for process in processes if process is not None and process.alive()]


_PORTS = TypeAdapter(dict[str, ServicePorts])


class StateDirectory:
    """The folder of one stack."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.logs = self.path / "logs"
        self.s3 = self.path / "s3"
        self.service_state = self.path / "state"
        self.job_logs = self.service_state / "logs"
        self.private = self.path / "private"
        self.tokens = self.path / "tokens"
        self._state_file = self.path / "state.json"
        self._ports_file = self.path / "ports.json"

    def get_command(self, arguments: str) -> str:
        """Returns a command for users to copy. The command names this folder, unless this is the default folder."""
        home = "" if self.path == DEFAULT_HOME.absolute() else f" --home {shlex.quote(str(self.path))}"
        return f"`vfmalign {arguments}{home}`"

    def create(self) -> None:
        """Creates the folder so that only its owner can read it.

        Raises:
            BadOption: it cannot be created.
        """
        try:
            for folder in (self.path, self.logs, self.s3, self.service_state, self.private, self.tokens):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadOption(
                f"the state folder cannot be created ({error.strerror})", field="--home", remedy="choose another folder"
            ) from None

    def read(self) -> StackState:
        """Returns the state that was written last, or an empty state if none was written.

        Raises:
            BadOption: the path is not a folder, or the file does not contain a valid state.
        """
        try:
            return StackState.model_validate_json(self._state_file.read_bytes())
        except FileNotFoundError:
            return StackState()
        except NotADirectoryError:
            raise BadOption("is not a folder", field="--home", remedy="name the state folder of the stack") from None
        except (OSError, ValidationError):
            raise BadOption(
                "state.json in the state folder cannot be read",
                field="--home",
                remedy="stop the processes that the stack left running, then delete state.json",
            ) from None

    def write(self, state: StackState) -> None:
        """Replaces the state atomically. Only the owner can read the file."""
        write_private(self._state_file, state.to_json())

    def read_ports(self) -> dict[str, ServicePorts]:
        """Returns the ports that each service keeps. The result is empty before the first start.

        Raises:
            BadOption: the file does not contain valid ports.
        """
        try:
            return _PORTS.validate_json(self._ports_file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError):
            raise BadOption(
                "ports.json in the state folder does not contain valid ports",
                field="--home",
                remedy='delete it, or write {"mmd": {"grpc": 8001, "metrics": 8002, "health": 8003}} for each service',
            ) from None

    def write_ports(self, ports: Mapping[str, ServicePorts]) -> None:
        """Stores the ports of some services for later starts. The ports of other services stay the same."""
        write_private(self._ports_file, _PORTS.dump_json(self.read_ports() | dict(ports), indent=2))

    @contextlib.contextmanager
    def single_instance_lock(self) -> Iterator[None]:
        """Locks the folder for one supervisor.

        Raises:
            Conflict: another supervisor holds it.
        """
        self.create()
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    "a stack already runs in this state folder",
                    subject="--home",
                    remedy=f"see {self.get_command('status')}, or stop it with {self.get_command('down')}",
                ) from None
            yield
