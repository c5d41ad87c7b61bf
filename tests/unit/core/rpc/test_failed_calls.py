"""What a failed call leaves behind in the server."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health

from vfmalign.core.domain.errors import Exhausted
from vfmalign.core.rpc import call_endings
from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.server import serve_api
from vfmalign.core.runtime import fair_gate
from vfmalign.core.runtime.fair_gate import FairGate, QueueFull
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings, StoreSettings
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc


def run_server(servicer: mmd_pb2_grpc.MmdServiceServicer) -> AbstractAsyncContextManager[grpc.aio.Channel]:
    """Serves a servicer; yields a channel to it."""

    def add(server: grpc.aio.Server) -> list[Any]:
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(servicer, server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    @asynccontextmanager
    async def run() -> AsyncIterator[grpc.aio.Channel]:
        store = StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b")
        settings = ServiceSettings(store=store, server=ServerSettings(grpc_port=0))
        async with AsyncExitStack() as resources:
            _, _, port = await serve_api(settings, add, Gate("open"), health.aio.HealthServicer(), resources)
            yield await resources.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))

    return run()


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


class Full(mmd_pb2_grpc.MmdServiceServicer):
    """Has one place, which a call keeps until it is freed."""

    def __init__(self) -> None:
        self.gate, self.entered, self.free = FairGate(1, 1, "unread"), asyncio.Event(), asyncio.Event()

    async def Compute(self, request: mmd_pb2.ComputeRequest, context: Any) -> mmd_pb2.ComputeResponse:
        async with self.gate.enter():
            self.entered.set()
            await self.free.wait()
        return mmd_pb2.ComputeResponse()


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
async def test_neither_its_request_nor_its_error_waits_for_the_garbage_collector(method: str, request_: Any) -> None:
    """The collector runs rarely in a process with many objects, and refused requests would fill the memory by then."""
    kinds = (mmd_pb2.ComputeRequest, mmd_pb2.ComputeBatchRequest, Exhausted, TimeoutError, ZeroDivisionError)
    path, data = f"/vfmalign.v1.MmdService/{method}", request_.SerializeToString()
    gc.collect()
    gc.disable()
    try:
        async with run_server(Failing()) as channel:
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


async def test_a_refused_caller_who_repeats_its_call_too_early_is_refused_before_the_message_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message that cannot be parsed shows whether it was read."""
    monkeypatch.setattr(call_endings, "_REFUSAL_S", 0.0)
    monkeypatch.setattr(fair_gate, "SHORTEST_RETRY_S", 60.0)
    monkeypatch.setattr(fair_gate, "_READ_PAUSE_S", 60.0)
    servicer = Full()
    async with run_server(servicer) as channel:
        send: Any = channel.unary_unary("/vfmalign.v1.MmdService/Compute")

        async def fail(data: bytes) -> grpc.StatusCode:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await send(data)
            return caught.value.code()

        first = send(b"")
        await servicer.entered.wait()
        assert await fail(b"\xff") is grpc.StatusCode.INVALID_ARGUMENT, "nobody was refused yet"
        assert await fail(b"") is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await fail(b"\xff") is grpc.StatusCode.INVALID_ARGUMENT, "it may be for another queue"
        assert await fail(b"\xff") is grpc.StatusCode.RESOURCE_EXHAUSTED
        servicer.free.set()
        await first
        assert await fail(b"\xff") is grpc.StatusCode.INVALID_ARGUMENT, "there is a place again"


@pytest.mark.parametrize(
    ("delay_s", "is_early", "left_s", "shortest_s", "longest_s"),
    [
        (4.0, False, None, 1.0, 1.0),
        (4.0, True, None, 2.0, 6.0),
        (0.1, True, None, 1.0, 1.0),
        (60.0, True, None, 10.0, 10.0),
        (60.0, True, 3.0, 2.9, 2.9),
        (60.0, True, 0.0, 0.0, 0.0),
    ],
)
def test_a_call_that_came_too_early_is_held_for_about_its_delay(
    delay_s: float, is_early: bool, left_s: float | None, shortest_s: float, longest_s: float
) -> None:
    context: Any = SimpleNamespace(time_remaining=lambda: left_s)
    full: Any = None
    error = QueueFull(full, 3, delay_s, subject="queue", is_early=is_early)
    held_s = [call_endings.get_refusal_s(error, context) for _ in range(50)]
    assert shortest_s <= min(held_s) <= max(held_s) <= longest_s
    assert (len(set(held_s)) > 1) == (shortest_s < longest_s), "calls that were refused together come apart"
