"""The service under load: 1 to 200 clients for a minute each, with their latency and the server's memory.

Each client has a connection of its own and sends the next small request once it has the answer to the last one. The
slope of the server's resident memory is that of a line through samples of the last two thirds of the minute.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import urllib3

from bench.endpoint.server import MmdServer, inline_source, open_stub, running_server, running_store, to_request
from bench.measure import MeasurementSettings
from bench.tables import Section, Table

CLIENTS = (1, 8, 64, 200)
SECONDS = 60.0
SAMPLE_S = 1.0
PAUSE_S = 0.1
"""After a refusal."""
_RSS = "process_resident_memory_bytes "


def run(settings: MeasurementSettings) -> Section:
    """Measures every number of clients, one after the other, on one server."""
    section = Section("load", f"The endpoint under load, {SECONDS:.0f} s for each number of clients")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_store(Path(folder)) as (_, environment),
        running_server(Path(folder) / "load", environment, settings.threads) as server,
    ):
        lines = [asyncio.run(_measure(section, server, clients)) for clients in CLIENTS]
    columns = ("clients", "calls per second", "p50, ms", "p99, ms", "refused", "memory, MiB", "slope, MiB per minute")
    section.tables.append(Table("n = m = 64, d = 768 inline, no test", columns, lines))
    return section


async def _measure(section: Section, server: MmdServer, clients: int) -> tuple[str, ...]:
    """Returns the line of a number of clients."""
    rng = np.random.default_rng(0)
    x, y = (inline_source(rng.standard_normal((64, 768), dtype=np.float32)) for _ in range(2))
    request = to_request(x, y, 0, sigma=39.2)
    seconds: list[float] = []
    refusals: Counter[str] = Counter()
    end = time.perf_counter() + SECONDS

    async def call_until_end() -> None:
        async with open_stub(server) as stub:
            while (begin := time.perf_counter()) < end:
                try:
                    await stub.Compute(request)
                    seconds.append(time.perf_counter() - begin)
                except grpc.aio.AioRpcError as error:
                    refusals[error.code().name] += 1
                    await asyncio.sleep(PAUSE_S)

    sampling = asyncio.create_task(_sample_memory(server, end))
    await asyncio.gather(*(call_until_end() for _ in range(clients)))
    times_s, rss_mib = np.array(await sampling).T
    late = times_s >= times_s[0] + (times_s[-1] - times_s[0]) / 3
    slope = 60 * float(np.polyfit(times_s[late], rss_mib[late], 1)[0]) if late.sum() > 1 else 0.0
    p50, p99 = (1e3 * float(np.percentile(seconds, q)) for q in (50, 99))
    section.records.append(
        {"case": "load", "clients": clients, "calls": len(seconds), "p50_ms": p50, "p99_ms": p99}
        | {"refusals": dict(refusals), "rss_mib": rss_mib.tolist(), "slope_mib_per_minute": slope}
    )
    refused = ", ".join(f"{count:,} {code}" for code, count in refusals.items()) or "0"
    rate = f"{len(seconds) / SECONDS:.0f}"
    return str(clients), rate, f"{p50:.1f}", f"{p99:.1f}", refused, f"{rss_mib[-1]:.0f}", f"{slope:+.1f}"


async def _sample_memory(server: MmdServer, end: float) -> list[tuple[float, float]]:
    """Returns times in seconds and the server's resident memory in MiB, until a time."""
    samples = []
    while (now := time.perf_counter()) < end:
        text = (await asyncio.to_thread(urllib3.request, "GET", server.metrics_url)).data.decode()
        rss_bytes = next(float(line.removeprefix(_RSS)) for line in text.splitlines() if line.startswith(_RSS))
        samples.append((now, rss_bytes / 2**20))
        await asyncio.sleep(SAMPLE_S)
    return samples
