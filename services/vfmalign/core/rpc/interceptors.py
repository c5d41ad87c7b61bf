"""Server interceptor: request id, metrics, access log and conversion of errors to statuses.

Servicers raise errors of `core.domain.errors`. Any other exception becomes INTERNAL with a generic message; its
traceback is written to the log alone, because it may contain data.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import grpc
from prometheus_client import Counter, Histogram

from vfmalign.core.domain.errors import Internal, Unavailable, VfmalignError
from vfmalign.core.rpc.status_mapping import DETAILS_KEY, get_status_code, to_status
from vfmalign.core.runtime import logs, metrics

# A client cancels at its own deadline, a moment before the server notices its own. A call that is cancelled this close
# to the deadline is counted as DEADLINE_EXCEEDED.
_DEADLINE_SLACK_S = 0.1
_QUIET = frozenset({"grpc.health.v1.Health"})
_ALWAYS_OPEN = "grpc."
"""Prefix of the services that answer while the process starts and shuts down: health and reflection."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_LOG = logs.get("rpc")


@dataclass
class Gate:
    """Admits calls; rejects them while the process starts or shuts down."""

    state: Literal["loading", "open", "draining"] = "loading"

    def check(self, service: str) -> None:
        """Checks that a call is admitted.

        Raises:
            Unavailable: the process starts or shuts down.
        """
        if self.state == "open" or service.startswith(_ALWAYS_OPEN):
            return
        activity = "starting" if self.state == "loading" else "shutting down"
        raise Unavailable(
            f"the server is {activity}",
            subject=service.rsplit(".", 1)[-1],
            remedy="try again later",
            reason=self.state.upper(),
        )


@dataclass(frozen=True)
class _Method:
    """A method and its metrics, which are registered before the first call."""

    service: str
    name: str
    started: Counter
    seconds: Histogram
    handled: Mapping[grpc.StatusCode, Counter]

    @classmethod
    def create(cls, service: str, name: str, *, streams: bool) -> _Method:
        """Registers the metrics of a method; `streams` where it streams its response."""
        labels = ("server_stream" if streams else "unary", service, name)
        return cls(
            service,
            name,
            metrics.grpc_started.labels(*labels),
            metrics.grpc_handling_seconds.labels(*labels),
            {code: metrics.grpc_handled.labels(*labels, code.name) for code in grpc.StatusCode},
        )

    def account(self, code: grpc.StatusCode, seconds: float, failure: VfmalignError | None) -> None:
        """Counts and logs a finished call."""
        self.handled[code].inc()
        self.seconds.observe(seconds)
        if self.service in _QUIET:
            return
        fields: dict[str, Any] = {
            "method": f"{self.service}/{self.name}",
            "code": code.name,
            "seconds": round(seconds, 4),
        }
        if failure is not None:
            fields |= {"reason": failure.reason, "error": str(failure)}
        _LOG.info("call", **fields)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps unary and server-streaming calls.

    Args:
        gate: admits or rejects calls.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the method's wrapped handler; each method is wrapped once."""
        path = handler_call_details.method
        if path in self._wrapped:
            return self._wrapped[path]
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # unknown method; not cached, because clients could fill the cache with invented paths
        self._wrapped[path] = self._wrap(handler, path)
        return self._wrapped[path]

    def _wrap(self, handler: grpc.RpcMethodHandler[Any, Any], path: str) -> grpc.RpcMethodHandler[Any, Any]:
        service, name = path.lstrip("/").split("/", 1)
        # The health service's Watch writes through its context instead of yielding, and never ends by itself.
        if handler.request_streaming or (handler.response_streaming and service in _QUIET):
            return handler
        method = _Method.create(service, name, streams=handler.response_streaming)
        codec = handler.request_deserializer, handler.response_serializer
        if handler.response_streaming:
            function = self._streaming(handler.unary_stream, method)
            return grpc.unary_stream_rpc_method_handler(function, *codec)
        function = self._unary(handler.unary_unary, method)
        return grpc.unary_unary_rpc_method_handler(function, *codec)

    def _unary(self, function: Any, method: _Method) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with _around(self._gate, context, method):
                return await function(request, context)

        return call

    def _streaming(self, function: Any, method: _Method) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with _around(self._gate, context, method), aclosing(function(request, context)) as responses:
                async for response in responses:
                    yield response

        return call


def register_methods(services: dict[str, list[tuple[str, bool]]]) -> None:
    """Registers the metrics of every method, so that they are exported before the first call.

    Args:
        services: per full service name, its methods and whether each streams its response.
    """
    for service, methods in services.items():
        for name, streams in methods:
            _Method.create(service, name, streams=streams)


@asynccontextmanager
async def _around(gate: Gate, context: grpc.aio.ServicerContext[Any, Any], method: _Method) -> AsyncIterator[None]:
    offered = dict(context.invocation_metadata() or ()).get(logs.REQUEST_ID_HEADER)
    identity = logs.accept_request_id(offered if isinstance(offered, str) else None)
    logs.request_id.set(identity)
    method.started.inc()
    started = time.perf_counter()
    code = grpc.StatusCode.OK
    failure: VfmalignError | None = None
    try:
        gate.check(method.service)
        yield
    except VfmalignError as error:
        failure = error
    except (asyncio.CancelledError, GeneratorExit):
        left_s = context.time_remaining()
        late = left_s is not None and left_s <= _DEADLINE_SLACK_S
        code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
        raise
    except grpc.aio.AbortError:
        code = _code_in(context)
        raise
    except NotImplementedError:
        code = grpc.StatusCode.UNIMPLEMENTED
        await context.abort(code, f"{method.service} has no {method.name} in this version")
    except Exception:
        _LOG.exception("call_crashed", method=f"{method.service}/{method.name}")
        failure = Internal(
            "internal error", remedy=f"report request id {identity} to the operator, who finds the cause in the log"
        )
    finally:
        if failure is not None:
            code = get_status_code(failure)
        method.account(code, time.perf_counter() - started, failure)
    if failure is not None:
        status = to_status(failure, identity)
        trailers = ((DETAILS_KEY, status.SerializeToString()), (logs.REQUEST_ID_HEADER, identity))
        await context.abort(get_status_code(failure), status.message, trailers)


def _code_in(context: grpc.aio.ServicerContext[Any, Any]) -> grpc.StatusCode:
    code: Any = context.code()
    return code if isinstance(code, grpc.StatusCode) else _CODES.get(code, grpc.StatusCode.UNKNOWN)
