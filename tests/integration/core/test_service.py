"""A service's process, from its first listening socket to its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vfmalign.cli.local.ports import free_ports
from vfmalign.core.domain import errors
from vfmalign.core.rpc.channels import connect
from vfmalign.core.runtime import logs
from vfmalign.v1 import common_pb2, mmd_pb2, mmd_pb2_grpc

# Does what the field `primary_layer` says: relay to another service, sleep, say who serves whom, answer at once.
PROGRAM = """
import asyncio, os
from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.server import serve
from vfmalign.core.runtime.settings import ServiceSettings, load
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc

draining = None

class Servicer(mmd_pb2_grpc.MmdServiceServicer):
    async def Compute(self, request, context):
        verb, _, argument = request.primary_layer.partition(" ")
        if verb == "sleep":
            await asyncio.sleep(float(argument))
        if verb == "relay":
            async with connect(argument) as channel:
                return await mmd_pb2_grpc.MmdServiceStub(channel).Compute(mmd_pb2.ComputeRequest(primary_layer="end"))
        if verb == "who":
            return mmd_pb2.ComputeResponse(primary_layer=f"{os.getpid()} {context.peer()}")
        return mmd_pb2.ComputeResponse(primary_layer="done")

class Watching(Servicer):
    async def ComputeBatch(self, request, context):
        yield mmd_pb2.ComputeBatchResponse(index=1)
        await draining.wait()
        yield mmd_pb2.ComputeBatchResponse(index=2)

def add(server):
    servicer = Watching() if "WATCHING" in os.environ else Servicer()
    mmd_pb2_grpc.add_MmdServiceServicer_to_server(servicer, server)
    return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

async def main():
    global draining
    draining = asyncio.Event()
    async def ready():
        await asyncio.sleep(float(os.environ.get("LOADING_S", "0")))
    await serve("kitchen", load(ServiceSettings), add, ready=ready, on_drain=draining.set)

asyncio.run(main())
"""


@dataclass
class Service:
    process: subprocess.Popen[bytes]
    ports: dict[str, int]
    log: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['grpc']}"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


Start = Callable[..., Awaitable[Service]]
PORTS = ("grpc", "metrics", "health")


def choose_ports() -> dict[str, int]:
    """Ports that a test names itself. Another test may take one meanwhile, so that others let the process choose."""
    return dict(zip(PORTS, free_ports(len(PORTS)), strict=True))


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts processes, and ends those that are left."""
    program = tmp_path / "kitchen.py"
    program.write_text(PROGRAM)
    services: list[Service] = []

    async def begin(ports: dict[str, int] | None = None, wait: bool = True, **environment: str) -> Service:
        number = len(services)
        ports_file, log = tmp_path / f"ports-{number}.json", tmp_path / f"log-{number}"
        ports = ports or dict.fromkeys(PORTS, 0)
        variables = {f"VFMALIGN_SERVER__{name.upper()}_PORT": str(port) for name, port in ports.items()}
        variables |= {
            "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "VFMALIGN_SERVER__PORTS_FILE": str(ports_file),
            "VFMALIGN_SERVER__DRAIN_S": "10",
        }
        with log.open("wb") as out:
            process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [sys.executable, str(program)], env={**os.environ, **variables, **environment}, stderr=out
            )
        service = Service(process, ports, log)
        services.append(service)
        while wait and not ports_file.exists():
            assert process.poll() is None, log.read_text()
            await asyncio.sleep(0.02)
        if wait:
            service.ports = json.loads(ports_file.read_text())
        return service

    yield begin
    for service in services:
        service.process.kill()
        service.process.wait()


def compute(channel: grpc.aio.Channel, what: str, **options: Any) -> Any:
    stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
    return stub.Compute(mmd_pb2.ComputeRequest(primary_layer=what), **options)


