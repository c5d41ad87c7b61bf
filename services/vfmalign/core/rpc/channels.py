"""Channels to vfmalign's services with deadlines, retries, request ids and typed errors.

gRPC itself retries a call while the service answers UNAVAILABLE (service config, gRFC A6). Retries are safe because all
RPCs are idempotent. For RPCs that create an object, the client chooses the id. All other RPCs compute or read. If a
full service rejects a unary call, this module repeats the call after the delay that the service states. gRPC itself
ignores this delay.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import grpc

from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.rpc import tls
from vfmalign.core.rpc.access.credentials import TENANT, BearerToken
from vfmalign.core.rpc.status_mapping import from_rpc_error
from vfmalign.core.rpc.tls import TlsFiles
from vfmalign.core.rpc.transport import MESSAGE_BYTES, message_limits
from vfmalign.core.runtime import logs

CALL_TIMEOUT_S = 60.0
STREAM_TIMEOUT_S = 24 * 3600.0

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def connect(
    address: str,
    *,
    call_timeout_s: float = CALL_TIMEOUT_S,
    stream_timeout_s: float = STREAM_TIMEOUT_S,
    wait_for_ready: bool = False,
    files: TlsFiles | None = None,
    token: BearerToken | None = None,
    tenant: str = "",
) -> grpc.aio.Channel:
    """Opens a channel. The channel connects at the first call, and reconnects when the connection is lost.

    Calls raise the errors of `core.domain.errors`. Calls carry the running context's request id or a new request id.

    Args:
        address: `host:port`, or any gRPC target.
        call_timeout_s: default deadline of unary calls, in seconds.
        stream_timeout_s: default deadline of streaming calls, in seconds.
        wait_for_ready: if true, calls wait until their deadline for a service that is not reachable yet.
        files: the caller's TLS files. Without these files, calls are not encrypted.
        token: token that is sent with calls; None for calls without a token.
        tenant: tenant for which calls act; empty for the caller's only tenant.

    Raises:
        OSError: a TLS file cannot be read.
        BadOption: the token would leave this machine unencrypted.
    """
    if token is not None:
        token.check_channel(address, encrypted=files is not None)
    method = {"name": [{}], "waitForReady": wait_for_ready, "retryPolicy": _RETRY_POLICY}
    config = {"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [method]}
    return tls.open_channel(
        address,
        files,
        options=[
            *message_limits(MESSAGE_BYTES, MESSAGE_BYTES),
            ("grpc.service_config", json.dumps(config)),
            ("grpc.enable_retries", 1),
            # By default 30 s: for so long, a client would keep the addresses of pods that a rollout has just replaced.
            ("grpc.dns_min_time_between_resolutions_ms", 1_000),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ],
        interceptors=[_Unary(call_timeout_s, token, tenant), _Stream(stream_timeout_s, token, tenant)],
    )


class _Interceptor:
    """Adds deadline, request id, token and tenant to calls."""

    def __init__(self, timeout_s: float, token: BearerToken | None, tenant: str) -> None:
        self._timeout_s = timeout_s
        self._token = token
        self._tenant = tenant

    def _prepare(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        if logs.REQUEST_ID_HEADER not in {key for key, _ in metadata}:
            metadata.add(logs.REQUEST_ID_HEADER, logs.request_id.get() or logs.accept_request_id(None))
        if self._token is not None:
            metadata.add(*self._token.get_metadata())
        if self._tenant:
            metadata.add(TENANT, self._tenant)
        timeout = details.timeout if details.timeout is not None else self._timeout_s
        return grpc.aio.ClientCallDetails(
            details.method, timeout, metadata, details.credentials, details.wait_for_ready
        )


def _target(details: grpc.aio.ClientCallDetails) -> str:
    """Returns the service's short name, such as `MmdService`."""
    method: str | bytes = details.method
    text = method.decode() if isinstance(method, bytes) else method
    return text.split("/")[1].rsplit(".", 1)[-1]


def _get_delay_s(failure: VfmalignError) -> float:
    """Returns the seconds after which a full service may accept the call; infinite for other failures."""
    is_full = failure.reason == "QUEUE_FULL" and failure.retry_after_s is not None
    return failure.retry_after_s or 0.0 if is_full else math.inf


class _Unary(_Interceptor, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, _Request], Awaitable[grpc.aio.UnaryUnaryCall[_Request, _Response]]
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> grpc.aio.UnaryUnaryCall[_Request, _Response]:
        details, loop = self._prepare(client_call_details), asyncio.get_running_loop()
        end_s = loop.time() + (details.timeout or 0.0)
        while True:
            call = await continuation(details, request)
            try:
                await call
            except grpc.aio.AioRpcError as error:
                delay_s = _get_delay_s(from_rpc_error(error, ""))
                if loop.time() + delay_s >= end_s:
                    raise from_rpc_error(error, _target(client_call_details)) from None
            else:
                return call
            await asyncio.sleep(delay_s)
            details = grpc.aio.ClientCallDetails(
                details.method, end_s - loop.time(), details.metadata, details.credentials, details.wait_for_ready
            )


class _Stream(_Interceptor, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, _Request], Awaitable[grpc.aio.UnaryStreamCall[_Request, _Response]]
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> AsyncIterator[_Response]:
        call = await continuation(self._prepare(client_call_details), request)
        return _messages(call, _target(client_call_details))


async def _messages(call: grpc.aio.UnaryStreamCall[_Request, _Response], target: str) -> AsyncIterator[_Response]:
    """Yields the messages of a streaming call and cancels it when the reader stops early."""
    try:
        async for message in call:
            yield message
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, target) from None
    finally:
        call.cancel()
