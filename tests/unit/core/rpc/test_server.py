"""The server's life, over a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from tests.unit.core.rpc.misbehaving_server import Misbehaving, Running

from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.server import serve, serve_api
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings, StoreSettings
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc


async def test_calls_and_connections_beyond_the_limits_are_refused() -> None:
    def add(server: grpc.aio.Server) -> list[Any]:
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(Misbehaving(), server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    settings = ServiceSettings(
        store=StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b"),
        server=ServerSettings(grpc_port=0, max_calls=1, max_connections=1),
    )
    async with AsyncExitStack() as resources:
        _, _, port = await serve_api(settings, add, Gate("open"), health.aio.HealthServicer(), resources)
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(2)]
        for channel in channels:
            await resources.enter_async_context(channel)
        first, other = map(mmd_pb2_grpc.MmdServiceStub, channels)
        running = first.Compute(mmd_pb2.ComputeRequest(primary_layer="slow"))
        await Misbehaving.slow.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await first.Compute(mmd_pb2.ComputeRequest(primary_layer="slow"))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await other.Compute(mmd_pb2.ComputeRequest(primary_layer="slow"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await running).primary_layer == "done"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "features"])
async def test_nobody_is_served_without_authentication_from_other_machines(
    host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ServiceSettings(
        store=StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b"),
        server=ServerSettings(host=host, grpc_port=0, metrics_port=0, health_port=0),
    )
    with pytest.raises(SystemExit) as caught:
        await serve("test", settings, lambda _: [])
    assert caught.value.code == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("VFMALIGN_AUTH__MODE is off")
    assert sentence.count("\n") == 1


@pytest.mark.parametrize("cause", ["returns", "raises"])
async def test_a_loop_that_ends_by_itself_ends_the_service_with_its_cause(
    cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def loop() -> None:
        if cause == "raises":
            raise ZeroDivisionError

    settings = ServiceSettings(
        store=StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b"),
        server=ServerSettings(grpc_port=0, metrics_port=0, health_port=0),
    )
    stopped = asyncio.Event()
    loops = (asyncio.create_task(loop(), name="leadership"), asyncio.create_task(stopped.wait()))
    with pytest.raises(SystemExit) as caught:
        await serve("test", settings, lambda _: [], get_loops=lambda: loops, stop=stopped.set)
    assert caught.value.code == 1
    (line,) = [line for line in map(json.loads, capsys.readouterr().err.splitlines()) if line["event"] == "loop_ended"]
    assert line["loop"] == "leadership"
    assert ("ZeroDivisionError" in line.get("exception", "")) == (cause == "raises")


@pytest.fixture
def few_files() -> Iterator[int]:
    """A low soft limit of descriptors, as many systems have it; yields the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_service_has_descriptors_for_its_connections(few_files: int, running: Running) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(few_files, 2**16)


async def test_health_metrics_and_reflection_answer(running: Running) -> None:
    for port in ("grpc", "health"):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.ports[port]}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service="vfmalign.v1.MmdService"))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.ports['health']}") as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()
    address = f"http://127.0.0.1:{running.ports['metrics']}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(address).read().decode())
    assert 'grpc_server_handled_total{grpc_code="NOT_FOUND",grpc_method="Compute"' in text
    assert "vfmalign_build_info{" in text
    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.ports['grpc']}") as channel:
        for version in ("v1", "v1alpha"):
            name = f"grpc.reflection.{version}.ServerReflection"
            reflect = channel.stream_stream(
                f"/{name}/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            requests = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
            ]
            listed, described = [reply async for reply in reflect(iter(requests))]
            assert {"vfmalign.v1.MmdService", name} <= {s.name for s in listed.list_services_response.service}
            (file,) = described.file_descriptor_response.file_descriptor_proto
            described_file = descriptor_pb2.FileDescriptorProto.FromString(file)
            assert described_file.package == f"grpc.reflection.{version}"
            assert (
                described_file.service[0].method[0].input_type == f".{described_file.package}.ServerReflectionRequest"
            )


async def test_sigterm_lets_a_running_call_end_and_refuses_new_ones(running: Running) -> None:
    async with connect(f"127.0.0.1:{running.ports['grpc']}") as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        call = asyncio.ensure_future(_compute(stub, "slow"))
        await Misbehaving.slow.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.1)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.ports['grpc']}") as late:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await mmd_pb2_grpc.MmdServiceStub(late).Compute(mmd_pb2.ComputeRequest(primary_layer="slow"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await call).primary_layer == "done"
    await running.task


async def _compute(stub: Any, layer: str) -> Any:
    return await stub.Compute(mmd_pb2.ComputeRequest(primary_layer=layer))
