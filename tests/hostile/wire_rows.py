"""Rows for what lies below the messages: bytes that are none, metadata and methods."""

from __future__ import annotations

from collections.abc import Callable

from tests.hostile.row import Inputs, Row

from vfmalign.v1 import finetuning_pb2

GET_JOB = "FineTuningService/GetJob"
INVALID = "INVALID_ARGUMENT"
MALFORMED = "MALFORMED_MESSAGE"


def raw(data: bytes) -> Callable[[Inputs], bytes]:
    """Sends these bytes as the message."""
    return lambda _: data


ROWS = (
    Row("half a message", GET_JOB, raw(b"\x0a\x7fab"), INVALID, MALFORMED),
    Row("field number 0", GET_JOB, raw(b"\x02\x00"), INVALID, MALFORMED),
    Row("text that is no UTF-8", GET_JOB, raw(b"\x0a\x02\xff\xfe"), INVALID, MALFORMED),
    Row("varint of 20 bytes", GET_JOB, raw(b"\x08" + b"\xff" * 20), INVALID, MALFORMED),
    Row("length beyond 2^31", GET_JOB, raw(b"\x0a\xff\xff\xff\xff\x0f"), INVALID, MALFORMED),
    Row("groups nested 100,000 times", GET_JOB, raw(b"\x0b" * 100_000), INVALID, MALFORMED),
    Row("random bytes", "MmdService/Compute", raw(bytes(range(1, 255)) * 4000), INVALID, MALFORMED),
    Row("200 KiB of unknown fields", GET_JOB, raw(b"\x0a\x04none" + b"\xfa\x3e\x00" * 66_000), "NOT_FOUND", "none"),
    Row("message of 17 MiB", "MmdService/Compute", raw(bytes(17 * 2**20)), "RESOURCE_EXHAUSTED", "larger than max"),
    Row("message of 1 MiB to finetuning", GET_JOB, raw(bytes(2**20)), "RESOURCE_EXHAUSTED", "larger than max"),
    Row("method that does not exist", "MmdService/Steal", raw(b""), "UNIMPLEMENTED", "Method not found"),
    Row(
        "request id of 4 KiB",
        GET_JOB,
        lambda _: finetuning_pb2.GetJobRequest(job_id="none"),
        "NOT_FOUND",
        "none",
        (("x-request-id", "a" * 4096),),
    ),
    Row(
        "request id with a quote",
        GET_JOB,
        lambda _: finetuning_pb2.GetJobRequest(job_id="none"),
        "NOT_FOUND",
        "none",
        (("x-request-id", 'a","level":"error'),),
    ),
    Row(
        "binary request id",
        GET_JOB,
        lambda _: finetuning_pb2.GetJobRequest(job_id="none"),
        "NOT_FOUND",
        "none",
        (("x-request-id-bin", b"\0\xff"),),
    ),
    Row(
        "metadata of 64 KiB",
        GET_JOB,
        lambda _: finetuning_pb2.GetJobRequest(job_id="none"),
        "RESOURCE_EXHAUSTED",
        "metadata",
        (("x-junk", "a" * 65_536),),
    ),
)