def send(channel: grpc.aio.Channel, size: int) -> Any:
    """Sends a tensor of so many bytes."""
    layer = mmd_pb2.InlineLayer(features=common_pb2.Tensor(data=bytes(size)))
    source = mmd_pb2.FeatureSource(inline=mmd_pb2.InlineFeatures(layers=[layer]))
    stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
    return stub.Compute(mmd_pb2.ComputeRequest(x=source))


async def health(service: Service, port: str, name: str = "") -> str:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.ports[port]}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), wait_for_ready=True, timeout=10)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def ended(service: Service) -> int:
    return await asyncio.to_thread(service.process.wait, 20)


async def test_a_request_id_follows_a_call_over_two_services(start: Start) -> None:
    near, far = await start(), await start()
    token = logs.request_id.set("follow-this-call")
    async with connect(near.address) as channel:
        assert (await compute(channel, f"relay {far.address}")).primary_layer == "done"
        logs.request_id.reset(token)
        await compute(channel, f"relay {far.address}")
    seen = [[line["request_id"] for line in service.lines() if line["event"] == "call"] for service in (near, far)]
    assert seen[0][0] == seen[1][0] == "follow-this-call"
    assert seen[0][1] == seen[1][1] != "follow-this-call"
    assert len(seen[0]) == len(seen[1]) == 2


async def test_sigterm_drains_and_exits_with_0(start: Start) -> None:
    service = await start()
    async with connect(service.address) as channel:
        running = asyncio.ensure_future(_response(compute(channel, "sleep 1.5")))
        await asyncio.sleep(0.3)
        service.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert await health(service, "health") == "NOT_SERVING"
        assert await health(service, "health", "vfmalign.v1.MmdService") == "NOT_SERVING"
        assert await health(service, "health", "liveness") == "SERVING"
        async with connect(service.address) as late:
            with pytest.raises(errors.Unavailable):
                await compute(late, "now")
        assert (await running).primary_layer == "done"
    assert await ended(service) == 0
    assert [line["event"] for line in service.lines() if line.get("module") == "server"] == [
        "serving",
        "draining",
        "stopped",
    ]


async def test_calls_that_outlast_the_drain_are_cut_off(start: Start) -> None:
    service = await start(VFMALIGN_SERVER__DRAIN_S="0.2")
    async with connect(service.address) as channel:
        running = asyncio.ensure_future(_response(compute(channel, "sleep 60")))
        await asyncio.sleep(0.3)
        service.process.send_signal(signal.SIGTERM)
        assert await ended(service) == 0
        with pytest.raises(errors.VfmalignError):
            await running


async def test_streams_that_never_end_are_told_of_the_drain(start: Start) -> None:
    service = await start(WATCHING="1")
    async with connect(service.address) as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        messages = aiter(stub.ComputeBatch(mmd_pb2.ComputeBatchRequest()))
        assert (await anext(messages)).index == 1
        service.process.send_signal(signal.SIGTERM)
        assert (await anext(messages)).index == 2
        with pytest.raises(StopAsyncIteration):
            await anext(messages)
    assert await ended(service) == 0


async def test_a_process_that_loads_lives_and_turns_calls_away(start: Start) -> None:
    service = await start(ports=choose_ports(), wait=False, LOADING_S="60")
    assert await health(service, "health", "liveness") == "SERVING"
    for port in ("grpc", "health"):
        assert await health(service, port) == "NOT_SERVING"
    async with connect(service.address) as channel:
        with pytest.raises(errors.Unavailable, match="MmdService: the server is starting") as caught:
            await compute(channel, "now")
    assert caught.value.reason == "LOADING"


@pytest.mark.parametrize("name", ["grpc", "metrics", "health"])
async def test_a_taken_port_ends_the_process_with_one_sentence(start: Start, name: str) -> None:
    ports = choose_ports()
    with socket.create_server(("127.0.0.1", ports[name])):
        service = await start(ports=ports, wait=False)
        assert await ended(service) == 2
    last = service.log.read_text().splitlines()[-1]  # gRPC's own library has its say before
    assert last.startswith(f"VFMALIGN_SERVER__{name.upper()}_PORT is wrong: port {ports[name]}")


