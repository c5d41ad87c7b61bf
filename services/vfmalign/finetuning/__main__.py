"""`python -m vfmalign.finetuning`: run the finetuning service.

Every process serves the API. The leader, which is the process that owns the lease, also runs the orchestrator.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from functools import partial

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2

from vfmalign.client.async_client import AsyncClient
from vfmalign.core.domain.errors import VfmalignError, exit_code
from vfmalign.core.rpc.access.credentials import BearerToken
from vfmalign.core.rpc.access.tenants import by_tenant
from vfmalign.core.rpc.server import serve
from vfmalign.core.rpc.watching import Watching
from vfmalign.core.runtime.settings import parse_args
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.probe import StoreProbe
from vfmalign.database.leadership import Leadership
from vfmalign.database.lease import Lease, Term, get_scope, migrate_unused
from vfmalign.database.settings import make_state_folder
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.servicer import AlignmentServicer
from vfmalign.finetuning.checks.signing import StatementSigner
from vfmalign.finetuning.deletions import Deletions
from vfmalign.finetuning.erasure import make_erasures
from vfmalign.finetuning.experiments.repository import ExperimentRepository
from vfmalign.finetuning.experiments.servicer import ExperimentServicer
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.servicer import FineTuningServicer
from vfmalign.finetuning.launchers.base import Launcher
from vfmalign.finetuning.launchers.by_tenant import TenantLauncher
from vfmalign.finetuning.launchers.registry import LAUNCHERS
from vfmalign.finetuning.orchestrator import Orchestrator, Tenancy
from vfmalign.finetuning.probes import Probes
from vfmalign.finetuning.schema import open_database
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
    signer = StatementSigner.from_file(settings.signing.key_file)
    make_state_folder(settings.state_dir)
    database = open_database(settings.database_url, settings.database.timeout_s)
    store, token = ObjectStore(settings.store), BearerToken.from_settings(settings.auth)
    tenancies = {
        tenant: Tenancy(database.of_tenant(tenant), store.of_tenant(tenant), _open_client(settings, token, tenant))
        for tenant in settings.auth.tenants
    }
    watching, probe = Watching("finetuning", settings.reconciler.poll_s), StoreProbe(settings.store)
    state = health.aio.HealthServicer()
    launcher: Launcher
    leading: asyncio.Task[None]

    def start_leading(term: Term) -> Orchestrator:
        probes = Probes(term, settings, token)
        return Orchestrator(
            term, tenancies=tenancies, launcher=launcher, probes=probes, settings=settings, signer=signer
        )

    def show_log(tenant: str, job: str, attempt: int) -> str:
        return TenantLauncher(launcher, tenant).log_command(job, attempt)

    async def announce(name: str, serves: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await state.set(name, status.SERVING if serves else status.NOT_SERVING)

    leadership = Leadership(Lease(database, settings.lease.ttl_s), start_leading, announce)

    def add_services(server: grpc.aio.Server) -> Sequence[ServiceDescriptor]:
        quota, wake = settings.quota, leadership.wake
        finetuning, alignment, experiment = {}, {}, {}
        for tenant, own in tenancies.items():
            jobs, checks = JobRepository(own.database, quota.jobs), CheckRepository(own.database, quota.checks)
            experiments = ExperimentRepository(own.database, quota.experiments)
            delete = Deletions(own.database, own.store).delete
            finetuning[tenant] = FineTuningServicer(
                jobs,
                own.store,
                log_command=partial(show_log, tenant),
                delete=partial(delete, "job"),
                wake=wake,
                watching=watching,
            )
            alignment[tenant] = AlignmentServicer(
                checks,
                jobs,
                own.store,
                delete=partial(delete, "check"),
                erasures=make_erasures(own.database, own.store),
                wake=wake,
                watching=watching,
                signs=signer is not None,
            )
            experiment[tenant] = ExperimentServicer(
                experiments, checks, own.store, delete=partial(delete, "experiment"), watching=watching
            )
        finetuning_pb2_grpc.add_FineTuningServiceServicer_to_server(by_tenant(finetuning), server)
        alignment_pb2_grpc.add_AlignmentServiceServicer_to_server(by_tenant(alignment), server)
        experiment_pb2_grpc.add_ExperimentServiceServicer_to_server(by_tenant(experiment), server)
        return [
            finetuning_pb2.DESCRIPTOR.services_by_name["FineTuningService"],
            alignment_pb2.DESCRIPTOR.services_by_name["AlignmentService"],
            experiment_pb2.DESCRIPTOR.services_by_name["ExperimentService"],
        ]

    async def begin() -> None:
        nonlocal launcher, leading
        await asyncio.to_thread(migrate_unused, database)
        launcher = LAUNCHERS[settings.launcher.kind](settings, await asyncio.to_thread(get_scope, database))
        leading = asyncio.create_task(leadership.run(), name="leadership")
        probe.start()

    async def end() -> None:
        probe.close()
        leadership.stop()
        await asyncio.wait({leading})
        await asyncio.to_thread(launcher.close)
        for own in tenancies.values():
            await own.client.close()
        database.close()

    await serve(
        "finetuning",
        settings,
        add_services,
        ready=begin,
        on_drain=watching.end,
        stop=end,
        get_loops=lambda: (leading,),
        state=state,
    )


def _open_client(settings: FinetuningSettings, token: BearerToken | None, tenant: str) -> AsyncClient:
    return AsyncClient(
        features_address=settings.features_address,
        mmd_address=settings.mmd_address,
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
        tenant=tenant,
        token=token,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the service and returns the exit code of the process."""
    settings = parse_args("finetuning", FinetuningSettings, arguments)
    try:
        asyncio.run(run(settings))
    except VfmalignError as error:
        print(error, file=sys.stderr)  # noqa: T201 - why the service does not start
        return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
