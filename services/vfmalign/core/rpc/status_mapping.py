"""The one table between our errors and gRPC statuses, used both ways: by servers to pack and by clients to unpack.

Every error carries `google.rpc.ErrorInfo` (reason, domain `vfmalign`, metadata naming the object and the remedy); bad
input also carries `BadRequest`, and what may be retried `RetryInfo`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from vfmalign.core.domain import errors

DOMAIN = "vfmalign"
DETAILS_KEY = "grpc-status-details-bin"
_MAX_TEXT = 1000
"""Characters of one text in the trailers: HTTP/2 peers refuse large headers."""

CODES: dict[type[errors.VfmalignError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Conflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}


def code_of(error: errors.VfmalignError) -> grpc.StatusCode:
    """The status code of an error: that of its class or its nearest base in the table."""
    for cls in type(error).__mro__:
        if cls in CODES:
            return CODES[cls]
    return grpc.StatusCode.INTERNAL


def to_status(error: errors.VfmalignError, request_id: str) -> status_pb2.Status:
    """Packs an error."""
    metadata = {"subject": error.subject, "remedy": error.remedy, "message": error.message, "request_id": request_id}
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=DOMAIN,
        metadata={name: text[:_MAX_TEXT] for name, text in metadata.items() if text},
    )
    details = [_packed(info)]
    if isinstance(error, errors.InvalidInput) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message[:_MAX_TEXT]
        )
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(timedelta(seconds=error.retry_after_s))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    code: int = code_of(error).value[0]
    return status_pb2.Status(code=code, message=str(error)[:_MAX_TEXT], details=details)


def from_rpc_error(error: grpc.RpcError, target: str) -> errors.VfmalignError:
    """Unpacks a failed call into the tree; an error that is not ours becomes the class of its code.

    Args:
        error: what the call raised.
        target: name of the service that was called, for errors that name no object.
    """
    code = error.code()
    cls = next((cls for cls, known in CODES.items() if known is code), errors.Internal)
    info, field, retry_after_s = _details(error)
    if info is None:
        text = error.details() or code.name
        remedy = "check that the service runs and repeat the call" if cls is errors.Unavailable else "see its log"
        found = cls(text, subject=target, remedy=remedy, reason=code.name)
        if retry_after_s is not None:
            found.retry_after_s = retry_after_s
        return found
    found = _rebuilt(_by_reason().get(info.reason, cls), info, field, error.details() or code.name)
    # Our servers always say when to come back: silence means that a retry is pointless.
    found.retry_after_s = retry_after_s
    return found


def _rebuilt(
    cls: type[errors.VfmalignError], info: error_details_pb2.ErrorInfo, field: str, text: str
) -> errors.VfmalignError:
    message = info.metadata.get("message", text)
    subject, remedy = info.metadata.get("subject", ""), info.metadata.get("remedy", "")
    if issubclass(cls, errors.InvalidInput):
        return cls(message, field=field, subject=subject, remedy=remedy, reason=info.reason)
    return cls(message, subject=subject, remedy=remedy, reason=info.reason)


def _details(error: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo | None, str, float | None]:
    """What the error's details say: whose error it is, the offending field, and when to repeat the call, in seconds."""
    info: error_details_pb2.ErrorInfo | None = None
    field = ""
    retry_after_s: float | None = None
    trailers: Any = error.trailing_metadata() or ()
    for key, value in trailers:
        if key != DETAILS_KEY:
            continue
        for detail in status_pb2.Status.FromString(value).details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo()
                detail.Unpack(info)
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                request = error_details_pb2.BadRequest()
                detail.Unpack(request)
                field = request.field_violations[0].field if request.field_violations else ""
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo()
                detail.Unpack(retry)
                retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return info, field, retry_after_s


def _by_reason() -> dict[str, type[errors.VfmalignError]]:
    """Classes by their default reason."""
    found: dict[str, type[errors.VfmalignError]] = {}
    waiting: list[type[errors.VfmalignError]] = [errors.VfmalignError]
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        # A class that inherits its reason is a detail of its own room: clients see the class that the reason is of.
        if cls is not errors.VfmalignError and "reason" in vars(cls):
            found[cls.reason] = cls
    return found


def _packed(message: Message) -> any_pb2.Any:
    result = any_pb2.Any()
    result.Pack(message)
    return result
