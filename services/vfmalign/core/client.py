"""Channels to our services: deadlines, retries, the request id, and errors that come back as the tree.

A call is retried by gRPC itself while the service answers UNAVAILABLE (service config); all else is raised once.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from vfmalign.core import logs
from vfmalign.core.server import message_limits
from vfmalign.core.statuses import from_rpc_error

MESSAGE_BYTES = 16 * 2**20
CALL_TIMEOUT_S = 60.0
STREAM_TIMEOUT_S = 24 * 3600.0

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}

_T = TypeVar("_T")


def connect(
    address: str, *, call_timeout_s: float = CALL_TIMEOUT_S, stream_timeout_s: float = STREAM_TIMEOUT_S
) -> grpc.aio.Channel:
    """Opens a channel; it connects at the first call and again after every loss.

    Args:
        address: `host:port`, or any gRPC target.
        call_timeout_s: deadline of unary calls that set none, in seconds.
        stream_timeout_s: deadline of streaming calls that set none, in seconds.
    """
    return grpc.aio.insecure_channel(
        address,
        options=[
            *message_limits(MESSAGE_BYTES),
            ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
            ("grpc.enable_retries", 1),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ],
        interceptors=[_Unary(call_timeout_s), _Stream(stream_timeout_s)],
    )


@contextmanager
def translated(target: str) -> Iterator[None]:
    """Turns failed calls in its body into errors of the tree.

    Args:
        target: name of the service, for errors that name no object.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, target) from None


async def stream(call: grpc.aio.UnaryStreamCall[Any, _T], target: str) -> AsyncIterator[_T]:
    """The messages of a streaming call; it is cancelled when the reader stops early."""
    try:
        with translated(target):
            async for message in call:
                yield message
    finally:
        call.cancel()


def _prepared(details: grpc.aio.ClientCallDetails, timeout_s: float) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    if metadata.get(logs.REQUEST_ID_HEADER) is None:
        metadata.add(logs.REQUEST_ID_HEADER, logs.request_id.get() or logs.accept_request_id(None))
    timeout = details.timeout if details.timeout is not None else timeout_s
    return grpc.aio.ClientCallDetails(details.method, timeout, metadata, details.credentials, details.wait_for_ready)


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_prepared(client_call_details, self._timeout_s), request)


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_prepared(client_call_details, self._timeout_s), request)
