"""`python -m vfmalign.finetuning`: wire the service and run it.

Every process serves the API. The one that holds the lease also does the orchestrator's work.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2

from vfmalign.client.async_client import AsyncClient
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.rpc.credentials import BearerToken
from vfmalign.core.rpc.server import serve
from vfmalign.core.runtime.settings import parse_args
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.servicer import AlignmentServicer
from vfmalign.finetuning.db.database import Database
from vfmalign.finetuning.db.lease import Lease, Term, get_scope
from vfmalign.finetuning.experiments.repository import ExperimentRepository
from vfmalign.finetuning.experiments.servicer import ExperimentServicer
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.servicer import FineTuningServicer
from vfmalign.finetuning.launchers.base import Launcher
from vfmalign.finetuning.launchers.registry import LAUNCHERS
from vfmalign.finetuning.leadership import HEALTH_SERVICE, Leadership
from vfmalign.finetuning.orchestrator import Orchestrator
from vfmalign.finetuning.servicers import Watching
from vfmalign.finetuning.settings import FinetuningSettings
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    experiment_pb2,
    experiment_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
)


async def run(settings: FinetuningSettings) -> None:
    """Runs the service until it receives SIGTERM or SIGINT."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url).of_tenant(settings.auth.tenant)
    store = ObjectStore(settings.store).of_tenant(settings.auth.tenant)
    client = AsyncClient(
        features_address=settings.features_address,
        mmd_address=settings.mmd_address,
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
        token=BearerToken.from_settings(settings.auth),
    )
    watching = Watching(settings.reconciler.poll_s)
    state = health.aio.HealthServicer()
    launcher: Launcher
    leading: asyncio.Task[None]

    def take_office(term: Term) -> Orchestrator:
        return Orchestrator(term, database=database, store=store, launcher=launcher, client=client, settings=settings)

    def show_log(job: str, attempt: int) -> str:
        return launcher.log_command(job, attempt)

    async def announce(is_leader: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await state.set(HEALTH_SERVICE, status.SERVING if is_leader else status.NOT_SERVING)

    leadership = Leadership(Lease(database, settings.lease.ttl_s), take_office, announce)

    def add_services(server: grpc.aio.Server) -> Sequence[ServiceDescriptor]:
        quota = settings.quota
        jobs, checks = JobRepository(database, quota.jobs), CheckRepository(database, quota.checks)
        experiments = ExperimentRepository(database, quota.experiments)
        finetuning_pb2_grpc.add_FineTuningServiceServicer_to_server(
            FineTuningServicer(jobs, store, log_command=show_log, wake=leadership.wake, watching=watching), server
        )
        alignment_pb2_grpc.add_AlignmentServiceServicer_to_server(
            AlignmentServicer(checks, jobs, store, wake=leadership.wake, watching=watching), server
        )
        experiment_pb2_grpc.add_ExperimentServiceServicer_to_server(
            ExperimentServicer(experiments, checks, store, watching=watching), server
        )
        return [
            finetuning_pb2.DESCRIPTOR.services_by_name["FineTuningService"],
            alignment_pb2.DESCRIPTOR.services_by_name["AlignmentService"],
            experiment_pb2.DESCRIPTOR.services_by_name["ExperimentService"],
        ]

    async def begin() -> None:
        nonlocal launcher, leading
        await asyncio.to_thread(database.migrate)
        launcher = LAUNCHERS[settings.launcher.kind](settings, await asyncio.to_thread(get_scope, database))
        leading = asyncio.create_task(leadership.run(), name="leadership")

    async def end() -> None:
        leadership.stop()
        await leading
        await asyncio.to_thread(launcher.close)
        await client.close()
        database.close()

    await serve("finetuning", settings, add_services, ready=begin, on_drain=watching.end, stop=end, state=state)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the service; returns the exit code."""
    settings = parse_args("finetuning", FinetuningSettings, arguments)
    try:
        asyncio.run(run(settings))
    except VfmalignError as error:
        print(error, file=sys.stderr)  # noqa: T201 - why the service does not start
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
