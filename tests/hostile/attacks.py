"""Attacks on a server: callers that never read, never send, or never speak, for as long as a block runs."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from tests.hostile.attacked import CHECK, MESSAGE_BYTES, Service
from tests.raw_calls import RawCalls, stall
from tests.token_issuer import bearer

from vfmalign.v1 import alignment_pb2, mmd_pb2, mmd_pb2_grpc

COMPUTE = "/vfmalign.v1.MmdService/Compute"
WATCH = "/vfmalign.v1.AlignmentService/WatchCheck"
HEALTH = "/grpc.health.v1.Health/Check"
STARTED = "grpc_server_started_total"
_PADDING = b"\xfa\x3e\x00"
"""A field that no message has."""
_PAUSE_S = 1.0
_WAIT_S = 60.0


@dataclass
class Results:
    """What became of the calls of a legitimate client.

    Attributes:
        seconds: of each call that succeeded.
        failures: codes of those that failed.
    """

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        """99th percentile of the latency, in ms."""
        ordered = sorted(self.seconds)
        return 1e3 * ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]


async def call(service: Service, subject: str, count: int, *, answer_bytes: int = 100, pause_s: float = 0.0) -> Results:
    """Calls `Compute` one call after the other, over a connection of its own."""
    return await _call(service.ports["grpc"], service.token(subject), count, answer_bytes, pause_s)


async def call_apart(service: Service, subject: str, count: int, *, pause_s: float) -> Results:
    """Calls from a process of its own, whose latency does not include the work of the attackers in this one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        arguments = (service.ports["grpc"], service.token(subject), count, 100, pause_s)
        return await asyncio.get_running_loop().run_in_executor(pool, _call_in_process, *arguments)


def _call_in_process(*arguments: Any) -> Results:
    return asyncio.run(_call(*arguments))


async def _call(port: int, token: str, count: int, answer_bytes: int, pause_s: float) -> Results:
    results, request = Results(), mmd_pb2.ComputeRequest(primary_layer=str(answer_bytes))
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        for _ in range(count):
            started = time.perf_counter()
            try:
                await stub.Compute(request, metadata=bearer(token), timeout=_WAIT_S, wait_for_ready=True)
                results.seconds.append(time.perf_counter() - started)
            except grpc.aio.AioRpcError as error:
                results.failures.append(error.code().name)
            await asyncio.sleep(pause_s)
    return results


def ask_for(answer_bytes: int, request_bytes: int = 0) -> bytes:
    """Returns a request for an answer of a size."""
    request = mmd_pb2.ComputeRequest(primary_layer=str(answer_bytes)).SerializeToString()
    return request + _PADDING * ((request_bytes - len(request)) // len(_PADDING))


def never_read(
    service: Service, subject: str, connections: int, calls: int, message: bytes, method: str = COMPUTE
) -> list[RawCalls]:
    """Returns calls of one identity that take nothing of their answers."""
    tokens = (service.token(subject),)
    return [RawCalls(method, message, calls=calls, tokens=tokens, answer_bytes=0) for _ in range(connections)]


def never_watch(service: Service, subject: str, connections: int, calls: int) -> list[RawCalls]:
    """Returns calls of one identity that watch a check and take nothing."""
    message = alignment_pb2.WatchCheckRequest(check_id=CHECK).SerializeToString()
    return never_read(service, subject, connections, calls, message, WATCH)


def never_send(addresses: Sequence[str], calls: int) -> list[RawCalls]:
    """Returns health checks without a token whose message never comes."""
    return [stall(HEALTH, MESSAGE_BYTES, 16, address, calls) for address in addresses]


@asynccontextmanager
async def attack(service: Service, attackers: Sequence[RawCalls], *, again: bool = False) -> AsyncIterator[None]:
    """Runs attackers during a block, which begins once all of their calls have reached the server.

    Args:
        service: is attacked.
        attackers: their calls.
        again: whether they begin anew whenever the server has ended all of their calls.
    """
    before = await asyncio.to_thread(service.read_metric, STARTED)

    async def run(attacker: RawCalls) -> None:
        await attacker.run(service.ports["grpc"])
        while again:
            await asyncio.sleep(_PAUSE_S)
            attacker.ended.clear()
            await attacker.run(service.ports["grpc"])

    tasks = [asyncio.create_task(run(attacker)) for attacker in attackers]
    try:
        wanted = before + sum(attacker.calls for attacker in attackers)
        await until(lambda: service.read_metric(STARTED) >= wanted)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def silent_connections(
    port: int, count: int, first_bytes: bytes = b""
) -> AsyncIterator[list[asyncio.Task[bytes]]]:
    """Opens connections that send nothing after their first bytes; yields what ends when the server closes each."""
    writers, ends = [], []
    try:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            writer.write(first_bytes)
            ends.append(asyncio.create_task(_read_to_end(reader)))
        yield ends
    finally:
        for writer in writers:
            writer.transport.abort()
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(_WAIT_S):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.05)
