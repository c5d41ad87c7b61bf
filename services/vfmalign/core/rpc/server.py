"""Runs a service: listens, warms up, reports readiness, and drains on SIGTERM.

A service has three ports. The first port serves the API, reflection and the health service's `Check`. The second port
serves Prometheus metrics. The third port is a plaintext port for probes and serves only the health service. A service
is ready from the end of its warm-up until it drains. Readiness does not depend on the object store. The health service
also reports `liveness`, which is SERVING as long as the process answers.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.rpc import tls
from vfmalign.core.rpc.access.authentication import Authenticator
from vfmalign.core.rpc.audit.trail import AuditTrail
from vfmalign.core.rpc.call_metrics import register_methods
from vfmalign.core.rpc.interceptors import CallInterceptor, Gate
from vfmalign.core.rpc.limits.admission import Admission
from vfmalign.core.rpc.limits.connections import Connections
from vfmalign.core.rpc.limits.holds import Holds
from vfmalign.core.rpc.reflection import enable_reflection
from vfmalign.core.rpc.transport import MESSAGE_BYTES, MESSAGE_HEADROOM_BYTES, message_limits
from vfmalign.core.runtime import logs, metrics
from vfmalign.core.runtime.auth_settings import is_loopback
from vfmalign.core.runtime.metrics_server import MetricsServer
from vfmalign.core.runtime.settings import EXIT_BAD_SETTINGS, ServerSettings, ServiceSettings

LIVENESS = "liveness"
EXIT_LOOP_ENDED = 1
_METADATA_BYTES = 16 * 2**10
_PROBE_MESSAGE_BYTES = 4 * 2**10
_LONGEST_CALL_MS = 25 * 3_600_000
"""Time for running calls after the maximum age of their connection; clients end streams after a day."""
_FILES = 2**16
_HANDSHAKE_MS = 5_000
ANONYMOUS_CALLS = 32
"""Concurrent calls of all callers without an identity together."""
_ANONYMOUS_READS = 4
_ANONYMOUS_MESSAGE_BYTES = 256
_ANONYMOUS_TIMEOUT_S = 1.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

AddServices = Callable[[grpc.aio.Server], Sequence[ServiceDescriptor]]
"""Adds servicers to a server and returns the descriptors of their services."""

Hook = Callable[[], Awaitable[None] | None]
"""Lifecycle callback of a service; may be asynchronous."""


def _nothing() -> None:
    """Default of the hooks."""


async def serve(
    name: str,
    settings: ServiceSettings,
    add_services: AddServices,
    *,
    ready: Hook = _nothing,
    on_drain: Hook = _nothing,
    stop: Hook = _nothing,
    get_loops: Callable[[], Sequence[asyncio.Task[None]]] = tuple,
    state: health.aio.HealthServicer | None = None,
) -> None:
    """Runs a service until SIGTERM or SIGINT.

    Args:
        name: name of the service in its log.
        settings: ports, limits and log.
        add_services: adds the servicers.
        ready: awaited before the service reports SERVING (load, warm up, migrate). Until the service reports SERVING,
            calls fail with UNAVAILABLE.
        on_drain: awaited when draining begins. `on_drain` ends streams that would never end by themselves.
        stop: awaited after the last call has ended.
        get_loops: called after `ready`. Returns the tasks that run until the service ends. If a task ends by itself,
            the service ends, too.
        state: health service, to which callers may add service names.

    Raises:
        SystemExit: code 2, after one sentence on stderr, if a port cannot be bound or other machines could call without
            authentication. The code is 1 if a loop has ended by itself. The log states the cause.
    """
    _check_mode(settings)
    _raise_file_limit()
    logs.configure(name, settings.log)
    metrics.announce_build()
    log = logs.get("server")
    gate = Gate()
    state = state or health.aio.HealthServicer()
    async with AsyncExitStack() as resources:
        shutdown_requested = _listen_for_signals(resources)
        metrics_port = await _serve_metrics(settings.server, resources)
        health_port = await _serve_probes(settings.server, state, resources)
        server, names, grpc_port = await serve_api(settings, add_services, gate, state, resources)
        await _run(ready)
        gate.state = "open"
        await _set(state, names, _SERVING)
        ports = {"grpc": grpc_port, "metrics": metrics_port, "health": health_port}
        if settings.server.ports_file is not None:
            _write_ports(settings.server.ports_file, ports)
        log.info("serving", **ports)

        ended = await _wait_for_end(shutdown_requested, get_loops())
        for loop in ended:
            log.error("loop_ended", loop=loop.get_name(), exc_info=None if loop.cancelled() else loop.exception())
        log.info("draining", seconds=settings.server.drain_s)
        await _set(state, names, _NOT_SERVING)
        gate.state = "draining"
        await _run(on_drain)
        await server.stop(settings.server.drain_s)
        await _run(stop)
    log.info("stopped")
    if ended:
        raise SystemExit(EXIT_LOOP_ENDED)


async def _wait_for_end(
    shutdown_requested: asyncio.Event, loops: Sequence[asyncio.Task[None]]
) -> list[asyncio.Task[None]]:
    """Waits until the service shuts down or a loop ends; returns the loops that ended before the shutdown."""
    shutdown = asyncio.create_task(shutdown_requested.wait())
    await asyncio.wait((shutdown, *loops), return_when=asyncio.FIRST_COMPLETED)
    if shutdown.done():
        return []
    shutdown.cancel()
    return [loop for loop in loops if loop.done()]


def _check_mode(settings: ServiceSettings) -> None:
    if settings.auth.mode == "off" and not is_loopback(settings.server.host):
        _exit(
            "VFMALIGN_AUTH__MODE is off, but other machines can connect to VFMALIGN_SERVER__HOST; set the mode to oidc "
            "or local, or the host to 127.0.0.1"
        )


def _raise_file_limit() -> None:
    """Raises the soft limit of descriptors, often 1,024, to the hard one: two ports admit 1,000 connections each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _exit(sentence: object) -> NoReturn:
    print(sentence, file=sys.stderr)  # noqa: T201
    raise SystemExit(EXIT_BAD_SETTINGS) from None


