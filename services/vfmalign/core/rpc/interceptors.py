"""Server interceptor: identity, admission, bounds of requests, request id, metrics, log and conversion of errors.

For every call, the interceptor makes three checks in this order: the service is open; the caller is authenticated and
may call the RPC; the caller is below its limit of concurrent calls. Then the interceptor reserves memory for the
request, and reads and checks the request. Until gRPC has finished a call, the call counts towards its caller's limit,
and its response occupies memory.

Handlers of unary requests are registered as handlers of request streams, which look the same on the wire. The handler
then decides when to read the message: after it has reserved memory, and within a time limit. Messages that cannot be
parsed cause an error as usual.

Servicers raise errors of `core.domain.errors`. Any other exception becomes INTERNAL with a generic message. Only the
log contains the traceback, which may include data.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import grpc
from google.protobuf.message import Message

from vfmalign.core.domain.errors import (
    Forbidden,
    Internal,
    InvalidInput,
    PacsUnavailable,
    TooLarge,
    Unavailable,
    VfmalignError,
)
from vfmalign.core.rpc.access.authentication import Authenticator, get_key_id
from vfmalign.core.rpc.access.authorisation import check_access, choose_tenant, needs_identity
from vfmalign.core.rpc.access.identity import current_identity, current_tenant
from vfmalign.core.rpc.audit.events import CallAudit
from vfmalign.core.rpc.audit.trail import AuditTrail
from vfmalign.core.rpc.call_endings import Ending, get_code, get_refusal_s, is_late
from vfmalign.core.rpc.call_log import CallLog
from vfmalign.core.rpc.call_metrics import Method
from vfmalign.core.rpc.limits.admission import Context, Reservation
from vfmalign.core.rpc.limits.bounds import parse_request
from vfmalign.core.rpc.limits.holds import Hold, Holds
from vfmalign.core.rpc.status_mapping import (
    DETAILS_KEY,
    MESSAGE_TOO_LARGE,
    NO_RETRY,
    REQUEST_TOO_LARGE,
    get_status_code,
    to_status,
)
from vfmalign.core.runtime import logs, metrics
from vfmalign.core.runtime.fair_gate import FairGate, QueueFull
from vfmalign.core.runtime.key_locks import KeyLocks
from vfmalign.core.runtime.threads import MESSAGES
from vfmalign.core.runtime.work_context import limit_work

_LARGE_MESSAGE_BYTES = 2**18
_CANCELLATION_S = 1.0
"""Time within which gRPC cancels a call after the end of its requests, in seconds; usually it takes milliseconds."""
_QUIET = frozenset({"grpc.health.v1.Health"})
_ALWAYS_OPEN = "grpc."
"""Prefix of the services that answer while the process starts and shuts down: health and reflection."""
_LOG = logs.get("rpc")

_Parse = Callable[[bytes], Message]
_Serialise = Callable[[Message], bytes]
_Unary = Callable[[Message, Context], Awaitable[Message]]
_Streaming = Callable[[Message, Context], AsyncGenerator[Message, None]]
_Conversation = Callable[[AsyncIterator[Message], Context], AsyncGenerator[Message, None]]
_Wrapped = Callable[[object, Context], Awaitable[bytes] | AsyncIterator[bytes]]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass
class Gate:
    """Admits calls. While the process starts or shuts down, rejects all calls."""

    state: Literal["loading", "open", "draining"] = "loading"

    def check(self, service: str) -> None:
        """Checks that the server is ready to admit a call.

        Raises:
            Unavailable: the process is starting or shutting down.
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


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every call.

    Args:
        gate: admits or rejects calls.
        authenticator: identifies callers.
        holds: limits the calls and the memory of callers.
        audit: records who called what.
    """

    def __init__(self, gate: Gate, authenticator: Authenticator, holds: Holds, audit: AuditTrail) -> None:
        self._gate = gate
        self._authenticator = authenticator
        self._holds = holds
        self._audit = audit
        self._log = CallLog()
        self._wrapped: dict[str, _Handler] = {}
        self._turns = KeyLocks()
        self._full: dict[str, dict[FairGate, None]] = {}  # gates that have refused calls, by path

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Returns the method's wrapped handler. Each method is wrapped only once."""
        path = handler_call_details.method
        if path in self._wrapped:
            return self._wrapped[path]
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # unknown method; not cached, because clients could fill the cache with invented paths
        self._wrapped[path] = self._wrap(handler, path)
        return self._wrapped[path]

    def _wrap(self, handler: Any, path: str) -> _Handler:  # the stub of handlers has only the synchronous API
        service, name = path.lstrip("/").split("/", 1)
        parse, serialise = handler.request_deserializer, handler.response_serializer
        if handler.request_streaming:  # reflection
            method = Method.create(service, name, "bidi_stream")
            return grpc.stream_stream_rpc_method_handler(
                self._conversation(handler.stream_stream, method, parse, serialise)
            )
        method = Method.create(service, name, "server_stream" if handler.response_streaming else "unary")
        if not handler.response_streaming:
            return grpc.stream_unary_rpc_method_handler(self._unary(handler.unary_unary, method, parse, serialise))
        return grpc.stream_stream_rpc_method_handler(self._streaming(handler.unary_stream, method, parse, serialise))

    def _unary(self, function: _Unary, method: Method, parse: _Parse, serialise: _Serialise) -> _Wrapped:
        async def serve(context: Context, hold: Hold, audit: CallAudit) -> bytes:
            async with self._request(context, parse, hold) as request:
                audit.begin(request)
                response = await function(request, context)
                audit.add_response(response)
                answer = serialise(response)
                del response
            await hold.send(answer)
            return answer

        async def call(_: object, context: Context) -> bytes:
            async with self._around(context, method) as ending:
                return await serve(context, await self._admit(context, method, ending), ending.audit)
            return await ending.abort(context)

        return call

    def _streaming(self, function: _Streaming, method: Method, parse: _Parse, serialise: _Serialise) -> _Wrapped:
        async def serve(context: Context, hold: Hold, audit: CallAudit) -> AsyncGenerator[bytes, None]:
            async with self._request(context, parse, hold) as request:
                audit.begin(request)
                async with aclosing(function(request, context)) as responses:
                    async for response in responses:
                        audit.add_response(response)
                        yield serialise(response)

        return self._stream(serve, method)

    def _conversation(self, function: _Conversation, method: Method, parse: _Parse, serialise: _Serialise) -> _Wrapped:
        """Wraps a handler of a stream of requests."""

        async def serve(context: Context, hold: Hold, _: CallAudit) -> AsyncGenerator[bytes, None]:
            async with aclosing(function(self._requests(context, parse, hold), context)) as responses:
                async for response in responses:
                    yield serialise(response)

        return self._stream(serve, method)

    def _stream(
        self, serve: Callable[[Context, Hold, CallAudit], AsyncGenerator[bytes, None]], method: Method
    ) -> _Wrapped:
        async def call(_: object, context: Context) -> AsyncIterator[bytes]:
            async with self._around(context, method) as ending:
                hold = await self._admit(context, method, ending)
                async with aclosing(serve(context, hold, ending.audit)) as answers:
                    async for answer in answers:
                        await hold.send(answer)
                        yield answer
                        hold.taken()
                return
            await ending.abort(context)

        return call

    @asynccontextmanager
    async def _request(self, context: Context, parse: _Parse, hold: Hold) -> AsyncIterator[Message]:
        """Reads and checks the request of a call. Its memory is freed when the block ends."""
        full = self._full.setdefault(hold.path, {})
        try:
            with ExitStack() as expected:
                tried = [gate for gate in full if expected.enter_context(gate.expect())]
                async with hold.admission.reserve(hold.caller) as reservation:
                    with limit_work(context.time_remaining()):
                        request = await self._read(context, parse, hold, reservation)
                        expected.close()
                        if request is not None:
                            yield request
                            for gate in tried:
                                gate.forgive()
                            return
        except QueueFull as error:
            full[error.gate] = None
            raise
        await _refuse_missing_message(context, hold.admission.message_bytes)

    async def _read(self, context: Context, parse: _Parse, hold: Hold, reservation: Reservation) -> Message | None:
        """Reads, parses and checks the next request of a call; None if there is no further one.

        Parsing a large message takes a while, and must not delay other calls. Each tenant, and each caller within it,
        has at most one message waiting for the thread, so that nobody waits behind all messages of another caller.
        """
        data = await hold.admission.read(context, reservation)
        if data is None or len(data) <= _LARGE_MESSAGE_BYTES:
            return None if data is None else parse_request(parse, data)
        async with self._turns.get(*hold.caller), self._turns.get(hold.caller.tenant):
            return await MESSAGES.run(parse_request, parse, data)

    async def _requests(self, context: Context, parse: _Parse, hold: Hold) -> AsyncIterator[Message]:
        """Yields the requests of a call, each with memory of its own."""
        while True:
            async with hold.admission.reserve(hold.caller) as reservation:
                request = await self._read(context, parse, hold, reservation)
                if request is None:
                    return
                yield request

    async def _admit(self, context: Context, method: Method, ending: Ending) -> Hold:
        """Admits and identifies a call, and returns the resources that it holds."""
        self._gate.check(method.service)
        ending.identifying = True
        await self._identify(context, method)
        ending.identifying = False
        return self._holds.begin(context, method.path)

    async def _identify(self, context: Context, method: Method) -> None:
        """Sets caller and tenant in the running context, and checks that the caller may make this call.

        Raises:
            BadOption: the caller has several tenants, and the call does not name one.
            Unauthenticated: the caller has no valid token.
            Forbidden: the caller may not make this call.
            Unavailable: the issuer's keys cannot be fetched.
        """
        path = method.path
        if needs_identity(path):
            metadata = context.invocation_metadata() or ()
            identity = await self._authenticator.authenticate(metadata)
            current_identity.set(identity)
            tenant = choose_tenant(identity, metadata, path)
            current_tenant.set(tenant)
            logs.bind(tenant=tenant)
            method.count_caller(tenant, check_access(identity, path))

    @asynccontextmanager
    async def _around(self, context: Context, method: Method) -> AsyncIterator[Ending]:
        """Runs a call as the body of the context, and accounts for how it ended.

        Binds the request id to the running context, turns exceptions into a status that carries the request id, and
        counts, times and logs the call, however it ended. If the body fails, the caller aborts the call afterwards.
        """
        offered = dict(context.invocation_metadata() or ()).get(logs.REQUEST_ID_HEADER)
        request_id = logs.accept_request_id(offered if isinstance(offered, str) else None)
        logs.request_id.set(request_id)
        method.started.inc()
        started, time_limit_s = time.perf_counter(), context.time_remaining()
        code = grpc.StatusCode.OK
        failure: VfmalignError | None = None
        ending = Ending(CallAudit(self._audit, method.service, method.name, context.peer()))
        try:
            yield ending
        except VfmalignError as error:
            failure = error.with_traceback(None)  # a traceback refers to this frame and to the handler's frames
            if ending.identifying or isinstance(error, Forbidden):
                metrics.calls_denied.labels(method.service, method.name, error.reason).inc()
                key_id = get_key_id(context.invocation_metadata() or ())
                self._log.log_denial(method.path[1:], error, context.peer(), key_id)
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.DEADLINE_EXCEEDED if is_late(context) else grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = get_code(context)
            raise
        except NotImplementedError:
            code = grpc.StatusCode.UNIMPLEMENTED
            await context.abort(code, f"{method.service} has no {method.name} in this version")
        except Exception:
            _LOG.exception("call_crashed", method=method.path[1:])
            failure = Internal(
                "internal error",
                remedy=f"report request id {request_id} to the operator, who finds the cause in the log",
            )
        finally:
            if failure is not None:
                code = get_status_code(failure)
            seconds = time.perf_counter() - started
            method.account(code, seconds, failure, time_limit_s)
            ending.audit.end(code.name, "" if failure is None else failure.reason)
            if method.service not in _QUIET:
                self._log.log_call(method.path[1:], code.name, seconds, failure)
        if failure is not None:
            status = to_status(failure, request_id)
            # The service has already retried at the PACS; retries by the client's gRPC would multiply these attempts.
            no_retry = (NO_RETRY,) if isinstance(failure, PacsUnavailable) else ()
            ending.trailers = (
                (DETAILS_KEY, status.SerializeToString()),
                (logs.REQUEST_ID_HEADER, request_id),
                *no_retry,
            )
            ending.code, ending.message = get_status_code(failure), status.message
            if failure.reason == "QUEUE_FULL":
                ending.delay_s = get_refusal_s(failure, context)


async def _refuse_missing_message(context: Context, message_bytes: int) -> None:
    """Fails a call after its stream of requests ended without a message.

    If a message exceeds its limit, the handler sees only that the stream ended. gRPC answers the client itself, and
    cancels the call a moment later, as it does if the client leaves before its message is complete.

    Raises:
        TooLarge: the call was cancelled.
        InvalidInput: the call was not cancelled, so the client sent no message.
    """
    try:
        await asyncio.sleep(_CANCELLATION_S)
    except asyncio.CancelledError:
        if is_late(context):
            raise
        raise TooLarge(
            f"the message is larger than {message_bytes:,} bytes, or the client left before it was complete",
            subject="message",
            remedy=REQUEST_TOO_LARGE,
            reason=MESSAGE_TOO_LARGE,
        ) from None
    raise InvalidInput("the call has no message", subject="message", remedy="send one message", reason="NO_MESSAGE")
