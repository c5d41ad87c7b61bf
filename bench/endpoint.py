"""The service beside the same call in this process: a real server process, a real object store, a client over loopback.

Says what the way through gRPC costs: latency, reading by reference, CPU beside the engine, and waiting behind a large
request. The client shares the machine's cores with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
import urllib3
from pydantic import SecretStr
from safetensors.numpy import load, save

from bench import machine, tables
from bench.measure import Settings, spread
from bench.peers import limit
from bench.tables import Section, Table
from vfmalign.cli.local import s3_server
from vfmalign.cli.local.environment import malloc_settings
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.mmd import mmd_test
from vfmalign.v1 import common_pb2, mmd_pb2, mmd_pb2_grpc

SIGMA = 39.2
PERMUTATIONS = 1000
LATENCY_CALLS = 15
CLIENTS = 32
CLIENT_CALLS = 8
ROUNDS = 3
REFERENCE_BYTES = 64 * 2**20
LARGE_ROWS = 80_000
SMALL_CALLS = 20
BESIDE_S = 20.0
BUCKET = "bench-endpoint"

Features = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Server:
    """A running service: where it answers, where its metrics are, and its process."""

    address: str
    metrics: str
    process: subprocess.Popen[bytes]


def run(settings: Settings) -> Section:
    """All four figures."""
    section = Section("endpoint", "The endpoint beside the call in this process")
    with tempfile.TemporaryDirectory() as folder, _store(Path(folder)) as (store, environment):
        torch.set_num_threads(settings.threads)
        with _server(Path(folder) / "a", environment, settings.threads) as server:
            asyncio.run(_alone(section, server, store))
            asyncio.run(_beside_a_large_one(section, server, store))
        with _server(Path(folder) / "b", environment, 1) as server:
            asyncio.run(_many_clients(section, server))
    return section


async def _alone(section: Section, server: Server, store: ObjectStore) -> None:
    """One client: inline against the call here, by reference against reading and computing here."""
    rows = []
    async with _stub(server) as stub:
        x, y = _pair(1000, 768)
        request = _request(_inline(x), _inline(y), PERMUTATIONS)
        rows.append(
            await _beside(
                section,
                "n = m = 1,000, d = 768 inline, 1,000 permutations",
                lambda: stub.Compute(request),
                lambda: mmd_test(x, y, pairing="independent", sigma=SIGMA, permutations=PERMUTATIONS),
                LATENCY_CALLS,
            )
        )
        rows_each = REFERENCE_BYTES // 2 // (4 * 768)
        parts = _pair(rows_each, 768, seed=1)
        sent = [_upload(store, part) for part in parts]
        by_reference = _request(sent[0], sent[1], 0)

        def read_and_compute() -> object:
            read = [
                load(store.get(store.key(one.uploaded.object.uri), sha256=one.uploaded.object.sha256)) for one in sent
            ]
            return mmd_test(
                read[0]["features"], read[1]["features"], pairing="independent", sigma=SIGMA, permutations=0
            )

        rows.append(
            await _beside(
                section,
                f"{REFERENCE_BYTES >> 20} MiB by reference (n = m = {rows_each:,}, d = 768), no test",
                lambda: stub.Compute(by_reference),
                read_and_compute,
                max(3, LATENCY_CALLS // 3),
            )
        )
    section.tables.append(
        Table(
            "One client",
            ("request", "p50 endpoint, ms (min–max)", "p50 here, ms (min–max)", "ratio of p50 (turns)"),
            rows,
        )
    )


async def _beside(
    section: Section,
    title: str,
    remote: Callable[[], Awaitable[object]],
    here: Callable[[], object],
    calls: int,
) -> tuple[str, ...]:
    """Both in turns; the first turn is the warm-up."""
    far: list[float] = []
    near: list[float] = []
    busy = machine.busy_seconds()
    started = time.perf_counter()
    for _ in range(calls + 1):
        begun = time.perf_counter()
        await remote()
        far.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        here()
        near.append(time.perf_counter() - begun)
    load_average = (machine.busy_seconds() - busy) / (time.perf_counter() - started)
    far, near = far[1:], near[1:]
    turns = spread([a / b for a, b in zip(far, near, strict=True)])
    ratio = statistics.median(far) / statistics.median(near)
    section.records.append(
        {"case": "endpoint", "request": title, "remote_s": far, "here_s": near, "ratio": ratio, "busy": load_average}
    )
    return title, _milliseconds(far), _milliseconds(near), f"{ratio:.2f}× ({turns.low:.2f}–{turns.high:.2f})"


async def _many_clients(section: Section, server: Server) -> None:
    """32 clients at once; the server computes with one thread, so that its work thread's clock is the engine's."""
    x, y = _pair(256, 768)
    rows = []
    for permutations in (PERMUTATIONS, 0):
        request = _request(_inline(x), _inline(y), permutations)

        async def client(count: int, request: mmd_pb2.ComputeRequest = request) -> None:
            async with _stub(server) as stub:
                for _ in range(count):
                    await stub.Compute(request)

        await client(3)
        rounds = [await _round(server, client) for _ in range(ROUNDS)]
        calls = CLIENTS * CLIENT_CALLS
        section.records.append(
            {"case": "endpoint", "clients": CLIENTS, "calls": calls, "permutations": permutations, "rounds": rounds}
        )
        rows.append(
            (
                f"{permutations:,}",
                f"{calls / statistics.median(one['seconds'] for one in rounds):.0f}",
                f"{1e3 * statistics.median(one['process'] for one in rounds) / calls:.2f}",
                f"{1e3 * statistics.median(one['engine'] for one in rounds) / calls:.2f}",
                tables.percent(spread([1.0 - one["engine"] / one["process"] for one in rounds])),
            )
        )
    columns = (
        "permutations",
        "calls per s",
        "server CPU, ms per call",
        "of it in the engine, ms",
        "outside the engine (min–max)",
    )
    section.tables.append(Table(f"{CLIENTS} clients, n = m = 256, d = 768 inline, one engine thread", columns, rows))


async def _round(server: Server, client: Callable[[int], Awaitable[None]]) -> dict[str, float]:
    """CPU seconds of the server's process and of its engine while all clients call at once, and how long they take."""
    before, begun = _counters(server), time.perf_counter()
    await asyncio.gather(*(client(CLIENT_CALLS) for _ in range(CLIENTS)))
    seconds, after = time.perf_counter() - begun, _counters(server)
    return {"seconds": seconds, **{name: after[name] - before[name] for name in after}}