def _listen_for_signals(resources: AsyncExitStack) -> asyncio.Event:
    shutdown_requested = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, shutdown_requested.set)
        resources.callback(loop.remove_signal_handler, number)
    return shutdown_requested


async def _serve_metrics(settings: ServerSettings, resources: AsyncExitStack) -> int:
    server = MetricsServer()
    with _exit_if_port_in_use("VFMALIGN_SERVER__METRICS_PORT", settings.metrics_port):
        port = await server.start(settings.host, settings.metrics_port)
    resources.push_async_callback(server.stop)
    return port


async def _serve_probes(settings: ServerSettings, state: health.aio.HealthServicer, resources: AsyncExitStack) -> int:
    options = [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", _PROBE_MESSAGE_BYTES),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        *_idle_limits(settings),
        # A watch ends after this time, and its client begins another one.
        ("grpc.max_connection_age_ms", round(1000 * settings.connection_age_s)),
        ("grpc.max_connection_age_grace_ms", _HANDSHAKE_MS),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=settings.max_calls)
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    await _set(state, [], _NOT_SERVING)
    await state.set(LIVENESS, _SERVING)
    with _exit_if_port_in_use("VFMALIGN_SERVER__HEALTH_PORT", settings.health_port):
        port = server.add_insecure_port(_address(settings.host, settings.health_port))
    await server.start()
    resources.push_async_callback(server.stop, 0)
    return port


