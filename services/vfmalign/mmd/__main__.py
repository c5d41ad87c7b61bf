"""`python -m vfmalign.mmd`: start the MMD service."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import grpc
import numpy as np
from google.protobuf.descriptor import ServiceDescriptor

from vfmalign.client.messages.mmd import ComputeOptions, Kernel, TestOptions
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.rpc.access.tenants import by_tenant
from vfmalign.core.rpc.server import serve
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.settings import EXIT_BAD_SETTINGS, parse_args
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.presigning import Presigner
from vfmalign.core.storage.store.probe import StoreProbe
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine import products
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.service.pipelines import Pipelines
from vfmalign.mmd.service.servicer import MmdServicer
from vfmalign.mmd.service.uploads import Uploads
from vfmalign.mmd.settings import MmdSettings, to_compute_config
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the service until SIGTERM or SIGINT."""
    settings = parse_args("mmd", MmdSettings, argv)
    try:
        engine = to_compute_config(settings.mmd)
    except VfmalignError as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise SystemExit(EXIT_BAD_SETTINGS) from None
    asyncio.run(_serve(settings, engine))


async def _serve(settings: MmdSettings, engine: ComputeConfig) -> None:
    pipelines, probe = Pipelines(settings.mmd.queue_size), StoreProbe(settings.store)
    stores: dict[str, ObjectStore] = {}
    uploads: dict[str, Uploads] = {}
    if settings.store.endpoint:
        store, presigner = ObjectStore(settings.store), Presigner(settings.store)
        stores = {tenant: store.of_tenant(tenant) for tenant in settings.auth.tenants}
        uploads = {tenant: Uploads(own, presigner, settings.mmd) for tenant, own in stores.items()}

    def create(tenant: str) -> MmdServicer:
        cache_bytes = settings.mmd.cache_mib * 2**20
        return MmdServicer(stores.get(tenant), uploads.get(tenant), engine, pipelines, cache_bytes=cache_bytes)

    servicer = by_tenant({tenant: create(tenant) for tenant in settings.auth.tenants})

    def add_services(server: grpc.aio.Server) -> list[ServiceDescriptor]:
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(servicer, server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    async def ready() -> None:
        if not settings.store.endpoint:
            logs.get("mmd").info("no object storage: requests must contain their features")
        probe.start()
        for one in uploads.values():
            one.start()
        await pipelines.long.run(_warm_up, engine)

    async def stop() -> None:
        probe.close()
        for one in uploads.values():
            one.close()
        pipelines.close()

    await serve("mmd", settings, add_services, ready=ready, stop=stop)


def _warm_up(engine: ComputeConfig) -> None:
    """Loads the device and its libraries, so that the first call does not wait for them."""
    x, y = (Sample(name, {"warm": np.eye(8, dtype=np.float32)}) for name in ("x", "y"))
    options = ComputeOptions(pairing="paired", kernel=Kernel(fixed_sigma=1.0), test=TestOptions(permutations=1))
    compare(x, y, None, options, engine)
    products.warm_up(engine.device)


if __name__ == "__main__":
    main()