async def _beside_a_large_one(section: Section, server: Server, store: ObjectStore) -> None:
    """Small requests from the moment a large one is sent, which is cancelled afterwards."""
    x, y = _pair(LARGE_ROWS, 768, seed=2)
    large = _request(_upload(store, x), _upload(store, y), PERMUTATIONS)
    small_x, small_y = _pair(64, 768)
    small = _request(_inline(small_x), _inline(small_y), PERMUTATIONS)
    beside = []
    async with _stub(server) as stub, _stub(server) as other:
        alone = [await _timed(stub.Compute(small)) for _ in range(SMALL_CALLS)]
        running, begun = other.Compute(large), time.perf_counter()
        await asyncio.sleep(0.1)  # so that it is the first to arrive
        while time.perf_counter() - begun < BESIDE_S:
            beside.append(await _timed(stub.Compute(small)))
            await asyncio.sleep(0.05)
        unfinished = not running.done()
        running.cancel()
        stopped = await _timed(stub.Compute(small))
    section.tables.append(
        Table(
            f"A small request (n = m = 64, d = 768, 1,000 permutations) beside a large one (n = m = {LARGE_ROWS:,})",
            ("", "p50, ms (min–max)"),
            [("alone", _milliseconds(alone)), ("while the large one is read and computed", _milliseconds(beside))],
        )
    )
    some = min(LARGE_ROWS, 5_000)
    least_s = limit.gemm(x[:some], y[:some], dtype="float32")["value"] * (LARGE_ROWS / some) ** 2
    section.sentences.append(
        f"The large request was {'still computing' if unfinished else 'DONE ALREADY: the figure says nothing'} when "
        f"the last of {len(beside)} small ones was answered; its bare distances alone take {least_s:.0f} s in float32, "
        f"and {PERMUTATIONS:,} permutations more. After it was cancelled the next small one took {1e3 * stopped:.0f} "
        "ms."
    )
    section.records.append(
        {"case": "endpoint", "alone_s": alone, "beside_s": beside, "unfinished": unfinished, "least_s": least_s}
        | {"after_cancel_s": stopped}
    )


