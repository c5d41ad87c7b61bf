"""A store that accepts connections and answers nothing, and callers who give up: what needs no store goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.server import AddServices, serve_api
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.core.rpc.watching import Watching
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.settings import LogSettings, ServerSettings, ServiceSettings, StoreSettings
from vfmalign.core.runtime.threads import STORE
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.servicer import AlignmentServicer
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.servicer import FineTuningServicer
from vfmalign.finetuning.schema import open_database
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.service.pipelines import Pipelines
from vfmalign.mmd.service.servicer import MmdServicer
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    common_pb2,
    finetuning_pb2,
    finetuning_pb2_grpc,
    mmd_pb2,
    mmd_pb2_grpc,
)

CALLS = 40
"""More than any pool has threads."""
TIMEOUT_S = 30.0


class StalledStore:
    """Accepts connections, and closes them once it is released."""

    settings: StoreSettings

    def __init__(self) -> None:
        self.connections = 0
        self.released = asyncio.Event()

    async def accept(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self.released.wait()
        writer.close()


@pytest.fixture
async def stalled() -> AsyncIterator[StalledStore]:
    store = StalledStore()
    server = await asyncio.start_server(store.accept, "127.0.0.1")
    store.settings = StoreSettings(
        endpoint=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", access_key="a", secret_key="b"
    )
    yield store
    store.released.set()  # or the threads would wait for its answer until the process ends
    server.close()


@pytest.fixture
async def connect_to(stalled: StalledStore) -> AsyncIterator[Callable[[AddServices], Awaitable[grpc.aio.Channel]]]:
    """Starts a service in this process and returns a channel to it."""
    async with AsyncExitStack() as resources:

        async def start(add: AddServices) -> grpc.aio.Channel:
            settings = ServiceSettings(store=stalled.settings, server=ServerSettings(grpc_port=0))
            _, _, port = await serve_api(settings, add, Gate("open"), health.aio.HealthServicer(), resources)
            return await resources.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))

        yield start


async def give_up(call: Callable[..., Awaitable[Any]], requests: list[Any]) -> None:
    """Sends requests whose callers wait for a second."""
    answers = await asyncio.gather(*(call(request, timeout=1) for request in requests), return_exceptions=True)
    assert {answer.code() for answer in answers} == {grpc.StatusCode.DEADLINE_EXCEEDED}


async def test_the_log_names_what_a_call_waited_for_at_its_deadline(
    stalled: StalledStore, connect_to: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("test", LogSettings())
    pipelines, store = Pipelines(4), ObjectStore(stalled.settings)

    def add(server: grpc.aio.Server) -> Any:
        servicer = MmdServicer(store, None, ComputeConfig(), pipelines, cache_bytes=0)
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(servicer, server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    stub: Any = mmd_pb2_grpc.MmdServiceStub(await connect_to(add))
    ref = common_pb2.ObjectRef(uri=store.uri("uploads/features/a"), sha256="a" * 64)
    uploaded = mmd_pb2.FeatureSource(uploaded=mmd_pb2.UploadedFeatures(object=ref))
    kernel = mmd_pb2.Kernel(fixed_sigma=1.0)
    request = mmd_pb2.ComputeRequest(x=uploaded, y=uploaded, pairing=mmd_pb2.PAIRING_INDEPENDENT, kernel=kernel)
    await give_up(stub.Compute, [request])
    lines: list[dict[str, Any]] = []
    async with asyncio.timeout(TIMEOUT_S):
        while not lines:
            await asyncio.sleep(0.05)
            lines += [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"call"' in line]
    (line,) = lines
    assert (line["level"], line["code"], line["reason"]) == ("warning", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert "object store: get" in line["waited_for"] or "object store: head" in line["waited_for"]
    await assert_nobody_asks_again(stalled)
    pipelines.close()


async def test_large_inline_comparisons_go_on(stalled: StalledStore, connect_to: Any) -> None:
    pipelines = Pipelines(4)
    store = ObjectStore(stalled.settings)

    def add(server: grpc.aio.Server) -> Any:
        servicer = MmdServicer(store, None, ComputeConfig(), pipelines, cache_bytes=0)
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(servicer, server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    def compare(sample: mmd_pb2.FeatureSource) -> mmd_pb2.ComputeRequest:
        kernel = mmd_pb2.Kernel(fixed_sigma=1.0)
        return mmd_pb2.ComputeRequest(x=sample, y=sample, pairing=mmd_pb2.PAIRING_INDEPENDENT, kernel=kernel)

    stub: Any = mmd_pb2_grpc.MmdServiceStub(await connect_to(add))
    ref = common_pb2.ObjectRef(uri=store.uri("uploads/features/a"), sha256="a" * 64)
    uploaded = mmd_pb2.FeatureSource(uploaded=mmd_pb2.UploadedFeatures(object=ref))
    await give_up(stub.Compute, [compare(uploaded)] * CALLS)
    array = np.random.default_rng(0).normal(size=(64, 1280)).astype(np.float32)  # parsed in a thread
    layer = mmd_pb2.InlineLayer(features=to_tensor(array))
    inline = mmd_pb2.FeatureSource(inline=mmd_pb2.InlineFeatures(layers=[layer]))
    assert (await stub.Compute(compare(inline), timeout=TIMEOUT_S)).layers
    await assert_nobody_asks_again(stalled)
    pipelines.close()


async def test_what_needs_the_database_alone_goes_on(stalled: StalledStore, connect_to: Any, tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'finetuning.db'}")
    database.migrate()
    checks, jobs, store = CheckRepository(database), JobRepository(database), ObjectStore(stalled.settings)
    options: dict[str, Any] = {"delete": None, "wake": lambda: None, "watching": Watching("finetuning", 1.0)}

    def add(server: grpc.aio.Server) -> Any:
        alignment_pb2_grpc.add_AlignmentServiceServicer_to_server(
            AlignmentServicer(checks, jobs, store, erasures=None, **options), server
        )
        finetuning_pb2_grpc.add_FineTuningServiceServicer_to_server(
            FineTuningServicer(jobs, store, log_command=lambda *_: "", **options), server
        )
        return [alignment_pb2.DESCRIPTOR.services_by_name["AlignmentService"]]

    spec = CheckSpec(model_id="m", dataset_id="d", task="segmentation")
    checks.create("present", spec)
    channel = await connect_to(add)
    alignment: Any = alignment_pb2_grpc.AlignmentServiceStub(channel)
    requests = [alignment_pb2.CreateCheckRequest(check_id=f"c{i}", spec=spec.to_proto()) for i in range(CALLS)]
    await give_up(alignment.CreateCheck, requests)
    finetuning: Any = finetuning_pb2_grpc.FineTuningServiceStub(channel)
    await finetuning.ListJobs(finetuning_pb2.ListJobsRequest(), timeout=TIMEOUT_S)
    answer = await alignment.CancelCheck(alignment_pb2.CancelCheckRequest(check_id="present"), timeout=TIMEOUT_S)
    assert answer.check.check_id == "present"
    await assert_nobody_asks_again(stalled)
    database.close()


async def assert_nobody_asks_again(stalled: StalledStore) -> None:
    """Asserts that the threads which waited for the store are free once it has closed its connections."""
    asked = stalled.connections
    stalled.released.set()
    async with asyncio.timeout(TIMEOUT_S):
        await STORE.run(int)
    assert stalled.connections == asked > 0
