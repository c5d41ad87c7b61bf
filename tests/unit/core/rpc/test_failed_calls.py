"""What a failed call leaves behind in the server."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health

from vfmalign.core.domain.errors import Exhausted
from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.server import serve_api
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings, StoreSettings
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc


class Failing(mmd_pb2_grpc.MmdServiceServicer):
    """Fails, with an error that has a cause, or with one that nobody expects."""

    async def Compute(self, request: mmd_pb2.ComputeRequest, context: Any) -> mmd_pb2.ComputeResponse:
        if request.primary_layer == "bug":
            raise ZeroDivisionError
        try:
            raise TimeoutError
        except TimeoutError:
            raise Exhausted("no place", reason="QUEUE_FULL") from None

    async def ComputeBatch(
        self, request: mmd_pb2.ComputeBatchRequest, context: Any
    ) -> AsyncIterator[mmd_pb2.ComputeBatchResponse]:
        yield mmd_pb2.ComputeBatchResponse()
        raise Exhausted("no place", reason="QUEUE_FULL")


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    def add(server: grpc.aio.Server) -> list[Any]:
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(Failing(), server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    store = StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b")
    settings = ServiceSettings(store=store, server=ServerSettings(grpc_port=0))
    async with AsyncExitStack() as resources:
        _, _, port = await serve_api(settings, add, Gate("open"), health.aio.HealthServicer(), resources)
        yield await resources.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))


def count_of(*classes: type) -> int:
    return sum(type(one) in classes for one in gc.get_objects())


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Compute", mmd_pb2.ComputeRequest()),
        ("Compute", mmd_pb2.ComputeRequest(primary_layer="bug")),
        ("ComputeBatch", mmd_pb2.ComputeBatchRequest(requests=[mmd_pb2.ComputeRequest()])),
    ],
)
async def test_neither_its_request_nor_its_error_waits_for_the_garbage_collector(
    channel: grpc.aio.Channel, method: str, request_: Any
) -> None:
    """The collector runs rarely in a process with many objects, and refused requests would fill the memory by then."""
    kinds = (mmd_pb2.ComputeRequest, mmd_pb2.ComputeBatchRequest, Exhausted, TimeoutError, ZeroDivisionError)
    path, data = f"/vfmalign.v1.MmdService/{method}", request_.SerializeToString()
    gc.collect()
    gc.disable()
    try:
        before = count_of(*kinds)
        for _ in range(3):
            if method == "Compute":
                with pytest.raises(grpc.aio.AioRpcError):
                    await channel.unary_unary(path)(data)
            else:
                with pytest.raises(grpc.aio.AioRpcError):
                    async for _answer in channel.unary_stream(path)(data):
                        pass
        async with asyncio.timeout(5):
            while count_of(*kinds) > before:  # noqa: ASYNC110 - the server ends a call after its status
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
