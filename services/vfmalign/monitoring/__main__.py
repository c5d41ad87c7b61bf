"""`python -m vfmalign.monitoring`: run the monitoring service.

Every process serves the API. The leader is the process that owns the lease. The leader also computes windows and
exports the metrics of the monitors.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

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
from vfmalign.database.lease import Lease, Term, migrate_unused
from vfmalign.database.settings import make_state_folder
from vfmalign.monitoring.blas import use_one_thread
from vfmalign.monitoring.schema import open_database
from vfmalign.monitoring.service.epochs import EpochKeeper
from vfmalign.monitoring.service.erasure import make_erasures
from vfmalign.monitoring.service.evidence import EvidenceKeeper
from vfmalign.monitoring.service.leader import Leader, Tenancy
from vfmalign.monitoring.service.repository import MonitorRepository
from vfmalign.monitoring.service.servicer import MonitoringServicer
from vfmalign.monitoring.service.states import States
from vfmalign.monitoring.settings import MonitoringSettings
from vfmalign.v1 import monitoring_pb2, monitoring_pb2_grpc


async def run(settings: MonitoringSettings) -> None:
    """Runs the service until it receives SIGTERM or SIGINT."""
    use_one_thread()
    make_state_folder(settings.state_dir)
    database = open_database(settings.database_url, settings.database.timeout_s)
    store, token, options = ObjectStore(settings.store), BearerToken.from_settings(settings.auth), settings.monitoring
    states = States(options.memory_bytes)
    tenancies = {}
    for tenant in settings.auth.tenants:
        own, objects = database.of_tenant(tenant), store.of_tenant(tenant)
        keeper = EvidenceKeeper(own, objects, states, options.snapshot_rows)
        client = _open_client(settings, token, tenant) if settings.mmd_address else None
        tenancies[tenant] = Tenancy(own, objects, keeper, client)
    sweeps = [make_erasures(one.database, one.store, states) for one in tenancies.values()]
    watching, probe = Watching("monitoring", options.poll_s), StoreProbe(settings.store)
    state = health.aio.HealthServicer()
    leading: asyncio.Task[None]

    def start_leading(term: Term) -> Leader:
        return Leader(
            term, tenancies, options, settings.quota.monitors, observations_days=settings.retention.observations_days
        )

    async def announce(name: str, serves: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await state.set(name, status.SERVING if serves else status.NOT_SERVING)

    leadership = Leadership(Lease(database, settings.lease.ttl_s), start_leading, announce)

    def add_services(server: grpc.aio.Server) -> Sequence[ServiceDescriptor]:
        servicers = {
            tenant: MonitoringServicer(
                MonitorRepository(one.database, settings.quota.monitors),
                one.keeper,
                EpochKeeper(one.database, one.store, states),
                one.store,
                watching=watching,
            )
            for tenant, one in tenancies.items()
        }
        monitoring_pb2_grpc.add_MonitoringServiceServicer_to_server(by_tenant(servicers), server)
        return [monitoring_pb2.DESCRIPTOR.services_by_name["MonitoringService"]]

    async def begin() -> None:
        nonlocal leading
        await asyncio.to_thread(migrate_unused, database)
        for sweep in sweeps:
            sweep.start()
        leading = asyncio.create_task(leadership.run(), name="leadership")
        probe.start()

    async def end() -> None:
        probe.close()
        for sweep in sweeps:
            sweep.close()
        leadership.stop()
        await asyncio.wait({leading})
        for one in tenancies.values():
            if one.client is not None:
                await one.client.close()
        database.close()

    await serve(
        "monitoring",
        settings,
        add_services,
        ready=begin,
        on_drain=watching.end,
        stop=end,
        get_loops=lambda: (leading,),
        state=state,
    )


def _open_client(settings: MonitoringSettings, token: BearerToken | None, tenant: str) -> AsyncClient:
    return AsyncClient(
        mmd_address=settings.mmd_address,
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
        tenant=tenant,
        token=token,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the service and returns the exit code of the process."""
    settings = parse_args("monitoring", MonitoringSettings, arguments)
    try:
        asyncio.run(run(settings))
    except VfmalignError as error:
        print(error, file=sys.stderr)  # noqa: T201 - why the service does not start
        return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
