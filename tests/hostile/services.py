"""The services in one process with an SQLite database: `python -m tests.hostile.services`.

Jobs, checks and experiments are accepted, but nothing runs them. The process writes its ports to `TEST_PORTS_FILE`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health

from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.server import AddServices, serve_api
from vfmalign.core.rpc.watching import Watching
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.settings import ServiceSettings, load
from vfmalign.core.runtime.work_queue import WorkQueue
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.presigning import Presigner
from vfmalign.features.dicom.folders import PrivateFolders, get_default_folder
from vfmalign.features.dicom.reader import DicomReader
from vfmalign.features.dicom.uploads import StudyUploads
from vfmalign.features.extraction.cache import ModelCache
from vfmalign.features.extraction.device import choose_device
from vfmalign.features.imports.servicer import Imports, add_import_services
from vfmalign.features.outbox.service import Outboxes
from vfmalign.features.servicer import FeatureServicer
from vfmalign.features.settings import FeaturesSettings
from vfmalign.features.workers import Workers
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.servicer import AlignmentServicer
from vfmalign.finetuning.deletions import Deletions
from vfmalign.finetuning.erasure import make_erasures
from vfmalign.finetuning.experiments.repository import ExperimentRepository
from vfmalign.finetuning.experiments.servicer import ExperimentServicer
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.servicer import FineTuningServicer
from vfmalign.finetuning.schema import open_database
from vfmalign.finetuning.settings import FinetuningSettings
from vfmalign.mmd.service.pipelines import Pipelines
from vfmalign.mmd.service.servicer import MmdServicer
from vfmalign.mmd.service.uploads import Uploads
from vfmalign.mmd.settings import MmdSettings, to_compute_config
from vfmalign.monitoring.schema import open_database as open_monitoring
from vfmalign.monitoring.service.epochs import EpochKeeper
from vfmalign.monitoring.service.evidence import EvidenceKeeper
from vfmalign.monitoring.service.repository import MonitorRepository
from vfmalign.monitoring.service.servicer import MonitoringServicer
from vfmalign.monitoring.service.states import States
from vfmalign.monitoring.settings import MonitoringSettings
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    experiment_pb2,
    experiment_pb2_grpc,
    features_pb2,
    features_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
    mmd_pb2,
    mmd_pb2_grpc,
    monitoring_pb2,
    monitoring_pb2_grpc,
)

FINETUNING = ("FineTuningService", "AlignmentService", "ExperimentService")


def serve_features() -> tuple[ServiceSettings, AddServices]:
    """Returns the settings and the servicer of the feature service."""
    settings = load(FeaturesSettings)
    store, options = ObjectStore(settings.store), settings.features
    models = ModelCache(store, choose_device(options.device), options.model_cache_bytes)
    workers, queue = Workers(options), WorkQueue(options.import_queue_size, "imports")
    imports = Imports(store, Presigner(settings.store), queue, options)
    folders = PrivateFolders(options.dicom_folder or get_default_folder())
    servicer = FeatureServicer(
        store,
        models,
        dicom=DicomReader(store, settings.get_servers(store.tenant), folders, options),
        uploads=StudyUploads(store, Presigner(settings.store), imports.quota, options),
        workers=workers,
        outbox=Outboxes(settings, {store.tenant: store}).by_tenant[store.tenant],
        options=options,
        max_message_bytes=settings.server.max_message_bytes,
    )

    def add(server: grpc.aio.Server) -> Sequence[ServiceDescriptor]:
        features_pb2_grpc.add_FeatureServiceServicer_to_server(servicer, server)
        services = add_import_services({store.tenant: imports}, server)
        return [features_pb2.DESCRIPTOR.services_by_name["FeatureService"], *services]

    return settings, add


def serve_mmd() -> tuple[ServiceSettings, AddServices]:
    """Returns the settings and the servicer of the MMD service."""
    settings = load(MmdSettings)
    pipelines = Pipelines(settings.mmd.queue_size)
    cache_bytes = settings.mmd.cache_mib * 2**20
    engine = to_compute_config(settings.mmd)
    store = ObjectStore(settings.store)
    uploads = Uploads(store, Presigner(settings.store), settings.mmd)
    servicer = MmdServicer(store, uploads, engine, pipelines, cache_bytes=cache_bytes)

    def add(server: grpc.aio.Server) -> Sequence[ServiceDescriptor]:
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(servicer, server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    return settings, add


def serve_finetuning() -> tuple[ServiceSettings, AddServices]:
    """Returns the settings and the servicers of the finetuning service, without the orchestrator's loops."""
    settings = load(FinetuningSettings)
    database, store = open_database(settings.database_url), ObjectStore(settings.store)
    database.migrate()
    jobs, checks, experiments = JobRepository(database), CheckRepository(database), ExperimentRepository(database)
    delete = Deletions(database, store).delete
    watching = Watching("finetuning", settings.reconciler.poll_s)

    def do_nothing() -> None:
        """Nothing waits for new work."""

    def add(server: grpc.aio.Server) -> Sequence[ServiceDescriptor]:
        finetuning_pb2_grpc.add_FineTuningServiceServicer_to_server(
            FineTuningServicer(
                jobs,
                store,
                log_command=lambda *_: "",
                delete=partial(delete, "job"),
                wake=do_nothing,
                watching=watching,
            ),
            server,
        )
        alignment_pb2_grpc.add_AlignmentServiceServicer_to_server(
            AlignmentServicer(
                checks,
                jobs,
                store,
                delete=partial(delete, "check"),
                erasures=make_erasures(database, store),
                wake=do_nothing,
                watching=watching,
            ),
            server,
        )
        experiment_pb2_grpc.add_ExperimentServiceServicer_to_server(
            ExperimentServicer(experiments, checks, store, delete=partial(delete, "experiment"), watching=watching),
            server,
        )
        modules = (finetuning_pb2, alignment_pb2, experiment_pb2)
        return [module.DESCRIPTOR.services_by_name[name] for module, name in zip(modules, FINETUNING, strict=True)]

    return settings, add


