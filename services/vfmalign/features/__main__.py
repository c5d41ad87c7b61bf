"""`python -m vfmalign.features`: run the feature service."""

from __future__ import annotations

import asyncio
import sys

from google.protobuf.descriptor import ServiceDescriptor
from grpc.aio import Server

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.rpc.access.tenants import by_tenant
from vfmalign.core.rpc.server import serve
from vfmalign.core.runtime.settings import EXIT_BAD_SETTINGS, parse_args
from vfmalign.core.runtime.work_queue import WorkQueue
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.presigning import Presigner
from vfmalign.core.storage.store.probe import StoreProbe
from vfmalign.erasure.receipts import Erasures
from vfmalign.features.deletion import Deletions
from vfmalign.features.dicom.folders import PrivateFolders, get_default_folder
from vfmalign.features.dicom.reader import DicomReader
from vfmalign.features.dicom.uploads import StudyUploads
from vfmalign.features.erasure import make_erasures
from vfmalign.features.extraction.cache import ModelCache
from vfmalign.features.extraction.device import choose_device
from vfmalign.features.extraction.extractor import warm_up
from vfmalign.features.imports.servicer import Imports, add_import_services
from vfmalign.features.outbox.service import Outboxes
from vfmalign.features.servicer import FeatureServicer
from vfmalign.features.settings import FeaturesSettings
from vfmalign.features.workers import Workers
from vfmalign.v1 import features_pb2, features_pb2_grpc


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    settings = parse_args("features", FeaturesSettings)
    options = settings.features
    try:
        device = choose_device(options.device)
        folders = PrivateFolders(options.dicom_folder or get_default_folder())
        store = ObjectStore(settings.store)
        stores = {tenant: store.of_tenant(tenant) for tenant in settings.auth.tenants}
        outboxes = Outboxes(settings, stores)
    except BadOption as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise SystemExit(EXIT_BAD_SETTINGS) from None
    models = ModelCache(store, device, options.model_cache_bytes)

    async def run() -> None:
        workers, queue = Workers(options), WorkQueue(options.import_queue_size, "imports")
        probe = StoreProbe(settings.store)
        presigner, message_bytes = Presigner(settings.store), settings.server.max_message_bytes
        imports = {tenant: Imports(own, presigner, queue, options) for tenant, own in stores.items()}
        uploads = {
            tenant: StudyUploads(own, presigner, imports[tenant].quota, options) for tenant, own in stores.items()
        }
        sweeps: list[Imports | StudyUploads | Deletions | Erasures]
        sweeps = [*imports.values(), *uploads.values(), *map(make_erasures, stores.values())]
        sweeps += [Deletions(own, settings.retention.features_days) for own in stores.values()]
        dicom = {
            tenant: DicomReader(own, settings.get_servers(tenant), folders, options) for tenant, own in stores.items()
        }
        servicers = {
            tenant: FeatureServicer(
                own,
                models.of_store(own),
                dicom=dicom[tenant],
                uploads=uploads[tenant],
                workers=workers,
                outbox=outboxes.by_tenant[tenant],
                options=options,
                max_message_bytes=message_bytes,
            )
            for tenant, own in stores.items()
        }

        def add_services(server: Server) -> list[ServiceDescriptor]:
            features_pb2_grpc.add_FeatureServiceServicer_to_server(by_tenant(servicers), server)
            return [features_pb2.DESCRIPTOR.services_by_name["FeatureService"], *add_import_services(imports, server)]

        async def ready() -> None:
            await workers.device.run(warm_up, device)  # loads the device's libraries on the thread that owns it
            probe.start()
            outboxes.start()
            for one in sweeps:
                one.start()

        async def stop() -> None:
            probe.close()
            await outboxes.close()
            for one in sweeps:
                one.close()
            queue.close()
            workers.close()
            folders.close()

        await serve("features", settings, add_services, ready=ready, stop=stop)

    asyncio.run(run())


if __name__ == "__main__":
    main()
