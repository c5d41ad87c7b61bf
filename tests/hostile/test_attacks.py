"""Attacks beside a legitimate client, on a real server: small ones, which take seconds.

`python -m tests.hostile` runs them at full size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hostile.attacked import Service, running_service
from tests.hostile.attacks import (
    HEALTH,
    ask_for,
    attack,
    call,
    never_read,
    never_send,
    never_watch,
    silent_connections,
    until,
)
from tests.raw_calls import RawCalls

LEGITIMATE_CALLS = 40
CALLS_PER_CALLER = 20
MEMORY_BYTES = 64 * 2**20
OVERHEAD_BYTES = 64 * 2**20
"""Of connections and their buffers, and of what runs at once."""
NOT_TAKEN = "vfmalign_answers_not_taken_total"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""What a client of HTTP/2 sends first: the preface and its settings."""


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with few calls that waits for its callers for a long time."""
    settings = {"max_calls": 2 * CALLS_PER_CALLER, "max_calls_per_caller": CALLS_PER_CALLER}
    folder = tmp_path_factory.mktemp("patient")
    with running_service(folder, **settings, request_memory_bytes=MEMORY_BYTES, answer_timeout_s=3600) as service:
        yield service


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that waits for its callers for a moment."""
    folder = tmp_path_factory.mktemp("hasty")
    with running_service(folder, max_calls_per_caller=CALLS_PER_CALLER, answer_timeout_s=1) as service:
        yield service


async def assert_served(service: Service) -> None:
    results = await call(service, "legitimate", LEGITIMATE_CALLS)
    assert (len(results.seconds), results.failures) == (LEGITIMATE_CALLS, [])


@pytest.mark.parametrize("attackers", ["calls", "watches"])
async def test_whoever_never_reads_has_no_more_calls_than_one_caller_may_have(patient: Service, attackers: str) -> None:
    unread = (
        never_read(patient, "eve", 2, 30, ask_for(100)) if attackers == "calls" else never_watch(patient, "eve", 2, 30)
    )
    async with attack(patient, unread):
        await assert_served(patient)
        assert sum(len(one.ended) for one in unread) == 60 - CALLS_PER_CALLER
        refused = await call(patient, "eve", 1)
        assert refused.failures == ["RESOURCE_EXHAUSTED"]
    # Everything is given back once they have left.
    assert not (await call(patient, "eve", 1)).failures


async def test_unread_answers_hold_no_more_memory_than_one_caller_may_have(patient: Service) -> None:
    before = peak = patient.process.memory_info().rss
    unread = never_read(patient, "mallory", 1, CALLS_PER_CALLER, ask_for(8 * 2**20))
    async with attack(patient, unread):
        serving = asyncio.create_task(assert_served(patient))
        while not serving.done():
            peak = max(peak, patient.process.memory_info().rss)
            await asyncio.sleep(0.02)
        await serving
    # Half of the memory, of which gRPC holds a copy.
    assert peak - before < MEMORY_BYTES + OVERHEAD_BYTES


@pytest.mark.parametrize("attackers", ["calls", "watches"])
async def test_the_connection_of_a_caller_that_never_reads_is_closed(hasty: Service, attackers: str) -> None:
    unread = never_read(hasty, "eve", 1, 5, ask_for(10)) if attackers == "calls" else never_watch(hasty, "eve", 1, 5)
    async with attack(hasty, unread):
        await until(lambda: unread[0].closed)
        assert not unread[0].ended
        assert not (await call(hasty, "eve", CALLS_PER_CALLER)).failures
    assert hasty.read_metric(NOT_TAKEN) >= 5


async def test_a_connection_that_others_share_is_not_closed(hasty: Service) -> None:
    """Such as that of a proxy."""
    tokens = (hasty.token("eve"), hasty.token("legitimate"))
    shared = RawCalls("/vfmalign.v1.MmdService/Compute", ask_for(10), calls=2, tokens=tokens, answer_bytes=0)
    async with attack(hasty, [shared]):
        before = hasty.read_metric(NOT_TAKEN)
        await until(lambda: hasty.read_metric(NOT_TAKEN) >= before + 3)
        assert not shared.closed
        await assert_served(hasty)


async def test_health_checks_that_are_never_sent_take_nothing_from_callers_with_a_token(tmp_path: Path) -> None:
    with running_service(tmp_path, request_memory_bytes=MEMORY_BYTES, max_calls=300) as service:
        before = peak = service.process.memory_info().rss
        stalled = never_send([f"127.0.0.{number}" for number in (2, 3, 4)] * 2, 40)
        async with attack(service, stalled, again=True):
            serving = asyncio.create_task(assert_served(service))
            while not serving.done():
                peak = max(peak, service.process.memory_info().rss)
                await asyncio.sleep(0.02)
            await serving
        assert peak - before < OVERHEAD_BYTES


async def test_a_health_check_has_a_few_bytes(hasty: Service) -> None:
    long = RawCalls(HEALTH, b"\x0a\xff\x07" + b"a" * 1023)
    await long.run(hasty.ports["grpc"])
    assert b"the message has 1,026 bytes" in long.status


@pytest.mark.parametrize("first_bytes", [b"", HTTP2], ids=["silent", "idle"])
async def test_connections_without_calls_end_and_let_others_in(tmp_path: Path, first_bytes: bytes) -> None:
    with running_service(tmp_path, max_connections=20, connection_idle_s=1) as service:
        async with silent_connections(service.ports["grpc"], 20, first_bytes) as ends:
            await assert_served(service)
            async with asyncio.timeout(60):
                await asyncio.wait(ends)


@pytest.mark.parametrize("port", ["metrics", "health"])
async def test_silent_connections_to_another_port_leave_descriptors_to_the_api(tmp_path: Path, port: str) -> None:
    with running_service(tmp_path, files=256, max_connections=64) as service:
        async with silent_connections(service.ports[port], 250, b"GET /metrics HTTP/1.1\r\n") as ends:
            await assert_served(service)
            assert service.read_metric("vfmalign_build_info") == 1
            async with asyncio.timeout(60):
                await asyncio.wait(ends)
        assert service.process.num_threads() < 64