def serve_monitoring() -> tuple[ServiceSettings, AddServices]:
    """Returns the settings and the servicer of the monitoring service, without the loops of the leader."""
    settings = load(MonitoringSettings)
    database, store = open_monitoring(settings.database_url), ObjectStore(settings.store)
    database.migrate()
    states, options = States(settings.monitoring.memory_bytes), settings.monitoring
    parts = (
        MonitorRepository(database, settings.quota.monitors),
        EvidenceKeeper(database, store, states, options.snapshot_rows),
        EpochKeeper(database, store, states),
        store,
    )

    def add(server: grpc.aio.Server) -> Sequence[ServiceDescriptor]:
        servicer = MonitoringServicer(*parts, watching=Watching("monitoring", options.poll_s))
        monitoring_pb2_grpc.add_MonitoringServiceServicer_to_server(servicer, server)
        return [monitoring_pb2.DESCRIPTOR.services_by_name["MonitoringService"]]

    return settings, add


def write_ports(path: Path, ports: dict[str, int]) -> None:
    """Writes the port of each service, in one step."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(ports))
    partial.replace(path)


async def main() -> None:
    """Serves until the process is killed."""
    logs.configure("hostile", load(FinetuningSettings).log)
    async with AsyncExitStack() as resources:
        ports = {}
        for add_services in (serve_features, serve_mmd, serve_finetuning, serve_monitoring):
            state = health.aio.HealthServicer()
            _, names, port = await serve_api(*add_services(), Gate("open"), state, resources)
            ports |= {name.rsplit(".", 1)[-1]: port for name in names}
        write_ports(Path(os.environ["TEST_PORTS_FILE"]), ports)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
