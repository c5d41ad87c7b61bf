"""Messages that are never complete: what they cost, and whether others are served."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import asynccontextmanager

import grpc
import psutil
import pytest
from tests.raw_calls import stall

from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.status_mapping import from_rpc_error
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc

METHODS = (
    "/vfmalign.v1.MmdService/Compute",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.health.v1.Health/Check",
)
REASONS = (b"the message was not complete", b"the memory for requests and answers is in use")
MESSAGE_BYTES = 16 * 2**20
CALLS = 48
MEMORY_BYTES = 64 * 2**20
OVERHEAD_BYTES = CALLS * 2 * 2**20
"""Of the connections: gRPC reads into buffers that grow with what arrives at once. The messages are 744 MiB in all."""

PROGRAM = """
import asyncio
from vfmalign.core.rpc.server import serve
from vfmalign.core.runtime.settings import ServiceSettings, load
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc

class Servicer(mmd_pb2_grpc.MmdServiceServicer):
    async def Compute(self, request, context):
        return mmd_pb2.ComputeResponse(primary_layer="done")

def add(server):
    mmd_pb2_grpc.add_MmdServiceServicer_to_server(Servicer(), server)
    return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

asyncio.run(serve("kitchen", load(ServiceSettings), add))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with memory for four messages; returns its process and the ports of its API and metrics."""
    ports_file = tmp_path_factory.mktemp("stalled") / "ports.json"
    environment = {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "VFMALIGN_SERVER__REQUEST_MEMORY_BYTES": str(MEMORY_BYTES),
        "VFMALIGN_SERVER__MESSAGE_TIMEOUT_S": "8",
        "VFMALIGN_SERVER__PORTS_FILE": str(ports_file),
        **{f"VFMALIGN_SERVER__{name}_PORT": "0" for name in ("GRPC", "METRICS", "HEALTH")},
    }
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env={**os.environ, **environment})
    try:
        while not ports_file.exists():
            assert process.poll() is None
            time.sleep(0.05)
        ports = json.loads(ports_file.read_text())
        yield psutil.Process(process.pid), ports["grpc"], ports["metrics"]
    finally:
        process.kill()
        process.wait()


def count_calls(metrics_port):
    """Number of calls that have reached the server's handlers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("grpc_server_started_total{"))


@asynccontextmanager
async def stalled(port, metrics_port, source="127.0.0.1"):
    """Keeps calls of all kinds of methods stalled during a block, which begins when all wait for memory or hold it."""
    before = await asyncio.to_thread(count_calls, metrics_port)
    methods = (METHODS[index % len(METHODS)] for index in range(CALLS))
    calls = [stall(method, MESSAGE_BYTES, MESSAGE_BYTES - 2**19, source) for method in methods]
    tasks = [asyncio.create_task(call.run(port)) for call in calls]
    try:
        async with asyncio.timeout(60):
            while True:
                if await asyncio.to_thread(count_calls, metrics_port) >= before + CALLS:
                    break
                await asyncio.sleep(0.05)
        yield calls
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_stalled_messages_take_no_more_memory_than_the_setting(server):
    process, port, metrics_port = server
    before = process.memory_info().rss
    peak = before
    async with stalled(port, metrics_port) as calls, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        late = mmd_pb2_grpc.MmdServiceStub(channel).Compute(mmd_pb2.ComputeRequest())
        async with asyncio.timeout(60):
            while not all(call.closed for call in calls):
                peak = max(peak, process.memory_info().rss)
                await asyncio.sleep(0.02)
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # it comes from the same address
            await late
    assert peak - before < MEMORY_BYTES + OVERHEAD_BYTES
    reasons = [[reason for reason in REASONS if reason in call.status] for call in calls]
    assert all(map(any, reasons)), [call.status for call in calls]
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    error = from_rpc_error(caught.value, "MmdService")
    assert error.reason == "REQUESTS_EXHAUSTED"
    assert error.retry_after_s is not None


async def test_other_addresses_are_served_meanwhile(server):
    _, port, metrics_port = server
    async with (
        stalled(port, metrics_port, source="127.0.0.2"),
        connect(f"127.0.0.1:{port}", call_timeout_s=4) as channel,
    ):
        stub = mmd_pb2_grpc.MmdServiceStub(channel)
        for _ in range(20):
            assert (await stub.Compute(mmd_pb2.ComputeRequest(primary_layer="x"))).primary_layer == "done"
