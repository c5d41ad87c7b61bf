"""The MMD service and its object store as processes, and requests to them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import urllib3
from pydantic import SecretStr
from safetensors.numpy import save

from vfmalign.cli.local import s3_server, tokens
from vfmalign.cli.local.environment import get_malloc_settings
from vfmalign.core.rpc.access.credentials import BearerToken
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.v1 import common_pb2, mmd_pb2, mmd_pb2_grpc

BUCKET = "bench-endpoint"


@dataclass(frozen=True)
class MmdServer:
    """A running service.

    Attributes:
        address: host and port of its API.
        metrics_url: of its Prometheus metrics.
        metadata: of calls to it; has a token where the service asks for one.
    """

    address: str
    metrics_url: str
    metadata: tuple[tuple[str, str], ...] = ()


@contextmanager
def running_store(folder: Path) -> Iterator[tuple[ObjectStore, dict[str, str]]]:
    """Runs an object store, and yields it with the environment variables that services need to reach it."""
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
def running_server(
    folder: Path, environment: dict[str, str], threads: int, *, with_tokens: bool = False
) -> Iterator[MmdServer]:
    """Runs `python -m vfmalign.mmd` on free ports, with the allocator settings of the deployment."""
    folder.mkdir()
    metadata: tuple[tuple[str, str], ...] = ()
    if with_tokens:
        tokens.renew(folder)
        environment = environment | tokens.TokenFiles.find(folder, "mmd").to_environment()
        owner = tokens.TokenFiles.find(folder, tokens.OWNER).token
        metadata = (BearerToken(file=owner).get_metadata(),)
    ports_path, log_path = folder / "ports.json", folder / "log"
    variables = {
        **environment,
        **get_malloc_settings("mmd"),
        "VFMALIGN_SERVER__GRPC_PORT": "0",
        "VFMALIGN_SERVER__METRICS_PORT": "0",
        "VFMALIGN_SERVER__HEALTH_PORT": "0",
        "VFMALIGN_SERVER__PORTS_FILE": str(ports_path),
        "VFMALIGN_MMD__DEVICE": "cpu",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "vfmalign.mmd"], env=variables, stdout=log, stderr=log)
    try:
        while not ports_path.exists():
            if process.poll() is not None:
                raise RuntimeError(log_path.read_text())
            time.sleep(0.05)
        ports = json.loads(ports_path.read_text())
        server = MmdServer(f"127.0.0.1:{ports['grpc']}", f"http://127.0.0.1:{ports['metrics']}/metrics", metadata)
        asyncio.run(_wait_until_ready(server))
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        process.kill()


async def _wait_until_ready(server: MmdServer) -> None:
    """Waits until the service answers a request."""
    source = inline_source(np.arange(32, dtype=np.float32).reshape(8, 4))
    async with open_stub(server) as stub:
        while True:
            try:
                await stub.Compute(to_request(source, source, 0, sigma=1.0), metadata=server.metadata)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
            else:
                return


@asynccontextmanager
async def open_stub(server: MmdServer) -> AsyncIterator[mmd_pb2_grpc.MmdServiceAsyncStub]:
    """Opens a client with a connection of its own."""
    options = [("grpc.max_send_message_length", 16 * 2**20), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        yield mmd_pb2_grpc.MmdServiceStub(channel)


def read_cpu_counters(server: MmdServer) -> dict[str, float]:
    """Returns the CPU seconds of the server's process and of its engine since it started."""
    text = urllib3.request("GET", server.metrics_url).data.decode()
    metrics = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {
        "process": float(metrics["process_cpu_seconds_total"]),
        "engine": float(metrics["vfmalign_engine_cpu_seconds_total"]),
    }


def inline_source(features: np.ndarray[Any, np.dtype[np.float32]]) -> mmd_pb2.FeatureSource:
    """Returns features as part of a request."""
    layer = mmd_pb2.InlineLayer(features=to_tensor(features))
    return mmd_pb2.FeatureSource(inline=mmd_pb2.InlineFeatures(layers=[layer]))


def upload(store: ObjectStore, features: np.ndarray[Any, np.dtype[np.float32]]) -> mmd_pb2.FeatureSource:
    """Stores features and returns a reference to them."""
    data = save({"features": features})
    ref = store.put(f"uploads/{hashlib.sha256(data).hexdigest()}.safetensors", data)
    stored = common_pb2.ObjectRef(uri=store.uri(ref.key), sha256=ref.sha256)
    return mmd_pb2.FeatureSource(uploaded=mmd_pb2.UploadedFeatures(object=stored))


def to_request(
    x: mmd_pb2.FeatureSource, y: mmd_pb2.FeatureSource, permutations: int, *, sigma: float
) -> mmd_pb2.ComputeRequest:
    """Returns a request for independent samples; 0 permutations make no test."""
    request = mmd_pb2.ComputeRequest(
        x=x, y=y, pairing=mmd_pb2.PAIRING_INDEPENDENT, kernel=mmd_pb2.Kernel(fixed_sigma=sigma)
    )
    if permutations:
        request.test.permutations = permutations
    return request
