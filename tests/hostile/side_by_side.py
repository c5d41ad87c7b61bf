"""Attacks at full size, each beside a legitimate client: its success and latency, and the memory of the server.

The latency is compared with that beside equally many well-behaved clients.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.attacked import Service, running_service
from tests.hostile.attacks import (
    HEALTH,
    Results,
    ask_for,
    attack,
    call,
    call_apart,
    never_read,
    never_send,
    never_watch,
    silent_connections,
)
from tests.raw_calls import RawCalls

LEGITIMATE_CALLS = 600
"""Attackers that begin anew do so every few seconds, which fewer calls would see once or twice."""
PAUSE_S = 0.02
ANSWER_BYTES = 2 * 2**20
THREE_ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4") * 2
"""Each with two connections, because one has at most 100 calls."""
TWENTY_ADDRESSES = tuple(f"127.0.0.{number}" for number in range(2, 22))

Block = Callable[[Service], AbstractAsyncContextManager[object]]


@dataclass(frozen=True)
class Attack:
    """An attack.

    Attributes:
        name: what the attackers do.
        attackers: run during a block.
        well_behaved: clients on as many connections that call as they should; ten in place of silent connections.
        files: how many descriptors the service may have; None for the limit of this process.
    """

    name: str
    attackers: Block
    well_behaved: Block
    files: int | None = None


@asynccontextmanager
async def _behave(service: Service, clients: int, answer_bytes: int = 100) -> AsyncIterator[None]:
    """Runs clients that call and take their answers, each with an identity and a connection of its own."""
    calls = [
        call(service, f"client-{number}", 10**9, answer_bytes=answer_bytes, pause_s=PAUSE_S)
        for number in range(clients)
    ]
    tasks = [asyncio.create_task(one) for one in calls]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _probe(addresses: Sequence[str], calls: int) -> list[RawCalls]:
    """Returns health checks without a token that are complete."""
    return [RawCalls(HEALTH, b"", calls=calls, source=address) for address in addresses]


ATTACKS = (
    Attack(
        "1,000 calls of one identity whose answers are never read",
        lambda service: attack(service, never_read(service, "eve", 10, 100, ask_for(100))),
        lambda service: _behave(service, 10),
    ),
    Attack(
        "50 calls of 400 kB whose answers of 2 MB are never read",
        lambda service: attack(service, never_read(service, "eve", 1, 50, ask_for(ANSWER_BYTES, 400_000))),
        lambda service: _behave(service, 10, ANSWER_BYTES),
    ),
    Attack(
        "1,000 watches of one identity that are never read",
        lambda service: attack(service, never_watch(service, "eve", 10, 100)),
        lambda service: _behave(service, 10),
    ),
    Attack(
        "health checks that are never sent, 3 addresses × 200",
        lambda service: attack(service, never_send(THREE_ADDRESSES, 100), again=True),
        lambda service: attack(service, _probe(THREE_ADDRESSES, 100), again=True),
    ),
    Attack(
        "health checks that are never sent, 20 addresses × 50",
        lambda service: attack(service, never_send(TWENTY_ADDRESSES, 50), again=True),
        lambda service: attack(service, _probe(TWENTY_ADDRESSES, 50), again=True),
    ),
    Attack(
        "900 silent connections to the API",
        lambda service: silent_connections(service.ports["grpc"], 900),
        lambda service: _behave(service, 10),
    ),
    Attack(
        "1,015 silent connections to the metrics, 1,024 files",
        lambda service: silent_connections(service.ports["metrics"], 1_015),
        lambda service: _behave(service, 10),
        files=1_024,
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What an attack did.

    Attributes:
        beside: the legitimate client's calls beside the attackers.
        usual: the same beside well-behaved clients.
        growth_mib: by how much the service's memory grew at most.
        lives: whether the service lives.
        crashes: lines of its log that report an error inside of it.
    """

    beside: Results
    usual: Results
    growth_mib: float
    lives: bool
    crashes: int

    @property
    def holds(self) -> bool:
        """Whether every call of the legitimate client succeeded, and nothing broke."""
        return not self.beside.failures and self.lives and not self.crashes


async def run(one: Attack) -> Outcome:
    """Runs an attack, and before it the well-behaved clients, on a service of its own."""
    with tempfile.TemporaryDirectory() as folder, running_service(Path(folder), files=one.files) as service:
        async with one.well_behaved(service):
            usual = await call_apart(service, "legitimate", LEGITIMATE_CALLS, pause_s=PAUSE_S)
        before = peak = service.process.memory_info().rss
        async with AsyncExitStack() as attackers:
            await attackers.enter_async_context(one.attackers(service))
            serving = asyncio.create_task(call_apart(service, "legitimate", LEGITIMATE_CALLS, pause_s=PAUSE_S))
            while not serving.done():
                peak = max(peak, service.process.memory_info().rss)
                await asyncio.sleep(0.05)
            beside = await serving
        log = (Path(folder) / "service.log").read_text()
        crashes = log.count('"call_crashed"') + log.count('"code": "INTERNAL"') + log.count('"code": "UNKNOWN"')
        return Outcome(beside, usual, (peak - before) / 2**20, service.process.is_running(), crashes)


def print_all() -> int:
    """Prints the attacks as a table in Markdown; returns how many did harm."""
    print(
        "\n| attack | legitimate calls that succeed | p99, ms | beside well-behaved clients, ms | memory, MiB | holds |"
    )
    print("|---|---|---|---|---|---|")
    harmful = 0
    for one in ATTACKS:
        outcome = asyncio.run(run(one))
        harmful += not outcome.holds
        calls = f"{len(outcome.beside.seconds)} of {LEGITIMATE_CALLS}"
        figures = f"{outcome.beside.p99_ms:.0f} | {outcome.usual.p99_ms:.0f} | {outcome.growth_mib:.0f}"
        print(f"| {one.name} | {calls} | {figures} | {'yes' if outcome.holds else 'NO'} |", flush=True)
    return harmful
