"""Registers one servicer that forwards calls to a servicer per tenant. No servicer can access another tenant's data."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message

from vfmalign.core.rpc.access.identity import current_tenant

Servicer = TypeVar("Servicer")
_Context = grpc.aio.ServicerContext[Message, Message]


def by_tenant(servicers: Mapping[str, Servicer]) -> Servicer:
    """Returns a servicer that forwards each call to the servicer of the call's tenant.

    Args:
        servicers: maps each tenant to its servicer. All servicers have the same class.
    """
    return cast(Servicer, _ByTenant(servicers))


class _ByTenant:
    def __init__(self, servicers: Mapping[str, object]) -> None:
        self._servicers = servicers

    def __getattr__(self, name: str) -> Callable[[Message, _Context], Awaitable[Message] | AsyncIterator[Message]]:
        """Returns the method of this name, as the generated code that registers a servicer asks for it."""

        async def call(request: Message, context: _Context) -> Message:
            response: Message = await getattr(self._servicers[current_tenant.get()], name)(request, context)
            return response

        async def stream(request: Message, context: _Context) -> AsyncIterator[Message]:
            method = getattr(self._servicers[current_tenant.get()], name)
            async with aclosing(method(request, context)) as responses:
                async for response in responses:
                    yield response

        first = next(iter(self._servicers.values()))
        return stream if inspect.isasyncgenfunction(getattr(first, name)) else call
