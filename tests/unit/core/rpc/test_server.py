"""The server's life and the errors of a call, over a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from vfmalign.core.domain import errors
from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.server import serve, serve_api
from vfmalign.core.rpc.status_mapping import CODES, from_rpc_error
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings, StoreSettings
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc


class Misbehaving(mmd_pb2_grpc.MmdServiceServicer):
    """Raises what a test asks for by the name of the primary layer."""

    slow = asyncio.Event()

    async def Compute(self, request: mmd_pb2.ComputeRequest, context: Any) -> mmd_pb2.ComputeResponse:
        if request.primary_layer == "fault":
            raise ZeroDivisionError("patient SURNAME^GIVEN")
        if request.primary_layer == "slow":
            self.slow.set()
            await asyncio.sleep(0.5)
            return mmd_pb2.ComputeResponse(primary_layer="done")
        if request.primary_layer in {"later", "never"}:
            error = errors.Exhausted("too much", subject="object x", remedy="mend it")
            error.retry_after_s = 12.5 if request.primary_layer == "later" else None
            raise error
        if request.primary_layer.startswith("long "):
            text = request.primary_layer[-1] * 3000
            raise errors.BadVolume(text, field="study.dicom", remedy=text)
        cls = getattr(errors, request.primary_layer)
        if issubclass(cls, errors.InvalidInput):
            raise cls("it is bad", field="study.volumes[0]", remedy="mend it")
        raise cls("it is bad", subject="object x", remedy="mend it")

    async def ComputeBatch(
        self, request: mmd_pb2.ComputeBatchRequest, context: Any
    ) -> AsyncIterator[mmd_pb2.ComputeBatchResponse]:
        yield mmd_pb2.ComputeBatchResponse(index=0)
        raise errors.Exhausted("too much", subject="batch", remedy="send less")


@pytest.fixture(autouse=True)
def new_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets no test find the event set by another one, whose event loop has ended."""
    monkeypatch.setattr(Misbehaving, "slow", asyncio.Event())


