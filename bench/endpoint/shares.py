"""The share of a small client beside a crowd of another tenant.

The crowd has connections of its own, keeps its calls in flight all the time, and repeats a refused one after 0.1 s,
whatever the error asks for. The small client makes one call after the other, and waits as a refusal tells it to. The
calls of the crowd are as large as its own, or have 2 MB. Crowd, small client and service are processes that share the
cores of the machine.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from tests.token_issuer import TokenIssuer, bearer

from bench.endpoint.server import inline_source, running_store, to_request
from bench.measure import MeasurementSettings
from bench.services import RunningService, run_service
from bench.tables import Section, Table
from vfmalign.core.rpc.access.credentials import TENANT
from vfmalign.core.rpc.status_mapping import DETAILS_KEY
from vfmalign.core.runtime.auth_settings import LOCAL_ISSUER
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.phantoms.rendering import generate_case
from vfmalign.imaging.volumes import encode
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state
from vfmalign.v1 import features_pb2

COMPUTE, EXTRACT = "/vfmalign.v1.MmdService/Compute", "/vfmalign.v1.FeatureService/Extract"
CROWDS = ((1, 40), (1, 190), (3, 130), (64, 1), (200, 1))
"""Callers, and the calls in flight of each."""
SECONDS = 8.0
PAUSE_S = 0.1
TENANTS = ("clinic", "lab")
MODEL = "profound_conv_micro"
_STREAMS = 100
"""Calls of one connection at once."""
_SAMPLE_S = 0.1


@dataclass(frozen=True)
class Crowd:
    """Callers of one kind.

    Attributes:
        port: of the service.
        method: path of the RPC.
        request: an encoded message.
        tenant: of the callers.
        tokens: one for each caller.
        calls: in flight of each caller.
        seconds: for which they call.
        waits: whether they wait as a refusal tells them to.
    """

    port: int
    method: str
    request: bytes
    tenant: str
    tokens: Sequence[str]
    calls: int
    seconds: float = SECONDS
    waits: bool = False


@dataclass
class Served:
    """What became of the calls of a crowd.

    Attributes:
        seconds: of each call that was served.
        failures: reasons of those that were not.
    """

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Part of the calls that were served."""
        return len(self.seconds) / max(1, len(self.seconds) + self.failures.total())

    def get_quantile_s(self, q: float) -> float:
        """Returns a quantile of the seconds of served calls."""
        return float(np.quantile(self.seconds, q)) if self.seconds else float("nan")


async def call(crowd: Crowd) -> Served:
    """Calls until the time is over."""
    served, end = Served(), time.perf_counter() + crowd.seconds

    async def repeat(send: Any, token: str) -> None:
        while (begin := time.perf_counter()) < end:
            try:
                await send(crowd.request, metadata=[*bearer(token), (TENANT, crowd.tenant)], timeout=60.0)
                served.seconds.append(time.perf_counter() - begin)
            except grpc.aio.AioRpcError as error:
                reason, delay_s = _read_details(error)
                served.failures[reason] += 1
                await asyncio.sleep(delay_s if crowd.waits else PAUSE_S)

    async with asyncio.TaskGroup() as group:
        for token in crowd.tokens:
            for first in range(0, crowd.calls, _STREAMS):
                group.create_task(_connect(crowd, token, min(_STREAMS, crowd.calls - first), repeat))
    return served


async def _connect(crowd: Crowd, token: str, calls: int, repeat: Any) -> None:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{crowd.port}", options) as channel:
        await asyncio.gather(*(repeat(channel.unary_unary(crowd.method), token) for _ in range(calls)))


def call_in_process(crowd: Crowd) -> Served:
    """Calls from this process."""
    return asyncio.run(call(crowd))


def _read_details(error: grpc.aio.AioRpcError) -> tuple[str, float]:
    """Returns the reason of an error, and the seconds after which a retry may succeed."""
    reason, delay_s = f"{error.code().name}: {error.details()}", PAUSE_S
    for key, value in error.trailing_metadata() or ():
        for detail in status_pb2.Status.FromString(value).details if key == DETAILS_KEY else ():
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(retry):
                delay_s = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, delay_s


@contextmanager
def running_tenants(
    name: str, folder: Path, environment: dict[str, str], threads: int
) -> Iterator[tuple[RunningService, TokenIssuer]]:
    """Runs a service of two tenants; yields it and the issuer of their tokens."""
    issuer = TokenIssuer(LOCAL_ISSUER)
    variables = {
        "VFMALIGN_AUTH__MODE": "local",
        "VFMALIGN_AUTH__JWKS_FILE": str(issuer.write_jwks(folder / f"{name}-jwks.json")),
        "VFMALIGN_AUTH__TENANTS": ",".join(TENANTS),
    }
    with run_service(name, folder, {**environment, **variables}, threads) as service:
        yield service, issuer


