"""The service beside the same call in this process: the cost of gRPC, of reading by reference, and of queueing.

The server is a process of its own beside a real object store, reached over loopback; the client shares the machine's
cores with it. Measured are latency, reading by reference, CPU time outside the engine, and the latency of small
requests beside a large one. The last table is the cost of authentication.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load

from bench import machine, tables
from bench.endpoint.server import (
    MmdServer,
    inline_source,
    open_stub,
    read_cpu_counters,
    running_server,
    running_store,
    to_request,
    upload,
)
from bench.measure import MeasurementSettings, median_range
from bench.tables import Section, Table
from bench.workloads import gemm_limit
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.mmd import mmd_test
from vfmalign.v1 import mmd_pb2

SIGMA = 39.2
PERMUTATIONS = 1000
LATENCY_CALLS = 15
CLIENTS = 32
CLIENT_CALLS = 8
ROUNDS = 3
REFERENCE_BYTES = 64 * 2**20
LARGE_ROWS = 80_000
SMALL_CALLS = 20
TOKEN_CALLS = 500
LARGE_REQUEST_S = 20.0
"""How long small requests are sent beside a large one."""

Features = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def run(settings: MeasurementSettings) -> Section:
    """Measures the endpoint."""
    section = Section("endpoint", "The endpoint beside the same call in this process")
    with tempfile.TemporaryDirectory() as folder, running_store(Path(folder)) as (store, environment):
        torch.set_num_threads(settings.threads)
        with running_server(Path(folder) / "one-client", environment, settings.threads) as server:
            asyncio.run(_one_client(section, server, store))
            asyncio.run(_beside_large_request(section, server, store))
        with running_server(Path(folder) / "many-clients", environment, 1) as server:
            asyncio.run(_many_clients(section, server))
            with running_server(Path(folder) / "tokens", environment, 1, with_tokens=True) as other:
                asyncio.run(_with_tokens(section, server, other))
    return section


async def _one_client(section: Section, server: MmdServer, store: ObjectStore) -> None:
    """Measures one client: an inline request, and one by reference against reading and computing in this process."""
    x, y = _draw(1000, 768)
    inline = to_request(inline_source(x), inline_source(y), PERMUTATIONS, sigma=SIGMA)
    rows = REFERENCE_BYTES // 2 // (4 * 768)
    sources = [upload(store, features) for features in _draw(rows, 768, seed=1)]
    by_reference = to_request(sources[0], sources[1], 0, sigma=SIGMA)

    def compute() -> object:
        return mmd_test(x, y, pairing="independent", sigma=SIGMA, permutations=PERMUTATIONS)

    def read_and_compute() -> object:
        objects = [source.uploaded.object for source in sources]
        stored = [load(store.get(store.key(ref.uri), sha256=ref.sha256))["features"] for ref in objects]
        return mmd_test(*stored, pairing="independent", sigma=SIGMA, permutations=0)

    async with open_stub(server) as stub:
        lines = [
            await _alternate(
                section,
                "n = m = 1,000, d = 768 inline, 1,000 permutations",
                lambda: stub.Compute(inline),
                compute,
                LATENCY_CALLS,
            ),
            await _alternate(
                section,
                f"{REFERENCE_BYTES >> 20} MiB by reference (n = m = {rows:,}, d = 768), no test",
                lambda: stub.Compute(by_reference),
                read_and_compute,
                max(3, LATENCY_CALLS // 3),
            ),
        ]
    columns = ("request", "p50 of the endpoint, ms (min–max)", "p50 in this process, ms (min–max)", "ratio (turns)")
    section.tables.append(Table("One client", columns, lines))


async def _alternate(
    section: Section,
    title: str,
    call_remote: Callable[[], Awaitable[object]],
    call_local: Callable[[], object],
    calls: int,
) -> tuple[str, ...]:
    """Calls the endpoint and this process in turns, the first as a warm-up, and returns a line of the table."""
    remote_s: list[float] = []
    local_s: list[float] = []
    busy = machine.busy_seconds()
    started = time.perf_counter()
    for _ in range(calls + 1):
        remote_s.append(await _seconds_of(call_remote()))
        begin = time.perf_counter()
        call_local()
        local_s.append(time.perf_counter() - begin)
    load_average = (machine.busy_seconds() - busy) / (time.perf_counter() - started)
    remote_s, local_s = remote_s[1:], local_s[1:]
    turns = median_range([remote / local for remote, local in zip(remote_s, local_s, strict=True)])
    ratio = statistics.median(remote_s) / statistics.median(local_s)
    section.records.append(
        {
            "case": "endpoint",
            "request": title,
            "remote_s": remote_s,
            "here_s": local_s,
            "ratio": ratio,
            "busy": load_average,
        }
    )
    return title, _milliseconds(remote_s), _milliseconds(local_s), f"{ratio:.2f}× ({turns.low:.2f}–{turns.high:.2f})"


async def _many_clients(section: Section, server: MmdServer) -> None:
    """Measures many clients at once; the server has one compute thread, whose CPU time is therefore the engine's."""
    x, y = _draw(256, 768)
    lines = []
    for permutations in (PERMUTATIONS, 0):
        request = to_request(inline_source(x), inline_source(y), permutations, sigma=SIGMA)

        async def call_repeatedly(count: int, request: mmd_pb2.ComputeRequest = request) -> None:
            async with open_stub(server) as stub:
                for _ in range(count):
                    await stub.Compute(request)

        await call_repeatedly(3)
        rounds = [await _measure_round(server, call_repeatedly) for _ in range(ROUNDS)]
        calls = CLIENTS * CLIENT_CALLS
        section.records.append(
            {"case": "endpoint", "clients": CLIENTS, "calls": calls, "permutations": permutations, "rounds": rounds}
        )
        lines.append(
            (
                f"{permutations:,}",
                f"{calls / statistics.median(one['seconds'] for one in rounds):.0f}",
                f"{1e3 * statistics.median(one['process'] for one in rounds) / calls:.2f}",
                f"{1e3 * statistics.median(one['engine'] for one in rounds) / calls:.2f}",
                tables.percent(median_range([1.0 - one["engine"] / one["process"] for one in rounds])),
            )
        )
    columns = (
        "permutations",
        "calls per second",
        "server CPU, ms per call",
        "of it in the engine, ms",
        "outside the engine (min–max)",
    )
    section.tables.append(Table(f"{CLIENTS} clients, n = m = 256, d = 768 inline, one engine thread", columns, lines))


