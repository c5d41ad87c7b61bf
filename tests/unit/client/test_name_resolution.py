"""Names whose addresses change: how long calls fail after a service is back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tests.name_server import NameServer
from tests.unit.client.conftest import Deployment, Mmd

from vfmalign.client import AsyncClient, ComputeOptions
from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.rpc.channels import connect
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc

PAUSE_S = 0.1
LOOK_UPS = 5
"""After as many failures, gRPC's own next look-up follows 5 to 8 s later."""
MAX_FAILURES = 20
"""Calls with a pause between them that fill the 2 s within which a client has to find a service that is back."""


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer().serve() as result:
        yield result


async def count_failures(call: Callable[[], Awaitable[object]], until: Callable[[], bool] = lambda: False) -> int:
    """Repeats a call until it succeeds, or until a condition holds; returns how often it failed."""
    failures = 0
    while not until():
        try:
            await call()
            break
        except Unavailable:
            failures += 1
            await asyncio.sleep(PAUSE_S)
    return failures


async def test_a_name_without_address_is_looked_up_again_soon(names: NameServer, deployment: Deployment) -> None:
    address = f"dns://{names.authority}/mmd.test:{deployment.port}"
    async with AsyncClient(mmd_address=address) as client:

        async def call() -> object:
            return await client.mmd.compute([[0.0]], [[1.0]], ComputeOptions(pairing="independent"))

        assert await count_failures(call, lambda: names.look_ups >= LOOK_UPS)
        names.addresses = ["127.0.0.1"]
        assert await count_failures(call) <= MAX_FAILURES
        assert len(deployment.mmd.requests) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs a second address of the loopback interface")
async def test_calls_follow_a_service_that_moves_right_after_a_look_up(
    names: NameServer, deployment: Deployment
) -> None:
    names.addresses = ["127.0.0.1"]
    async with connect(f"dns://{names.authority}/mmd.test:{deployment.port}") as channel:
        stub = mmd_pb2_grpc.MmdServiceStub(channel)

        async def call() -> object:
            return await stub.Compute(mmd_pb2.ComputeRequest())

        assert await count_failures(call) == 0
        successor = grpc.server(ThreadPoolExecutor(1))
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(Mmd(), successor)
        successor.add_insecure_port(f"127.0.0.2:{deployment.port}")
        successor.start()
        names.addresses = ["127.0.0.2"]
        deployment.stop()
        failures = await count_failures(call)
        successor.stop(0).wait()
    assert failures <= 2, "gRPC repeats a call for a second and more, so each is one look-up that was held back"