def run(settings: MeasurementSettings) -> Section:
    """Measures every crowd."""
    section = Section("shares", f"A small client beside a crowd of another tenant, {SECONDS:.0f} s for each crowd")
    lines: list[tuple[str, ...]] = []
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory()))
        pool = resources.enter_context(ProcessPoolExecutor(2, multiprocessing.get_context("spawn")))
        equal, small, large = create_comparison(250, 1000), create_comparison(64), create_comparison(340)
        for kind, own, request, crowds in (("equal", equal, equal, CROWDS), ("2 MB", small, large, CROWDS[:3])):
            for crowd in crowds:
                with running_tenants("mmd", Path(tempfile.mkdtemp(dir=folder)), dict(os.environ), settings.threads) as (
                    service,
                    issuer,
                ):
                    line = _measure(
                        section, pool, service, issuer, method=COMPUTE, small=own, large=request, crowd=crowd
                    )
                    lines.append((f"Compute, {kind}", *line))
        store, environment = resources.enter_context(running_store(folder))
        publish_models(store)
        study = create_study()
        with running_tenants("features", folder, environment, settings.threads) as (service, issuer):
            lines.append(
                (
                    "Extract, equal",
                    *_measure(section, pool, service, issuer, method=EXTRACT, small=study, large=study, crowd=(1, 40)),
                )
            )
    columns = (
        "calls",
        "crowd",
        "crowd, calls per second",
        "longest of the crowd, ms",
        "small client, served",
        "p95, ms",
        "alone, ms",
        "memory, MiB",
        "other failures",
    )
    section.tables.append(Table("Two tenants", columns, lines))
    return section


def publish_models(store: ObjectStore) -> None:
    """Publishes the model of the studies for every tenant."""
    for tenant in TENANTS:
        state = random_state(ARCHITECTURES[MODEL], 0)
        publish(store.of_tenant(tenant), MODEL, state, architecture=MODEL, objective="random")


def _measure(
    section: Section,
    pool: ProcessPoolExecutor,
    service: RunningService,
    issuer: TokenIssuer,
    *,
    method: str,
    small: bytes,
    large: bytes,
    crowd: tuple[int, int],
) -> tuple[str, ...]:
    """Returns the line of a crowd."""
    port = int(service.address.rpartition(":")[2])
    tokens = [issuer.sign("researcher", sub=f"crowd-{number}") for number in range(crowd[0])]
    one = Crowd(port, method, small, TENANTS[1], [issuer.sign("researcher", sub="small")], 1, SECONDS / 3, waits=True)
    alone = pool.submit(call_in_process, one).result()
    many = pool.submit(call_in_process, Crowd(port, method, large, TENANTS[0], tokens, crowd[1], SECONDS + 2))
    time.sleep(2)
    beside = pool.submit(call_in_process, replace(one, seconds=SECONDS - 1))
    peak = 0
    while not many.done():
        peak = max(peak, service.process.memory_info().rss)
        time.sleep(_SAMPLE_S)
    served, client = many.result(), beside.result()
    others = {**served.failures, **client.failures}
    refused = others.pop("QUEUE_FULL", 0)
    section.records.append(
        {"case": "shares", "method": method, "crowd": crowd, "large": large != small, "alone_s": alone.seconds}
        | {"crowd_s": served.seconds, "crowd_failures": dict(served.failures), "peak_bytes": peak}
        | {"small_s": client.seconds, "small_failures": dict(client.failures)}
    )
    return (
        f"{crowd[0]} × {crowd[1]}",
        f"{len(served.seconds) / (SECONDS + 2):.1f}",
        f"{1e3 * max(served.seconds, default=0):.0f}",
        f"{len(client.seconds)} of {len(client.seconds) + client.failures.total()}",
        f"{1e3 * client.get_quantile_s(0.95):.0f}",
        f"{1e3 * alone.get_quantile_s(0.95):.0f}",
        f"{peak / 2**20:.0f}",
        ", ".join(f"{count} {reason}" for reason, count in others.items()) + f" ({refused} refused)",
    )


def create_comparison(rows: int, permutations: int = 0) -> bytes:
    """Returns an encoded comparison of two samples with 768 channels."""
    rng = np.random.default_rng(0)
    x, y = (inline_source(rng.standard_normal((rows, 768), dtype=np.float32)) for _ in range(2))
    return to_request(x, y, permutations, sigma=39.2).SerializeToString()


def create_study() -> bytes:
    """Returns an encoded extraction of a prostate phantom."""
    volumes = generate_case(0, 0).volumes
    study = features_pb2.Study(
        volumes=[features_pb2.StudyVolume(modality=kind, nifti=encode(volumes[kind])) for kind in ("t2w", "dwi", "adc")]
    )
    return features_pb2.ExtractRequest(model_id=MODEL, study=study).SerializeToString()
