"""A service to attack: the real server and the real `WatchCheck`, with computations that take no time.

`python -m tests.hostile.attacked` runs it; `running_service` starts that as a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from tests.token_issuer import TokenIssuer

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.core.rpc.server import serve
from vfmalign.core.rpc.watching import Watching
from vfmalign.core.runtime.auth_settings import LOCAL_ISSUER
from vfmalign.core.runtime.settings import load
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.servicer import AlignmentServicer
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.schema import open_database
from vfmalign.finetuning.settings import FinetuningSettings
from vfmalign.v1 import alignment_pb2, alignment_pb2_grpc, mmd_pb2, mmd_pb2_grpc

CHECK = "watched"
MESSAGE_BYTES = 16 * 2**20
_START_S = 60.0


class Answers(mmd_pb2_grpc.MmdServiceServicer):
    """Answers with as many bytes as the primary layer says."""

    async def Compute(self, request: mmd_pb2.ComputeRequest, context: Any) -> mmd_pb2.ComputeResponse:
        return mmd_pb2.ComputeResponse(primary_layer="x" * int(request.primary_layer))

    async def ComputeBatch(
        self, request: mmd_pb2.ComputeBatchRequest, context: Any
    ) -> AsyncIterator[mmd_pb2.ComputeBatchResponse]:
        for index in range(10**9):
            yield mmd_pb2.ComputeBatchResponse(index=index)


@dataclass(frozen=True)
class Service:
    """A running service.

    Attributes:
        process: of the service.
        ports: by name: `grpc`, `metrics` and `health`.
        issuer: signs the tokens that it admits.
    """

    process: psutil.Process
    ports: dict[str, int]
    issuer: TokenIssuer

    def token(self, subject: str) -> str:
        """Returns the token of a researcher."""
        return self.issuer.sign("researcher", sub=subject)

    def read_metric(self, name: str) -> float:
        """Returns the sum of a metric over its labels, from a scrape like Prometheus's."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].split(" ")[0] == name)


@contextmanager
def running_service(folder: Path, *, files: int | None = None, **server: object) -> Iterator[Service]:
    """Runs the service during a block.

    Args:
        folder: for its database, ports and log.
        files: how many descriptors it may have.
        server: settings `VFMALIGN_SERVER__*`.
    """
    issuer, ports_file, log = TokenIssuer(LOCAL_ISSUER), folder / "ports.json", folder / "service.log"
    settings = {f"VFMALIGN_SERVER__{name.upper()}": str(value) for name, value in server.items()}
    environment = {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "VFMALIGN_AUTH__MODE": "local",
        "VFMALIGN_AUTH__JWKS_FILE": str(issuer.write_jwks(folder / "jwks.json")),
        "VFMALIGN_STATE_DIR": str(folder),
        "VFMALIGN_FEATURES_ADDRESS": "127.0.0.1:9",
        "VFMALIGN_MMD_ADDRESS": "127.0.0.1:9",
        "VFMALIGN_SERVER__MAX_MESSAGE_BYTES": str(MESSAGE_BYTES),
        "VFMALIGN_SERVER__PORTS_FILE": str(ports_file),
        **{f"VFMALIGN_SERVER__{name}_PORT": "0" for name in ("GRPC", "METRICS", "HEALTH")},
        **settings,
    }
    command = [sys.executable, "-m", "tests.hostile.attacked", *([] if files is None else [str(files)])]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=out)
    try:
        end = time.monotonic() + _START_S
        while not ports_file.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        yield Service(psutil.Process(process.pid), json.loads(ports_file.read_text()), issuer)
    finally:
        process.kill()
        process.wait()


async def main() -> None:
    """Serves until the process is killed."""
    settings = load(FinetuningSettings)
    database, store = open_database(settings.database_url), ObjectStore(settings.store)
    database.migrate()
    jobs, checks = JobRepository(database), CheckRepository(database)
    checks.create(CHECK, CheckSpec(model_id="m", dataset_id="d", task="segmentation"))

    def add(server: grpc.aio.Server) -> list[Any]:
        watching = Watching("finetuning", settings.reconciler.poll_s)
        unused: dict[str, Any] = {"delete": None, "erasures": None}
        alignment = AlignmentServicer(checks, jobs, store, wake=lambda: None, watching=watching, **unused)
        alignment_pb2_grpc.add_AlignmentServiceServicer_to_server(alignment, server)
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(Answers(), server)
        modules = {"AlignmentService": alignment_pb2, "MmdService": mmd_pb2}
        return [module.DESCRIPTOR.services_by_name[name] for name, module in modules.items()]

    await serve("attacked", settings, add)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
    asyncio.run(main())
