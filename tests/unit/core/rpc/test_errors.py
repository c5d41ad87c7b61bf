"""The errors of a call, over a real socket."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.unit.core.rpc.misbehaving_server import Misbehaving, Running, plain

from vfmalign.core.domain import errors
from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.status_mapping import CODES, from_rpc_error
from vfmalign.core.runtime import metrics
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc

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


async def test_the_client_waits_for_a_place_as_it_is_told_and_not_beyond_its_deadline(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Misbehaving, "refusals", 3)
    async with connect(f"127.0.0.1:{running.ports['grpc']}") as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        answer = await stub.Compute(mmd_pb2.ComputeRequest(primary_layer="full 0.01"))
        assert answer.primary_layer == "done"
        monkeypatch.setattr(Misbehaving, "refusals", 1)
        with pytest.raises(errors.Exhausted) as caught:
            await stub.Compute(mmd_pb2.ComputeRequest(primary_layer="full 30"), timeout=20)
        assert (caught.value.reason, caught.value.retry_after_s) == ("QUEUE_FULL", 30.0)
        assert Misbehaving.refusals == 0


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
