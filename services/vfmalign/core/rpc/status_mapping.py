"""Converts errors to gRPC statuses on servers, and statuses to errors on clients.

Every error carries `google.rpc.ErrorInfo`: the reason, the domain `vfmalign`, and metadata with message, subject and
remedy. If data are lost, the metadata also contain `kind` and `owner`. Invalid input also carries `BadRequest`, and
errors that may be retried carry `RetryInfo`.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from vfmalign.core.domain import errors

DOMAIN = "vfmalign"
DETAILS_KEY = "grpc-status-details-bin"
NO_RETRY = ("grpc-retry-pushback-ms", "-1")
"""Trailer that keeps the caller's gRPC from repeating a call (gRFC A6)."""
_MAX_TEXT = 1000
"""Maximum bytes of one text in the trailers: gRPC replaces a status with more than 8 KiB of trailers by its own."""
_ESCAPE_BYTES = 3
"""Bytes of the message of a status for each byte that is not printable ASCII, such as `%C3`."""
# gRPC's messages if only one side uses TLS, or one side rejects the other's certificate.
_BROKEN_HANDSHAKE = re.compile(r"handshake failed|Socket closed|Connection reset", re.IGNORECASE)
# gRPC's text for a message beyond a limit. gRPC rejects it before vfmalign sees it, so there is no ErrorInfo.
_LARGER_THAN_MAX = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")
_ANSWER = re.compile(r"CLIENT: Received|SERVER: Sent")
MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
REQUEST_TOO_LARGE = (
    "upload features (`CreateUpload` of MmdService, `client.mmd.upload` in Python) or a zip of a study's DICOM files "
    "(`CreateStudyUpload` of FeatureService, `client.features.upload_study`), and send less of anything else, such as "
    "observations"
)

CODES: dict[type[errors.VfmalignError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
    errors.Conflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}


def get_status_code(error: errors.VfmalignError) -> grpc.StatusCode:
    """Returns the status code of an error's class, or of its nearest base class in the table."""
    for cls in type(error).__mro__:
        if cls in CODES:
            return CODES[cls]
    return grpc.StatusCode.INTERNAL


def to_status(error: errors.VfmalignError, request_id: str) -> status_pb2.Status:
    """Packs an error."""
    metadata = {"subject": error.subject, "remedy": error.remedy, "message": error.message, "request_id": request_id}
    if isinstance(error, errors.DataLoss):
        metadata |= {"kind": error.kind, "owner": error.owner}
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=DOMAIN,
        metadata={name: _shorten(text) for name, text in metadata.items() if text},
    )
    details = [_pack(info)]
    if isinstance(error, errors.InvalidInput) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=_shorten(error.message))
        details.append(_pack(error_details_pb2.BadRequest(field_violations=[violation])))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(timedelta(seconds=error.retry_after_s))
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    code: int = get_status_code(error).value[0]
    return status_pb2.Status(code=code, message=_shorten(str(error), _ESCAPE_BYTES), details=details)


def _shorten(text: str, escape_bytes: int = 1) -> str:
    """Returns the beginning of a text that has at most `_MAX_TEXT` bytes, counting some as `escape_bytes` each."""
    used_bytes = 0
    for place, character in enumerate(text):
        is_plain = " " <= character <= "~" and character != "%"
        used_bytes += 1 if is_plain else escape_bytes * len(character.encode())
        if used_bytes > _MAX_TEXT:
            return text[:place]
    return text


def from_rpc_error(error: grpc.RpcError, target: str) -> errors.VfmalignError:
    """Unpacks the error of a failed call.

    The class of an error without vfmalign's details follows from its status code.

    Args:
        error: the exception that the call raised.
        target: name of the service, for errors without a subject.
    """
    code = error.code()
    cls = next((cls for cls, known in CODES.items() if known is code), errors.Internal)
    info, field, retry_after_s = _details(error)
    if info is None:
        text = error.details() or code.name
        if (match := _LARGER_THAN_MAX.search(text)) is not None:
            return _to_too_large(match, target)
        unpacked = cls(text, subject=target, remedy=_get_remedy(cls, text), reason=code.name)
        if retry_after_s is not None:
            unpacked.retry_after_s = retry_after_s
        return unpacked
    cls = _by_reason().get(info.reason, cls)
    if cls is errors.Exhausted and retry_after_s is None:
        cls = errors.TooLarge  # its reason may name the limit, such as MESSAGE_TOO_LARGE
    unpacked = _rebuild(cls, info, field, error.details() or code.name)
    # vfmalign's servers always send the delay: without RetryInfo, a retry is pointless.
    unpacked.retry_after_s = retry_after_s
    return unpacked


def _get_remedy(cls: type[errors.VfmalignError], text: str) -> str:
    """Returns the remedy for an error of gRPC itself."""
    if cls is errors.DeadlineExceeded:
        return "run `vfmalign doctor`, which tests whether services and object storage answer, or set a longer timeout"
    if cls is not errors.Unavailable:
        return "see its log"
    if _BROKEN_HANDSHAKE.search(text) is None:
        return "check that the service runs and repeat the call"
    return (
        "check that the service runs, and check the files for TLS: for a service with TLS, VFMALIGN_CA_FILE names its "
        "authority; for one without, it is unset; if the service asks callers for a certificate, VFMALIGN_CERT_FILE "
        "and VFMALIGN_KEY_FILE name it"
    )


def _to_too_large(match: re.Match[str], target: str) -> errors.TooLarge:
    """Returns the error for a message that gRPC itself refused."""
    size, limit = map(int, match.groups())
    is_answer = _ANSWER.search(match.string) is not None
    return errors.TooLarge(
        f"the {'answer' if is_answer else 'request'} has {size:,} bytes, and the limit is {limit:,}",
        subject=target,
        remedy="ask for less at once, such as fewer layers" if is_answer else REQUEST_TOO_LARGE,
        reason=MESSAGE_TOO_LARGE,
    )


def _rebuild(
    cls: type[errors.VfmalignError], info: error_details_pb2.ErrorInfo, field: str, text: str
) -> errors.VfmalignError:
    message = info.metadata.get("message", text)
    subject, remedy = info.metadata.get("subject", ""), info.metadata.get("remedy", "")
    if issubclass(cls, errors.InvalidInput):
        return cls(message, field=field, subject=subject, remedy=remedy, reason=info.reason)
    if issubclass(cls, errors.DataLoss):
        lost = {name: info.metadata.get(name, "") for name in ("kind", "owner")}
        return cls(message, **lost, subject=subject, remedy=remedy, reason=info.reason)
    return cls(message, subject=subject, remedy=remedy, reason=info.reason)


def _details(error: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo | None, str, float | None]:
    """Returns ErrorInfo, the path of the wrong field, and the seconds after which to retry, as far as they are sent."""
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
    """Returns the error classes by their default reason."""
    by_reason: dict[str, type[errors.VfmalignError]] = {}
    pending: list[type[errors.VfmalignError]] = [errors.VfmalignError]
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        # A class that inherits its reason is private to its service: clients see the class that defines the reason.
        if cls is not errors.VfmalignError and "reason" in vars(cls):
            by_reason[cls.reason] = cls
    return by_reason


def _pack(message: Message) -> any_pb2.Any:
    result = any_pb2.Any()
    result.Pack(message)
    return result