async def serve_api(
    settings: ServiceSettings,
    add_services: AddServices,
    gate: Gate,
    state: health.aio.HealthServicer,
    resources: AsyncExitStack,
) -> tuple[grpc.aio.Server, list[str], int]:
    """Starts the server of the API.

    Args:
        settings: address, limits, TLS and authentication.
        add_services: adds the servicers.
        gate: admits or rejects calls.
        state: health service.
        resources: exit stack. Closing it stops the server.

    Returns:
        The server, the full names of its services, and its port.

    Raises:
        SystemExit: code 2, after one sentence on stderr, if a setting is invalid.
    """
    limits = settings.server
    # SO_REUSEPORT is off: a second process on this port must fail instead of taking half of the calls. Connections have
    # a maximum age because clients resolve DNS only when they connect, and would never use a replica added later.
    # Running calls are not interrupted.
    options = [
        *message_limits(limits.max_message_bytes, max(limits.max_message_bytes, MESSAGE_BYTES)),
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_age_ms", round(1000 * limits.connection_age_s)),
        ("grpc.max_connection_age_grace_ms", _LONGEST_CALL_MS),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        *_idle_limits(limits),
        ("grpc.max_concurrent_streams", limits.max_streams),
        # With the probe, gRPC buffers a message of any size before a handler reads it; without it, 64 KiB of each call.
        ("grpc.http2.bdp_probe", 0),
        # A token of the longest size, with room for other metadata.
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
    ]
    holds = _create_holds(limits)
    audit = AuditTrail(settings.audit.file, required=settings.audit.required)
    resources.callback(audit.close)
    server = grpc.aio.server(
        interceptors=[CallInterceptor(gate, _open_authenticator(settings), holds, audit)],
        options=options,
        maximum_concurrent_rpcs=limits.max_calls,
    )
    _add_health_check(state, server)
    services = add_services(server)
    names = [service.full_name for service in services]
    register_methods({s.full_name: [(method.name, method.server_streaming) for method in s.methods] for s in services})
    enable_reflection([*names, health.SERVICE_NAME], server)
    await _set(state, names, _NOT_SERVING)
    with _exit_if_port_in_use("VFMALIGN_SERVER__GRPC_PORT", limits.grpc_port):
        port = _add_port(server, _address(limits.host, limits.grpc_port), limits)
    holds.connections.port = port
    await server.start()
    resources.push_async_callback(server.stop, 0)
    return server, names, port


def _idle_limits(settings: ServerSettings) -> list[tuple[str, int]]:
    """Returns options that close connections without a call, and connections that do not complete the handshake."""
    return [
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", round(1000 * settings.connection_idle_s)),
    ]


def _create_holds(limits: ServerSettings) -> Holds:
    message_bytes = limits.max_message_bytes + MESSAGE_HEADROOM_BYTES
    identified = Admission(
        limits.max_calls_per_caller,
        message_bytes,
        limits.request_memory_bytes,
        limits.message_timeout_s,
        limits.answer_timeout_s,
    )
    # gRPC receives a message of any accepted size before the handler can reject it as too large for a health check, so
    # each call has room for one. All anonymous callers together count as one, which has half of the memory.
    anonymous = Admission(
        ANONYMOUS_CALLS,
        message_bytes,
        2 * _ANONYMOUS_READS * message_bytes,
        _ANONYMOUS_TIMEOUT_S,
        _ANONYMOUS_TIMEOUT_S,
        grace_s=_ANONYMOUS_TIMEOUT_S / 10,
        wait_s=_ANONYMOUS_TIMEOUT_S,
        accepted_bytes=_ANONYMOUS_MESSAGE_BYTES,
        is_shared=True,
    )
    return Holds(identified, anonymous, Connections())


def _add_health_check(state: health.aio.HealthServicer, server: grpc.aio.Server) -> None:
    """Adds the health service without Watch. Watch calls need no identity and never end: anybody could use up all.

    gRPC clients that want to watch continue without Watch if it is UNIMPLEMENTED.
    """
    check = grpc.unary_unary_rpc_method_handler(
        state.Check,
        request_deserializer=health_pb2.HealthCheckRequest.FromString,
        response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(health.SERVICE_NAME, {"Check": check})])


def _open_authenticator(settings: ServiceSettings) -> Authenticator:
    try:
        return Authenticator(settings.auth)
    except BadOption as error:
        _exit(error)


def _add_port(server: grpc.aio.Server, address: str, settings: ServerSettings) -> int:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return server.add_insecure_port(address)
    files = (settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    credentials = tls.server_credentials(*files)
    return server.add_secure_port(address, credentials)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def _exit_if_port_in_use(variable: str, port: int) -> Iterator[None]:
    """Ends the process with one sentence if the port cannot be bound."""
    try:
        yield
    except (OSError, RuntimeError):
        _exit(f"{variable} is wrong: port {port} is in use, or the host is not one of this machine")


async def _run(hook: Hook) -> None:
    result = hook()
    if inspect.isawaitable(result):
        await result


async def _set(state: health.aio.HealthServicer, names: Sequence[str], status: int) -> None:
    for name in ("", *names):
        await state.set(name, status)


def _write_ports(path: Path, ports: dict[str, int]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({**ports, "pid": os.getpid()}))
    partial.replace(path)
