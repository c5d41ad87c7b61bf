"""The deployment that a command uses: its addresses, its client and its object store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from vfmalign.cli.local import registry
from vfmalign.cli.local.state_directory import StackState, StateDirectory
from vfmalign.cli.login.credential import LOGIN_REMEDY, Credential
from vfmalign.cli.views.output import Output
from vfmalign.client import AsyncClient
from vfmalign.client.settings import load_client_settings
from vfmalign.core.domain.errors import BadOption, PreconditionFailed, Unauthenticated, Unavailable
from vfmalign.core.rpc.channels import CALL_TIMEOUT_S
from vfmalign.core.rpc.tls import TlsFiles
from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT
from vfmalign.core.runtime.interrupts import wake_for_signals
from vfmalign.core.runtime.settings import StoreSettings, parse

if TYPE_CHECKING:
    from vfmalign.core.storage.store.object_store import ObjectStore

_T = TypeVar("_T")


def _note_unused_token() -> None:
    """Notes that a token from the environment is not sent, because the command calls a local stack."""
    for name in ("VFMALIGN_TOKEN", "VFMALIGN_TOKEN_FILE"):
        if os.environ.get(name):
            Output.to_terminal().note(
                f"{name} is not sent: a local stack takes its owner's token. Unset it, or name a deployment with "
                "VFMALIGN_FEATURES_ADDRESS, VFMALIGN_MMD_ADDRESS, VFMALIGN_FINETUNING_ADDRESS and "
                "VFMALIGN_MONITORING_ADDRESS",
                "yellow",
            )


@dataclass(frozen=True)
class Target:
    """One deployment.

    Attributes:
        addresses: `host:port` by service.
        local: state of the local stack; None if the environment names the deployment.
        files: TLS files; None for unencrypted connections.
        credential: token that calls send; None for calls without a token.
        directory: the state folder of the local stack.
    """

    addresses: dict[str, str]
    local: StackState | None
    files: TlsFiles | None = None
    credential: Credential | None = None
    directory: StateDirectory | None = None

    @classmethod
    def from_environment(cls) -> Target | None:
        """Returns the deployment that the environment names, or None.

        The deployment may have only some services, such as MMD. Calls to a service without an address fail.

        Raises:
            PreconditionFailed: other users can read the file of this user's login.
        """
        settings = load_client_settings()
        named = {
            "features": settings.features_address,
            "mmd": settings.mmd_address,
            "finetuning": settings.finetuning_address,
            "monitoring": settings.monitoring_address,
        }
        addresses = {name: address for name, address in named.items() if address}
        if not addresses:
            return None
        return cls(addresses, None, settings.to_tls_files(), Credential.find(settings))

    @classmethod
    def from_state(cls, directory: StateDirectory, state: StackState) -> Target:
        """Returns the deployment for a local stack with this state folder and state."""
        credential = None
        if state.token_file is not None:
            restart = f"{directory.get_command('down')}, then {directory.get_command('up')}"
            credential = Credential.from_stack(state.token_file, f"start the stack again: {restart}")
        addresses = {name: service.ports.address for name, service in state.services.items()}
        return cls(addresses, state, credential=credential, directory=directory)

    @classmethod
    def find(cls, directory: StateDirectory) -> Target:
        """Returns the deployment that the environment names, else the local stack of the state folder.

        Raises:
            Unavailable: neither exists.
        """
        if (deployment := cls.from_environment()) is not None:
            return deployment
        state = directory.read()
        if not state.running or not state.services:
            others = "" if state.killed else registry.describe_running()
            raise Unavailable(
                state.describe_absence(),
                subject=str(directory.path),
                remedy=f"{others}{'; or ' if others else ''}start one with {directory.get_command('up --detach')}, or "
                "set VFMALIGN_FEATURES_ADDRESS, VFMALIGN_MMD_ADDRESS, VFMALIGN_FINETUNING_ADDRESS and "
                "VFMALIGN_MONITORING_ADDRESS",
                reason="STACK_DOWN",
            )
        _note_unused_token()
        return cls.from_state(directory, state)

    @cached_property
    def store(self) -> ObjectStore:
        """The tenant's part of the deployment's object storage (`VFMALIGN_TENANT`).

        Raises:
            BadOption: the settings that name the object storage are missing or wrong.
            PreconditionFailed: the local stack runs without object storage.
        """
        return self.open_store()

    def open_store(self, **limits: Any) -> ObjectStore:
        """Opens `store` with other values of `attempts` and `timeout_s` (see `ObjectStore`)."""
        # Few commands need it, and the S3 client takes a quarter of a second to import.
        from vfmalign.core.storage.store.object_store import ObjectStore

        tenant = load_client_settings().tenant or DEFAULT_TENANT
        if self.local is None:
            return ObjectStore(parse(StoreSettings), **limits).of_tenant(tenant)
        if self.local.store is None:
            raise PreconditionFailed(
                "the local stack has no object storage",
                subject="vfmalign",
                remedy=self._start_whole_stack(),
                reason="NO_OBJECT_STORAGE",
            )
        return ObjectStore(self.local.store.to_settings(), **limits).of_tenant(tenant)

    def note_other_stacks(self, output: Output) -> None:
        """Prints a note with the other running local stacks, in case the user meant one of them."""
        if self.directory is not None and (others := registry.describe_running(self.directory)):
            output.note(others, "yellow")

    @property
    def has_store(self) -> bool:
        """Whether commands can reach object storage: the local stack has it, or the environment names it."""
        if self.local is not None:
            return self.local.store is not None
        return bool(os.environ.get("AWS_ENDPOINT_URL_S3"))

    def get_command(self, arguments: str) -> str:
        """Returns a command for users to copy, which runs on this deployment."""
        return f"`vfmalign {arguments}`" if self.directory is None else self.directory.get_command(arguments)

    def _start_whole_stack(self) -> str:
        down, up = self.get_command("down"), self.get_command("up --detach")
        return f"the local stack runs only some services: run {down}, then {up}"

    @contextmanager
    def reach_store(self) -> Iterator[None]:
        """Settings that are parsed in the block refer to the object storage of the local stack."""
        before = os.environ.copy()
        if self.local is not None and self.local.store is not None:
            os.environ.update(self.local.store.to_environment())
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def run(self, work: Callable[[AsyncClient], Awaitable[_T]], call_timeout_s: float = CALL_TIMEOUT_S) -> _T:
        """Runs asynchronous work with a client. Failed calls raise errors from `core.domain.errors`."""

        async def run() -> _T:
            client = AsyncClient(
                features_address=self.addresses.get("features"),
                mmd_address=self.addresses.get("mmd"),
                finetuning_address=self.addresses.get("finetuning"),
                monitoring_address=self.addresses.get("monitoring"),
                **({} if self.files is None else asdict(self.files)),
                token=None if self.credential is None else self.credential.token,
                call_timeout_s=call_timeout_s,
            )
            with wake_for_signals():
                async with client:
                    return await work(client)

        try:
            return asyncio.run(run())
        except BadOption as error:
            if error.field.endswith("_address"):
                variable = f"VFMALIGN_{error.field.upper()}"
                error.remedy = f"set {variable}" if self.local is None else self._start_whole_stack()
            raise
        except Unauthenticated as error:
            error.remedy = LOGIN_REMEDY if self.credential is None else self.credential.remedy
            raise