async def test_a_client_outlives_a_killed_server(start: Start) -> None:
    first = await start()
    async with connect(first.address, wait_for_ready=True, call_timeout_s=30) as channel:
        await compute(channel, "now")
        first.process.kill()
        first.process.wait()
        waiting = asyncio.ensure_future(_response(compute(channel, "now")))
        await start(ports={name: first.ports[name] for name in PORTS})
        assert (await waiting).primary_layer == "done"


async def test_one_channel_shares_its_calls_between_all_addresses_of_a_name(start: Start) -> None:
    services = [await start(), await start()]
    name = "ipv4:" + ",".join(service.address for service in services)  # as DNS answers for a headless Service
    async with connect(name) as channel:
        seen: list[int] = []
        async with asyncio.timeout(30):
            while len(set(seen)) < 2:  # the second connection may come later
                seen.append(int((await compute(channel, "who")).primary_layer.split()[0]))
        seen = [int((await compute(channel, "who")).primary_layer.split()[0]) for _ in range(6)]
    assert {seen.count(service.process.pid) for service in services} == {3}


async def test_clients_connect_anew_after_a_while_and_running_calls_stay(start: Start) -> None:
    service = await start(WATCHING="1", VFMALIGN_SERVER__CONNECTION_AGE_S="0.3")
    async with connect(service.address) as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        messages = aiter(stub.ComputeBatch(mmd_pb2.ComputeBatchRequest()))
        assert (await anext(messages)).index == 1
        callers = {(await compute(channel, "who")).primary_layer}
        async with asyncio.timeout(30):
            while len(callers) < 3:
                callers.add((await compute(channel, "who")).primary_layer)
        service.process.send_signal(signal.SIGTERM)
        assert (await anext(messages)).index == 2


async def test_nobody_there_is_unavailable_and_names_the_service() -> None:
    async with connect(f"127.0.0.1:{free_ports(1)[0]}") as channel:
        with pytest.raises(errors.Unavailable, match="MmdService"):
            await compute(channel, "now")


async def test_deadlines_cancellation_and_missing_methods_have_their_codes(start: Start) -> None:
    service = await start()
    async with connect(service.address, call_timeout_s=2.0) as channel:
        with pytest.raises(errors.DeadlineExceeded):
            await compute(channel, "sleep 60")
        running = asyncio.ensure_future(_response(compute(channel, "sleep 60", timeout=60)))
        await asyncio.sleep(0.3)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        with pytest.raises(errors.VfmalignError, match="has no ComputeBatch"):
            await anext(aiter(stub.ComputeBatch(mmd_pb2.ComputeBatchRequest())))
    for code, method in (("DEADLINE_EXCEEDED", "Compute"), ("CANCELLED", "Compute"), ("UNIMPLEMENTED", "ComputeBatch")):
        assert await _handled(service, code, method) == 1, code


async def test_a_message_at_the_limit_passes_and_one_beyond_kills_nobody(start: Start) -> None:
    service = await start()
    async with connect(service.address) as channel:
        assert (await send(channel, 16 * 2**20)).primary_layer == "done"
    unlimited = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(service.address, options=unlimited) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(channel, 17 * 2**20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await compute(channel, "now")).primary_layer == "done"


async def _handled(service: Service, code: str, method: str) -> float:
    """The counter of a code, once it has moved: a server counts after the client has its answer."""
    address = f"http://127.0.0.1:{service.ports['metrics']}/metrics"
    for _ in range(100):
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(address).read().decode())
        for line in text.splitlines():
            if line.startswith("grpc_server_handled_total{") and f'"{code}"' in line and f'"{method}"' in line:
                value = float(line.rsplit(" ", 1)[1])
                if value:
                    return value
        await asyncio.sleep(0.05)
    return 0.0


async def _response(call: Any) -> Any:
    return await call
