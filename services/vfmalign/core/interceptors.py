"""What happens around every call on a server: request id, metrics, log, and errors turned into statuses.

Servicers raise errors of the tree and know nothing of this. Whatever else they raise becomes INTERNAL with a generic
text; the trace goes to the log alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from vfmalign.core import logs, metrics
from vfmalign.core.errors import Internal, VfmalignError
from vfmalign.core.statuses import DETAILS_KEY, code_of, to_status

_QUIET = frozenset({"grpc.health.v1.Health"})
_LOG = logs.get("rpc")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps unary and server-streaming calls."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the method's handler with our wrapping around its function."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        method = handler_call_details.method
        offered = dict(handler_call_details.invocation_metadata or ()).get(logs.REQUEST_ID_HEADER)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _wrap_stream(handler.unary_stream, method, offered),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _wrap_unary(handler.unary_unary, method, offered),
            handler.request_deserializer,
            handler.response_serializer,
        )


def register_methods(services: dict[str, list[tuple[str, bool]]]) -> None:
    """Makes the metrics of every method exist from the start.

    Args:
        services: per full service name its methods and whether each streams its response.
    """
    for service, methods in services.items():
        for method, streams in methods:
            labels = ("server_stream" if streams else "unary", service, method)
            metrics.grpc_started.labels(*labels)
            metrics.grpc_handling_seconds.labels(*labels)
            for code in grpc.StatusCode:
                metrics.grpc_handled.labels(*labels, code.name)


def _wrap_unary(function: Any, method: str, offered: Any) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        async with _around(context, method, offered, "unary"):
            return await function(request, context)

    return call


def _wrap_stream(function: Any, method: str, offered: Any) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        async with _around(context, method, offered, "server_stream"):
            async for response in function(request, context):
                yield response

    return call


@asynccontextmanager
async def _around(
    context: grpc.aio.ServicerContext[Any, Any], method: str, offered: Any, kind: str
) -> AsyncIterator[None]:
    identity = logs.accept_request_id(offered if isinstance(offered, str) else None)
    logs.request_id.set(identity)
    service, name = method.lstrip("/").split("/", 1)
    metrics.grpc_started.labels(kind, service, name).inc()
    started = time.perf_counter()
    code = grpc.StatusCode.OK
    failure: VfmalignError | None = None
    try:
        yield
    except VfmalignError as error:
        failure = error
    except (asyncio.CancelledError, GeneratorExit):
        code = grpc.StatusCode.CANCELLED
        raise
    except grpc.aio.AbortError:
        code = grpc.StatusCode.UNKNOWN
        raise
    except Exception:
        _LOG.exception("the call failed by a fault of ours", method=method)
        failure = Internal(
            "the service failed", remedy=f"ask its operator to look for request id {identity} in the log"
        )
    finally:
        if failure is not None:
            code = code_of(failure)
        _account((kind, service, name), code, time.perf_counter() - started, failure)
    if failure is not None:
        status = to_status(failure, identity)
        trailers = ((DETAILS_KEY, status.SerializeToString()), (logs.REQUEST_ID_HEADER, identity))
        await context.abort(code_of(failure), status.message, trailers)


def _account(
    method: tuple[str, str, str], code: grpc.StatusCode, seconds: float, failure: VfmalignError | None
) -> None:
    metrics.grpc_handled.labels(*method, code.name).inc()
    metrics.grpc_handling_seconds.labels(*method).observe(seconds)
    _, service, name = method
    if service in _QUIET:
        return
    fields: dict[str, Any] = {"method": f"{service}/{name}", "code": code.name, "seconds": round(seconds, 4)}
    if failure is not None:
        fields |= {"reason": failure.reason, "error": str(failure)}
    _LOG.info("call", **fields)
