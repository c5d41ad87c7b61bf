"""How many calls one caller has at once: on a real server, by identity, and by address where there is none."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tests.token_issuer import TokenIssuer, bearer

from vfmalign.core.domain.errors import Exhausted
from vfmalign.core.rpc import interceptors
from vfmalign.core.rpc.access.identity import current_identity
from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.limits.bounds import parse_request
from vfmalign.core.rpc.server import ANONYMOUS_CALLS, serve_api
from vfmalign.core.rpc.status_mapping import from_rpc_error
from vfmalign.core.runtime.auth_settings import AuthSettings
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings, StoreSettings
from vfmalign.core.runtime.threads import MESSAGES
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc

LIMIT = 3
WAIT_S = 30


class Endless(mmd_pb2_grpc.MmdServiceServicer):
    """Streams that answer once and then go on until the client ends them."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.changed = asyncio.Condition()

    async def ComputeBatch(
        self, request: mmd_pb2.ComputeBatchRequest, context: Any
    ) -> AsyncIterator[mmd_pb2.ComputeBatchResponse]:
        identity = current_identity.get()
        assert identity is not None
        await self._count(identity.subject, 1)
        try:
            yield mmd_pb2.ComputeBatchResponse()
            await asyncio.Event().wait()
        finally:
            await self._count(identity.subject, -1)

    async def _count(self, subject: str, change: int) -> None:
        async with self.changed:
            self.running[subject] += change
            self.changed.notify_all()

    async def until(self, subject: str, count: int) -> None:
        async with asyncio.timeout(WAIT_S), self.changed:
            await self.changed.wait_for(lambda: self.running[subject] == count)


class Health(health.aio.HealthServicer):
    """Answers while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.open = asyncio.Semaphore(0), asyncio.Event()
        self.open.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        self.entered.release()
        await self.open.wait()
        return await super().Check(request, context)


@dataclass
class Caller:
    """Somebody with a token, on one connection."""

    stub: Any
    metadata: list[tuple[str, str]]

    async def open_streams(self, count: int) -> list[Any]:
        """Begins streams, and returns them once each has answered."""
        request = mmd_pb2.ComputeBatchRequest()
        streams = [self.stub.ComputeBatch(request, metadata=self.metadata) for _ in range(count)]
        async with asyncio.timeout(WAIT_S):
            for stream in streams:
                await stream.read()
        return streams


class Api:
    """The server, and callers of it, each with a connection of its own."""

    def __init__(self, port: int, servicer: Endless, state: Health, issuer: TokenIssuer, channels: AsyncExitStack):
        self.servicer, self.state = servicer, state
        self._address, self._issuer, self._channels = f"127.0.0.1:{port}", issuer, channels

    async def connect(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
        """Opens a connection without a token."""
        options = [("grpc.use_local_subchannel_pool", 1), *options]
        return await self._channels.enter_async_context(grpc.aio.insecure_channel(self._address, options))

    async def create_caller(self, subject: str, role: str, options: Sequence[tuple[str, Any]] = ()) -> Caller:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(await self.connect(options))
        return Caller(stub, bearer(self._issuer.sign(role, sub=subject)))


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    servicer, state, issuer = Endless(), Health(), TokenIssuer("https://idp.example")

    def add(server: grpc.aio.Server) -> list[Any]:
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(servicer, server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    settings = ServiceSettings(
        store=StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b"),
        server=ServerSettings(grpc_port=0, max_calls=200, max_calls_per_caller=LIMIT),
        auth=AuthSettings(mode="oidc", issuers=(issuer.issuer,), jwks_file=issuer.write_jwks(tmp_path / "jwks.json")),
    )
    async with AsyncExitStack() as server, AsyncExitStack() as channels:
        _, _, port = await serve_api(settings, add, Gate("open"), state, server)
        yield Api(port, servicer, state, issuer, channels)


async def test_one_caller_leaves_calls_to_the_others(api: Api) -> None:
    ada, elsewhere = await api.create_caller("ada", "researcher"), await api.create_caller("ada", "researcher")
    streams = await ada.open_streams(LIMIT)
    for caller in (ada, elsewhere):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.open_streams(1)
        error = from_rpc_error(caught.value, "MmdService")
        assert (type(error), error.reason) == (Exhausted, "TOO_MANY_CALLS")
        assert error.retry_after_s is not None
    await (await api.create_caller("bob", "researcher")).open_streams(LIMIT)

    streams[0].cancel()
    await api.servicer.until("ada", LIMIT - 1)
    await elsewhere.open_streams(1)


async def test_no_caller_waits_behind_all_large_messages_of_another_one(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, go_on = [], threading.Event()

    def parse(*arguments: Any) -> Any:
        identity = current_identity.get()
        order.append(identity.subject if identity else "")
        return parse_request(*arguments)

    monkeypatch.setattr(interceptors, "_LARGE_MESSAGE_BYTES", -1)
    monkeypatch.setattr(interceptors, "parse_request", parse)
    eve, features = await api.create_caller("eve", "researcher"), await api.create_caller("features", "researcher")
    MESSAGES.submit(go_on.wait, WAIT_S)
    try:
        opening = [asyncio.create_task(eve.open_streams(LIMIT))]
        await asyncio.sleep(0.2)  # for her messages to arrive
        opening.append(asyncio.create_task(features.open_streams(1)))
        await asyncio.sleep(0.2)
    finally:
        go_on.set()
    await asyncio.gather(*opening)
    assert order.index("features") <= 1, order


async def test_a_service_calls_for_everybody_without_a_limit_of_its_own(api: Api) -> None:
    await (await api.create_caller("finetuning", "finetuning")).open_streams(2 * LIMIT)


async def test_callers_without_identity_share_few_calls(api: Api) -> None:
    api.state.open.clear()
    stubs: list[Any] = [health_pb2_grpc.HealthStub(await api.connect()) for _ in range(2)]
    running = [stubs[0].Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S) for _ in range(ANONYMOUS_CALLS)]
    for _ in running:
        await api.state.entered.acquire()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs[1].Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
    error = from_rpc_error(caught.value, "Health")
    assert (type(error), error.reason) == (Exhausted, "TOO_MANY_CALLS")
    await (await api.create_caller("ada", "researcher")).open_streams(LIMIT)  # from the same address
    api.state.open.set()
    for call in running:
        assert (await call).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_anonymous_callers_cannot_hold_calls_by_watching_the_health(api: Api) -> None:
    stub: Any = health_pb2_grpc.HealthStub(await api.connect())
    for _ in range(2 * LIMIT):
        call = stub.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_client_that_checks_the_health_goes_on_without_it(api: Api) -> None:
    """The server is NOT_SERVING here, with which such a client would make no call."""
    config = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
    caller = await api.create_caller("ada", "researcher", [("grpc.service_config", json.dumps(config))])
    await caller.open_streams(1)
