"""Which deployment a command talks to, and the channels and the store that reach it.

Knows the local stack's state and the environment's addresses. Knows nothing of what is asked of a service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import grpc
from pydantic import Field

from vfmalign.cli.local.state_directory import Home, State
from vfmalign.core.domain.errors import BadOption, Unavailable
from vfmalign.core.rpc.channels import connect
from vfmalign.core.runtime.settings import PeerSettings, StoreSettings, load
from vfmalign.core.storage.object_store import ObjectStore

_T = TypeVar("_T")


class ClientSettings(PeerSettings):
    """Addresses of a deployment elsewhere; with them the commands use it instead of the local stack."""

    features_address: str = Field(default="", description="host:port of the feature service")
    mmd_address: str = Field(default="", description="host:port of the MMD service")
    finetuning_address: str = Field(default="", description="host:port of the finetuning service")


@dataclass(frozen=True)
class Target:
    """One deployment.

    Attributes:
        addresses: `host:port` by service.
        local: the local stack's state; None for a deployment elsewhere.
        ca_file: the authorities that sign the services' certificates; None where calls are not encrypted.
    """

    addresses: dict[str, str]
    local: State | None
    ca_file: Path | None = None

    @classmethod
    def named(cls) -> Target | None:
        """The deployment that the environment names; None where it names none.

        Raises:
            BadOption: the environment names some of the services alone.
        """
        settings = load(ClientSettings)
        addresses = {
            "features": settings.features_address,
            "mmd": settings.mmd_address,
            "finetuning": settings.finetuning_address,
        }
        if not any(addresses.values()):
            return None
        missing = next((name for name, address in addresses.items() if not address), None)
        if missing is not None:
            raise BadOption("is not set, but other addresses are", field=f"VFMALIGN_{missing.upper()}_ADDRESS")
        return cls(addresses, None, settings.ca_file)

    @classmethod
    def find(cls, home: Home) -> Target:
        """The deployment that the environment names, else the stack of the state folder.

        Raises:
            BadOption: the environment names some of the services alone.
            Unavailable: neither is there.
        """
        if (elsewhere := cls.named()) is not None:
            return elsewhere
        state = home.read()
        if not state.running or state.store is None:
            raise Unavailable(
                "no stack runs in this state folder",
                subject="vfmalign",
                remedy="start one with `vfmalign up --detach`, or set VFMALIGN_FEATURES_ADDRESS, VFMALIGN_MMD_ADDRESS "
                "and VFMALIGN_FINETUNING_ADDRESS",
                reason="STACK_DOWN",
            )
        return cls.of(state)

    @classmethod
    def of(cls, state: State) -> Target:
        """The local stack of this state."""
        return cls({name: service.ports.address for name, service in state.services.items()}, state)

    @cached_property
    def store(self) -> ObjectStore:
        """The deployment's object storage."""
        if self.local is not None and self.local.store is not None:
            return ObjectStore(self.local.store.settings())
        return ObjectStore(load(StoreSettings))

    def call(self, service: str, work: Callable[[grpc.aio.Channel], Awaitable[_T]]) -> _T:
        """Runs asynchronous work on a channel to one service; failed calls raise the errors of the tree."""

        async def run() -> _T:
            async with connect(self.addresses[service], ca_file=self.ca_file) as channel:
                return await work(channel)

        return asyncio.run(run())
