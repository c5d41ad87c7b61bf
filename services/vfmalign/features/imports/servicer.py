"""gRPC servicers of DatasetService and ModelService."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Generic, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from grpc.aio import Server, ServicerContext

from vfmalign.client.messages import imports as messages
from vfmalign.client.messages.common import FileContent, FileUpload, Progress
from vfmalign.core.domain.errors import TooLarge
from vfmalign.core.rpc.access.authorisation import get_creator
from vfmalign.core.rpc.access.identity import current_identity
from vfmalign.core.rpc.access.tenants import by_tenant
from vfmalign.core.runtime.threads import STORE
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.core.runtime.work_queue import WorkQueue
from vfmalign.core.storage.deletion import keep_sweeping
from vfmalign.core.storage.keys import INCOMING, model_prefix
from vfmalign.core.storage.provenance import read_provenance
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.presigning import Presigner
from vfmalign.core.storage.store.quota import StorageQuota
from vfmalign.core.storage.uploads import UploadArea, delete_expired
from vfmalign.features import converters, listing
from vfmalign.features.erasure import check_not_erased, make_erasures
from vfmalign.features.imports.datasets import Report, publish_dataset
from vfmalign.features.imports.models import publish_model
from vfmalign.features.settings import FeaturesOptions
from vfmalign.v1 import imports_pb2 as pb
from vfmalign.v1 import imports_pb2_grpc

T = TypeVar("T")
Context = ServicerContext[Message, Message]


@dataclass(frozen=True)
class _Result(Generic[T]):
    value: T


class Imports:
    """Resources of one tenant that both services share: uploads of callers, and the publishing queue.

    Args:
        store: object store of the tenant.
        presigner: signs upload URLs.
        queue: publishes the uploads of all tenants in turn.
        options: options of the feature service.
    """

    def __init__(self, store: ObjectStore, presigner: Presigner, queue: WorkQueue, options: FeaturesOptions) -> None:
        self.store = store
        self.check_patients = partial(check_not_erased, make_erasures(store))
        self.options = options
        self._presigner = presigner
        self._queue = queue
        self.quota = StorageQuota(
            store, options.max_stored_bytes, setting="VFMALIGN_FEATURES__MAX_STORED_BYTES", uploads=INCOMING
        )
        self._sweep: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the deletion of expired uploads."""
        sweep = partial(delete_expired, self.store, INCOMING, self.options.upload_age_s)
        self._sweep = asyncio.create_task(keep_sweeping(self.store, "imports", sweep))

    def close(self) -> None:
        """Stops the deletion of expired uploads."""
        if self._sweep is not None:
            self._sweep.cancel()

    def get_uploads(self, import_id: str) -> UploadArea:
        """Returns the uploads of one import of the caller."""
        identity = current_identity.get()
        return UploadArea(self.store, "" if identity is None else identity.key, import_id)

    async def sign(self, import_id: str, files: Sequence[FileContent]) -> tuple[tuple[FileUpload, ...], datetime]:
        """Returns upload URLs for files, and the expiry time of the URLs.

        Raises:
            TooLarge: the files exceed the tenant's quota.
        """
        expires = timedelta(seconds=self.options.upload_url_s)
        uploads = self.get_uploads(import_id)
        contents = [(file.sha256, file.size_bytes) for file in files]
        announced = [(uploads.key(sha256), size) for sha256, size in contents]
        expire_time = datetime.now(UTC) + expires
        await STORE.run(self.quota.announce, announced, expires.total_seconds())
        requests = await STORE.run(uploads.sign, self._presigner, contents, expires)
        answers = (FileUpload.of(file.sha256, request) for file, request in zip(files, requests, strict=True))
        return tuple(answers), expire_time

    async def publish(self, work: Callable[[Report, WorkContext], T]) -> AsyncIterator[Progress | _Result[T]]:
        """Publishes uploads one at a time.

        Yields the progress, then the result. Stops soon after the caller disconnects.
        """
        stop, loop = threading.Event(), asyncio.get_running_loop()
        events: asyncio.Queue[Progress | None] = asyncio.Queue()

        def report(phase: str, done: int, total: int) -> None:
            progress = Progress(phase=phase, done=done, total=total, unit="case")
            loop.call_soon_threadsafe(events.put_nowait, progress)

        task = asyncio.ensure_future(self._queue.run(work, report, WorkContext(is_cancelled=stop.is_set)))
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (progress := await events.get()) is not None:
                yield progress
            yield _Result(await task)
        finally:
            stop.set()
            task.cancel()
            task.add_done_callback(lambda done: done.cancelled() or done.exception())


