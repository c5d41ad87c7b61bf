"""PostgreSQL that is stopped with its connections open: calls end as UNAVAILABLE, and go on once it is resumed.

Over TCP, where the kernel acknowledges what the stopped server does not read, and over a socket.
"""

from __future__ import annotations

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests import postgres
from tests.faults.monitoring.test_kills import send_until_recorded
from tests.faults.monitoring.test_outages import get_evidence, read_names
from tests.integration.monitoring.conftest import draw, store_set
from tests.integration.monitoring.test_service import evidence_of

from vfmalign.cli.local.ports import free_ports
from vfmalign.core.domain.errors import DeadlineExceeded, Unavailable
from vfmalign.finetuning import schema

LIMIT_S = 120
"""Far more than the service waits for the database, and less than for ever."""


@pytest.fixture(params=["tcp", "socket"])
def server(request):
    binaries = postgres.find_programs()
    if binaries is None:
        pytest.skip(f"no PostgreSQL: {postgres.REMEDY}")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="vfmalign-pg-") as folder:  # a socket's path is short
        server = postgres.PostgresServer(binaries, Path(folder), port if request.param == "tcp" else 0)
        yield server
        server.stop()


def test_a_transaction_ends_whether_the_server_stopped_before_or_within_it(server):
    database = schema.open_database(server.url, timeout_s=1.0)
    database.migrate()
    query = sa.text("SELECT count(*) FROM jobs")

    def run():
        with database.snapshot() as session:
            return session.scalar(query)

    def run_within():
        with database.session() as session:
            session.execute(query)
            with server.frozen():
                session.execute(query)

    with ThreadPoolExecutor(2) as threads:
        assert threads.submit(run).result(LIMIT_S) == 0
        with pytest.raises(Unavailable, match="cannot be reached"):
            threads.submit(run_within).result(LIMIT_S)
        assert [threads.submit(run).result(LIMIT_S) for _ in range(3)] == [0] * 3
        with server.frozen():
            for _ in range(2):  # a connection that was open before, and a new one
                with pytest.raises(Unavailable, match="cannot be reached"):
                    threads.submit(run).result(LIMIT_S)
        assert threads.submit(run).result(LIMIT_S) == 0
    database.close()


async def test_calls_end_while_the_server_is_stopped_and_nothing_is_lost_or_doubled(service, store, server):
    reference, layers = draw(90, seed=1), draw(12, seed=2, shift=0.3)
    await service.kill()
    await service.start(VFMALIGN_DATABASE__URL=server.url, VFMALIGN_DATABASE__TIMEOUT_S="1")
    await service.create("m", store_set(store, reference, "ref"), alpha=0.05)
    first = {name: array[:4] for name, array in layers.items()}
    assert [one.row for one in await service.observe("m", first)] == [1, 2, 3, 4]
    with server.frozen():
        async with asyncio.timeout(LIMIT_S):
            ended = await asyncio.gather(
                service.observe("m", layers, start=4),
                service.observe("m", layers, start=4),
                *(service.monitors.get("m") for _ in range(12)),
                return_exceptions=True,
            )
    assert {type(one) for one in ended} <= {Unavailable, DeadlineExceeded}
    assert type(ended[0]) is Unavailable, ended[0]
    assert service.process.poll() is None
    async with asyncio.timeout(LIMIT_S):  # the server first refuses connections that were given up meanwhile
        await send_until_recorded(service, layers, 0, 12)
        results = await send_until_recorded(service, layers, 0, 12)
    assert [one.row for one in results] == list(range(1, 13))
    assert evidence_of(await service.monitors.get("m")) == get_evidence(reference, layers)
    assert read_names(server.url) == [f"o-{row}" for row in range(12)]
    assert not [line for line in service.log() if line["event"] in {"replay_differs", "round_failed"}]
    assert not [line for line in service.log() if line.get("code") in {"INTERNAL", "UNKNOWN"}]
