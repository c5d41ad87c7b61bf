"""`python -m vfmalign.features`: run the feature service."""

from __future__ import annotations

import asyncio
import sys

from google.protobuf.descriptor import ServiceDescriptor
from grpc.aio import Server

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.rpc.server import serve
from vfmalign.core.runtime.settings import EXIT_BAD_SETTINGS, parse_args
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.core.storage.presigning import Presigner
from vfmalign.features.cache import ModelCache
from vfmalign.features.device import choose_device
from vfmalign.features.imports.servicer import Imports, add_import_services
from vfmalign.features.servicer import FeatureServicer
from vfmalign.features.settings import FeaturesSettings
from vfmalign.v1 import features_pb2, features_pb2_grpc


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    settings = parse_args("features", FeaturesSettings)
    options = settings.features
    try:
        device = choose_device(options.device)
    except BadOption as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise SystemExit(EXIT_BAD_SETTINGS) from None
    store = ObjectStore(settings.store).of_tenant(settings.auth.tenant)
    models = ModelCache(store, device, options.model_cache_bytes)

    async def run() -> None:
        servicer = FeatureServicer(store, models, options, settings.server.max_message_bytes)
        imports = Imports(store, Presigner(settings.store), options)

        def add_services(server: Server) -> list[ServiceDescriptor]:
            features_pb2_grpc.add_FeatureServiceServicer_to_server(servicer, server)
            return [features_pb2.DESCRIPTOR.services_by_name["FeatureService"], *add_import_services(imports, server)]

        async def ready() -> None:
            await servicer.warm_up()
            imports.start()

        async def stop() -> None:
            imports.close()
            servicer.close()

        await serve("features", settings, add_services, ready=ready, stop=stop)

    asyncio.run(run())


if __name__ == "__main__":
    main()