class DatasetServicer(imports_pb2_grpc.DatasetServiceServicer):
    """DatasetService."""

    def __init__(self, imports: Imports) -> None:
        self._imports = imports

    async def CreateDatasetUploads(
        self, request: pb.CreateDatasetUploadsRequest, context: Context
    ) -> pb.CreateDatasetUploadsResponse:
        """See the proto."""
        record = messages.CreateDatasetUploadsRequest.from_proto(request)
        uploads, expire_time = await self._imports.sign(record.import_id, record.files)
        response: pb.CreateDatasetUploadsResponse = messages.CreateDatasetUploadsResponse(
            uploads=uploads, expire_time=expire_time
        ).to_proto()
        return response

    async def PublishDataset(
        self, request: pb.PublishDatasetRequest, context: Context
    ) -> AsyncIterator[pb.PublishDatasetResponse]:
        """See the proto."""
        record = messages.PublishDatasetRequest.from_proto(request)
        uploads, created_by = self._imports.get_uploads(record.import_id), get_creator(current_identity.get())
        events = self._imports.publish(
            lambda report, work: publish_dataset(
                uploads,
                record.dataset_id,
                record.datalist_sha256,
                report,
                work,
                check_patients=self._imports.check_patients,
                created_by=created_by,
            )
        )
        async for event in events:
            if isinstance(event, Progress):
                yield messages.PublishDatasetResponse(progress=event).to_proto()
            else:
                dataset = await STORE.run(listing.describe_stored, self._imports.store, event.value)
                yield messages.PublishDatasetResponse(dataset=dataset).to_proto()


class ModelServicer(imports_pb2_grpc.ModelServiceServicer):
    """ModelService."""

    def __init__(self, imports: Imports) -> None:
        self._imports = imports

    async def CreateModelUploads(
        self, request: pb.CreateModelUploadsRequest, context: Context
    ) -> pb.CreateModelUploadsResponse:
        """See the proto."""
        record = messages.CreateModelUploadsRequest.from_proto(request)
        limit = self._imports.options.max_weights_bytes
        if record.weights.size_bytes > limit:
            raise TooLarge(
                f"the weights have {record.weights.size_bytes:,} bytes, but at most {limit:,} are accepted",
                subject="weights.size_bytes",
                remedy="ask an operator to raise VFMALIGN_FEATURES__MAX_WEIGHTS_BYTES",
                reason="MODEL_TOO_LARGE",
            )
        uploads, expire_time = await self._imports.sign(record.import_id, [record.weights])
        response: pb.CreateModelUploadsResponse = messages.CreateModelUploadsResponse(
            upload=uploads[0], expire_time=expire_time
        ).to_proto()
        return response

    async def PublishModel(
        self, request: pb.PublishModelRequest, context: Context
    ) -> AsyncIterator[pb.PublishModelResponse]:
        """See the proto."""
        record = messages.PublishModelRequest.from_proto(request)
        uploads, limit = self._imports.get_uploads(record.import_id), self._imports.options.max_weights_bytes
        yield messages.PublishModelResponse(progress=Progress(phase="verify")).to_proto()
        publish = partial(publish_model, created_by=get_creator(current_identity.get()))
        events = self._imports.publish(lambda report, work: publish(uploads, record, limit, work))
        async for event in events:
            if isinstance(event, _Result):
                card, store = event.value, self._imports.store
                provenance = await STORE.run(read_provenance, store, model_prefix(card.id), card.checkpoint.sha256)
                model = converters.to_model(card, store.uri, provenance)
                yield messages.PublishModelResponse(model=model).to_proto()


def add_import_services(imports: Mapping[str, Imports], server: Server) -> list[ServiceDescriptor]:
    """Adds both servicers for these tenants to a server. Returns the services."""
    datasets = by_tenant({tenant: DatasetServicer(one) for tenant, one in imports.items()})
    models = by_tenant({tenant: ModelServicer(one) for tenant, one in imports.items()})
    imports_pb2_grpc.add_DatasetServiceServicer_to_server(datasets, server)
    imports_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
    return list(pb.DESCRIPTOR.services_by_name.values())