class Running:
    def __init__(self, ports: dict[str, int], task: asyncio.Task[None]) -> None:
        self.ports, self.task = ports, task


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    ports_file = tmp_path / "ports.json"
    settings = ServiceSettings(
        store=StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b"),
        server=ServerSettings(grpc_port=0, metrics_port=0, health_port=0, drain_s=5, ports_file=ports_file),
    )

    def add(server: grpc.aio.Server) -> list[Any]:
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(Misbehaving(), server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    task = asyncio.create_task(serve("test", settings, add))
    while not ports_file.exists():
        await asyncio.sleep(0.01)
        assert not task.done()
    yield Running(json.loads(ports_file.read_text()), task)
    if not task.done():
        os.kill(os.getpid(), signal.SIGTERM)
        await task


def plain(running: Running) -> grpc.aio.Channel:
    """A channel as a foreign client has it: statuses come through as they are."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{running.ports['grpc']}")


ERRORS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.VfmalignError)]


async def test_every_error_has_its_code_its_info_and_comes_back_as_itself(running: Running) -> None:
    async with connect(f"127.0.0.1:{running.ports['grpc']}") as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        for cls in ERRORS:
            if cls is errors.VfmalignError:
                continue
            with pytest.raises(cls) as caught:
                await stub.Compute(mmd_pb2.ComputeRequest(primary_layer=cls.__name__))
            assert type(caught.value) is cls
            assert caught.value.remedy == "mend it"
            assert caught.value.retry_after_s == cls.retry_after_s
            assert caught.value.message == "it is bad"


@pytest.mark.parametrize("character", ["a", "%", "é", "骨"])
async def test_a_long_error_keeps_its_code_in_any_language(running: Running, character: str) -> None:
    async with plain(running) as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        for _ in range(20):  # gRPC refuses some of the trailers between 8 and 16 KiB, at random
            with pytest.raises(grpc.RpcError) as caught:
                await stub.Compute(mmd_pb2.ComputeRequest(primary_layer=f"long {character}"))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            error = from_rpc_error(caught.value, "test")
            assert (type(error), error.field) == (errors.BadVolume, "study.dicom")
            assert error.message == character * (1000 // len(character.encode()))


async def test_a_class_of_one_room_comes_back_as_the_one_that_its_reason_is_of(running: Running) -> None:
    class Detail(errors.BadTensor):
        """Inherits its reason."""

    async with connect(f"127.0.0.1:{running.ports['grpc']}") as channel:
        with pytest.raises(errors.BadTensor) as caught:
            await mmd_pb2_grpc.MmdServiceStub(channel).Compute(mmd_pb2.ComputeRequest(primary_layer="BadTensor"))
    assert type(caught.value) is errors.BadTensor is not Detail


async def test_the_table_covers_the_design(running: Running) -> None:
    names = {cls.__name__: code.name for cls, code in CODES.items()}
    assert names == {
        "InvalidInput": "INVALID_ARGUMENT",
        "NotFound": "NOT_FOUND",
        "PreconditionFailed": "FAILED_PRECONDITION",
        "DataLoss": "DATA_LOSS",
        "Conflict": "ALREADY_EXISTS",
        "Exhausted": "RESOURCE_EXHAUSTED",
        "Unavailable": "UNAVAILABLE",
        "DeadlineExceeded": "DEADLINE_EXCEEDED",
        "Cancelled": "CANCELLED",
        "Unauthenticated": "UNAUTHENTICATED",
        "Forbidden": "PERMISSION_DENIED",
        "Internal": "INTERNAL",
    }


async def test_bad_input_names_the_field_and_what_may_be_retried_says_when(running: Running) -> None:
    async with plain(running) as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        details = await _details(stub, "BadVolume")
        assert details["BadRequest"].field_violations[0].field == "study.volumes[0]"
        assert details["ErrorInfo"].domain == "vfmalign"
        assert details["ErrorInfo"].reason == "BAD_VOLUME"
        details = await _details(stub, "Exhausted")
        assert details["RetryInfo"].retry_delay.seconds == 5


async def test_the_client_learns_when_a_call_may_be_repeated(running: Running) -> None:
    async with connect(f"127.0.0.1:{running.ports['grpc']}") as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        for layer, seconds in (("later", 12.5), ("never", None)):
            with pytest.raises(errors.Exhausted) as caught:
                await stub.Compute(mmd_pb2.ComputeRequest(primary_layer=layer))
            assert caught.value.retry_after_s == seconds


async def test_the_store_s_refusal_is_not_the_caller_s_fault(running: Running) -> None:
    async with plain(running) as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Compute(mmd_pb2.ComputeRequest(primary_layer="StoreRefused"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        details = await _details(stub, "StoreRefused")
        assert details["ErrorInfo"].reason == "STORE_REFUSED"
        assert details["RetryInfo"].retry_delay.seconds == 30


async def _details(stub: Any, name: str) -> dict[str, Any]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Compute(mmd_pb2.ComputeRequest(primary_layer=name))
    trailers = dict(caught.value.trailing_metadata())
    found: dict[str, Any] = {}
    for detail in status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details:
        kind = detail.type_url.rsplit(".", 1)[1]
        found[kind] = getattr(error_details_pb2, kind)()
        detail.Unpack(found[kind])
    return found


async def test_a_fault_of_ours_says_nothing_outside_and_all_in_the_log(
    capfd: pytest.CaptureFixture[str], running: Running
) -> None:
    async with plain(running) as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Compute(mmd_pb2.ComputeRequest(primary_layer="fault"), metadata=(("x-request-id", "follow-me"),))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "SURNAME" not in str(caught.value)
    assert "follow-me" in (caught.value.details() or "")
    log = capfd.readouterr().err
    assert "ZeroDivisionError" in log
    assert '"request_id": "follow-me"' in log


async def test_a_stream_fails_after_what_it_had(running: Running) -> None:
    async with connect(f"127.0.0.1:{running.ports['grpc']}") as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        messages = aiter(stub.ComputeBatch(mmd_pb2.ComputeBatchRequest()))
        assert (await anext(messages)).index == 0
        with pytest.raises(errors.Exhausted, match="too much"):
            await anext(messages)


async def test_a_message_that_cannot_be_parsed_is_an_error_like_any_other(
    capfd: pytest.CaptureFixture[str], running: Running
) -> None:
    before = get_handled("INVALID_ARGUMENT")
    async with plain(running) as channel:
        for data in (b"\xff", b"\x0a\x7f"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/vfmalign.v1.MmdService/Compute")(data)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.stream_unary("/vfmalign.v1.MmdService/Compute")(iter(()))
        assert "no message" in (caught.value.details() or "")
    assert get_handled("INVALID_ARGUMENT") == before + 3
    assert capfd.readouterr().err.count('"reason": "MALFORMED_MESSAGE"') == 2


def get_handled(code: str) -> float:
    """The calls of Compute that ended with a code."""
    labels = {"grpc_method": "Compute", "grpc_code": code, "grpc_service": "vfmalign.v1.MmdService"}
    return metrics.REGISTRY.get_sample_value("grpc_server_handled_total", {**labels, "grpc_type": "unary"}) or 0.0


async def test_a_message_beyond_the_limit_is_counted_as_the_client_sees_it_and_has_a_remedy(
    capfd: pytest.CaptureFixture[str], running: Running
) -> None:
    codes = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "CANCELLED")
    before = [get_handled(code) for code in codes]
    address = f"127.0.0.1:{running.ports['grpc']}"
    async with grpc.aio.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/vfmalign.v1.MmdService/Compute")(bytes(17 * 2**20))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    error = from_rpc_error(caught.value, "MmdService")
    assert (type(error), error.reason, error.retry_after_s) == (errors.TooLarge, "MESSAGE_TOO_LARGE", None)
    assert error.message == "the request has 17,825,792 bytes, and the limit is 16,842,752"
    assert "CreateUpload" in error.remedy
    for _ in range(1_000):  # a server counts after the client has its answer
        if get_handled("RESOURCE_EXHAUSTED") > before[0]:
            break
        await asyncio.sleep(0.01)
    assert [get_handled(code) - count for code, count in zip(codes, before, strict=True)] == [1, 0, 0]
    assert '"reason": "MESSAGE_TOO_LARGE"' in capfd.readouterr().err


async def test_an_answer_beyond_the_clients_limit_asks_for_less(running: Running) -> None:
    options = [("grpc.max_receive_message_length", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.ports['grpc']}", options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mmd_pb2_grpc.MmdServiceStub(channel).Compute(mmd_pb2.ComputeRequest(primary_layer="slow"))
    error = from_rpc_error(caught.value, "MmdService")
    assert type(error) is errors.TooLarge
    assert error.message == "the answer has 6 bytes, and the limit is 1"
    assert error.remedy.startswith("ask for less")


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
