"""The life of a service's process: listen, warm up, say so, and drain when told to end (design §6).

Three ports: the API (with health and reflection), Prometheus metrics, and a plaintext port with the health service
alone for probes. Readiness is local: warmed up and not draining, whatever the object store does.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from vfmalign.core import logs, metrics
from vfmalign.core.interceptors import CallInterceptor, register_methods
from vfmalign.core.settings import ServerSettings, ServiceSettings

AddServices = Callable[[grpc.aio.Server], Sequence[ServiceDescriptor]]
"""Adds servicers to a server and returns the descriptors of their services."""


async def _nothing() -> None:
    """The default of `ready` and `stop`."""


async def serve(
    name: str,
    settings: ServiceSettings,
    add_services: AddServices,
    *,
    ready: Callable[[], Awaitable[None]] = _nothing,
    stop: Callable[[], Awaitable[None]] = _nothing,
) -> None:
    """Runs a service until SIGTERM or SIGINT.

    Args:
        name: of the service, for its log.
        settings: ports, limits and log.
        add_services: adds the servicers.
        ready: awaited before the service says SERVING (load, warm up, migrate).
        stop: awaited after the last call has ended.
    """
    logs.configure(name, settings.log)
    metrics.announce_build()
    log = logs.get("server")
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)

    server, state, names, grpc_port = await _api(settings.server, add_services)
    probes, health_port = await _probes(settings.server, state)
    metrics_server, thread = start_http_server(
        settings.server.metrics_port, addr=settings.server.host, registry=metrics.REGISTRY
    )
    ports = {"grpc": grpc_port, "metrics": metrics_server.server_port, "health": health_port}
    try:
        await ready()
        await _set(state, names, health_pb2.HealthCheckResponse.SERVING)
        if settings.server.ports_file is not None:
            _write_ports(settings.server.ports_file, ports)
        log.info("serving", **ports)
        await ended.wait()
        log.info("draining", seconds=settings.server.drain_s)
        await _set(state, names, health_pb2.HealthCheckResponse.NOT_SERVING)
        await server.stop(settings.server.drain_s)
        await stop()
    finally:
        await server.stop(0)
        await probes.stop(0)
        metrics_server.shutdown()
        metrics_server.server_close()
        thread.join()
        log.info("stopped")


async def _api(
    settings: ServerSettings, add_services: AddServices
) -> tuple[grpc.aio.Server, health.aio.HealthServicer, list[str], int]:
    server = grpc.aio.server(interceptors=[CallInterceptor()], options=message_limits(settings.max_message_bytes))
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    services = add_services(server)
    names = [service.full_name for service in services]
    register_methods({s.full_name: [(method.name, method.server_streaming) for method in s.methods] for s in services})
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    await _set(state, names, health_pb2.HealthCheckResponse.NOT_SERVING)
    port = server.add_insecure_port(f"{settings.host}:{settings.grpc_port}")
    await server.start()
    return server, state, names, port


async def _probes(settings: ServerSettings, state: health.aio.HealthServicer) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    port = server.add_insecure_port(f"{settings.host}:{settings.health_port}")
    await server.start()
    return server, port


async def _set(state: health.aio.HealthServicer, names: Sequence[str], status: Any) -> None:
    for name in ("", *names):
        await state.set(name, status)


def message_limits(size_bytes: int) -> list[tuple[str, int]]:
    """Channel and server options: messages up to `size_bytes`, and keep-alive pings that notice dead peers."""
    return [
        ("grpc.max_receive_message_length", size_bytes + 65_536),
        ("grpc.max_send_message_length", size_bytes + 65_536),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.so_reuseport", 0),
    ]


def _write_ports(path: Path, ports: dict[str, int]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({**ports, "pid": os.getpid()}))
    partial.replace(path)