async def _measure_round(server: MmdServer, client: Callable[[int], Awaitable[None]]) -> dict[str, float]:
    """Returns the duration of one round of all clients, and the CPU seconds of the server's process and engine."""
    before, begin = read_cpu_counters(server), time.perf_counter()
    await asyncio.gather(*(client(CLIENT_CALLS) for _ in range(CLIENTS)))
    seconds, after = time.perf_counter() - begin, read_cpu_counters(server)
    return {"seconds": seconds, **{name: after[name] - before[name] for name in after}}


async def _beside_large_request(section: Section, server: MmdServer, store: ObjectStore) -> None:
    """Measures small requests from the moment a large one is sent, and after the large one is cancelled."""
    x, y = _draw(LARGE_ROWS, 768, seed=2)
    large = to_request(upload(store, x), upload(store, y), PERMUTATIONS, sigma=SIGMA)
    small_x, small_y = _draw(64, 768)
    small = to_request(inline_source(small_x), inline_source(small_y), PERMUTATIONS, sigma=SIGMA)
    beside_s = []
    async with open_stub(server) as stub, open_stub(server) as large_stub:
        alone_s = [await _seconds_of(stub.Compute(small)) for _ in range(SMALL_CALLS)]
        running, begin = large_stub.Compute(large), time.perf_counter()
        await asyncio.sleep(0.1)  # so that the large request arrives first
        while time.perf_counter() - begin < LARGE_REQUEST_S:
            beside_s.append(await _seconds_of(stub.Compute(small)))
            await asyncio.sleep(0.05)
        unfinished = not running.done()
        running.cancel()
        after_cancel_s = await _seconds_of(stub.Compute(small))
    section.tables.append(
        Table(
            f"A small request (n = m = 64, d = 768, 1,000 permutations) beside a large one (n = m = {LARGE_ROWS:,})",
            ("", "p50, ms (min–max)"),
            [
                ("alone", _milliseconds(alone_s)),
                ("while the large one is read and computed", _milliseconds(beside_s)),
            ],
        )
    )
    rows = min(LARGE_ROWS, 5_000)
    least_s = gemm_limit.gemm(x[:rows], y[:rows], dtype="float32")["value"] * (LARGE_ROWS / rows) ** 2
    state = "still computing" if unfinished else "ALREADY FINISHED, which makes the figure meaningless,"
    section.sentences.append(
        f"The large request was {state} when the last of {len(beside_s)} small ones was answered. Its distances alone "
        f"take {least_s:.0f} s in float32, and it has {PERMUTATIONS:,} permutations. After it was cancelled, the next "
        f"small one took {1e3 * after_cancel_s:.0f} ms."
    )
    section.records.append(
        {"case": "endpoint", "alone_s": alone_s, "beside_s": beside_s, "unfinished": unfinished, "least_s": least_s}
        | {"after_cancel_s": after_cancel_s}
    )


async def _with_tokens(section: Section, open_server: MmdServer, server: MmdServer) -> None:
    """Measures a small request to a service that demands a token, in turns with one that demands none."""
    x, y = _draw(64, 768)
    small = to_request(inline_source(x), inline_source(y), 0, sigma=SIGMA)
    open_s, authenticated_s = [], []
    async with open_stub(open_server) as open_one, open_stub(server) as stub:
        for _ in range(TOKEN_CALLS + 1):
            open_s.append(await _seconds_of(open_one.Compute(small)))
            authenticated_s.append(await _seconds_of(stub.Compute(small, metadata=server.metadata)))
    # The first call of each connects, and has its token verified.
    open_s, authenticated_s = open_s[1:], authenticated_s[1:]
    ratio = statistics.median(authenticated_s) / statistics.median(open_s)
    section.tables.append(
        Table(
            "A small request (n = m = 64, d = 768, no test) with and without authentication",
            ("", "p50, ms (min–max)", "ratio"),
            [("no token", _milliseconds(open_s), ""), ("a token", _milliseconds(authenticated_s), f"{ratio:.3f}")],
        )
    )
    section.records.append(
        {"case": "endpoint", "open_s": open_s, "authenticated_s": authenticated_s, "token_ratio": ratio}
    )


async def _seconds_of(call: Awaitable[object]) -> float:
    """Awaits a call and returns its duration."""
    begin = time.perf_counter()
    await call
    return time.perf_counter() - begin


def _milliseconds(seconds: Sequence[float]) -> str:
    """Formats the median of some durations with their range."""
    return tables.with_range(median_range([1e3 * one for one in seconds]))


def _draw(rows: int, channels: int, *, seed: int = 0) -> tuple[Features, Features]:
    """Draws two samples of noise, the second with a shift of 0.05."""
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal((rows, channels), dtype=np.float32) for _ in range(2))
    return x, y + np.float32(0.05)