async def _timed(call: Awaitable[object]) -> float:
    begun = time.perf_counter()
    await call
    return time.perf_counter() - begun


def _milliseconds(seconds: Sequence[float]) -> str:
    figures = spread([1e3 * one for one in seconds])
    return f"{tables.number(figures.median)} ({tables.number(figures.low)}–{tables.number(figures.high)})"


def _pair(rows: int, channels: int, *, seed: int = 0) -> tuple[Features, Features]:
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal((rows, channels), dtype=np.float32) for _ in range(2))
    return x, y + np.float32(0.05)


def _inline(array: Features) -> mmd_pb2.FeatureSource:
    layer = mmd_pb2.InlineLayer(features=to_tensor(array))
    return mmd_pb2.FeatureSource(inline=mmd_pb2.InlineFeatures(layers=[layer]))


def _upload(store: ObjectStore, array: Features) -> mmd_pb2.FeatureSource:
    data = save({"features": array})
    ref = store.put(f"uploads/{hashlib.sha256(data).hexdigest()}.safetensors", data)
    stored = common_pb2.ObjectRef(uri=store.uri(ref.key), sha256=ref.sha256)
    return mmd_pb2.FeatureSource(uploaded=mmd_pb2.UploadedFeatures(object=stored))


def _request(x: mmd_pb2.FeatureSource, y: mmd_pb2.FeatureSource, permutations: int) -> mmd_pb2.ComputeRequest:
    request = mmd_pb2.ComputeRequest(
        x=x, y=y, pairing=mmd_pb2.PAIRING_INDEPENDENT, kernel=mmd_pb2.Kernel(fixed_sigma=SIGMA)
    )
    if permutations:
        request.test.permutations = permutations
    return request


@asynccontextmanager
async def _stub(server: Server) -> AsyncIterator[mmd_pb2_grpc.MmdServiceAsyncStub]:
    """A client with a connection of its own."""
    options = [("grpc.max_send_message_length", 16 * 2**20), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        yield mmd_pb2_grpc.MmdServiceStub(channel)


def _counters(server: Server) -> dict[str, float]:
    """CPU seconds of the process and of the engine so far."""
    text = urllib3.request("GET", server.metrics).data.decode()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {
        "process": float(found["process_cpu_seconds_total"]),
        "engine": float(found["vfmalign_engine_cpu_seconds_total"]),
    }


@contextmanager
def _store(folder: Path) -> Iterator[tuple[ObjectStore, dict[str, str]]]:
    """An object store, and the environment that reaches it."""
    process, s3 = s3_server.start(folder / "s3")
    try:
        settings = StoreSettings(
            bucket=BUCKET, endpoint=s3.endpoint, access_key=s3.access_key, secret_key=SecretStr(str(s3.secret_key))
        )
        store = ObjectStore(settings)
        store.ensure_bucket()
        yield store, {**os.environ, **s3.environment(), "VFMALIGN_BUCKET": BUCKET}
    finally:
        s3_server.stop(process.pid, grace_s=0)
        process.wait()


@contextmanager
def _server(folder: Path, environment: dict[str, str], threads: int) -> Iterator[Server]:
    """`python -m vfmalign.mmd` on free ports."""
    folder.mkdir()
    ports_file = folder / "ports.json"
    own = {
        **malloc_settings("mmd"),
        "VFMALIGN_SERVER__GRPC_PORT": "0",
        "VFMALIGN_SERVER__METRICS_PORT": "0",
        "VFMALIGN_SERVER__HEALTH_PORT": "0",
        "VFMALIGN_SERVER__PORTS_FILE": str(ports_file),
        "VFMALIGN_MMD__DEVICE": "cpu",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vfmalign.mmd"], env={**environment, **own}, stdout=log, stderr=log
        )
    try:
        while not ports_file.exists():
            if process.poll() is not None:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.05)
        ports = json.loads(ports_file.read_text())
        server = Server(f"127.0.0.1:{ports['grpc']}", f"http://127.0.0.1:{ports['metrics']}/metrics", process)
        asyncio.run(_ready(server))
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        process.kill()


async def _ready(server: Server) -> None:
    """Waits until the service has loaded."""
    x, y = _pair(8, 4)
    async with _stub(server) as stub:
        while True:
            try:
                await stub.Compute(_request(_inline(x), _inline(y), 0))
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
            else:
                return
