"""gRPC servicer of FeatureService. Converts messages and runs the work on the right thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import wait
from functools import partial
from typing import Any, TypeVar

import torch
from google.protobuf.message import Message
from grpc.aio import ServicerContext

from vfmalign.client.messages.features import CreateStudyUploadRequest, ListFeatureSetsRequest, Pooling
from vfmalign.core.domain.errors import BadOption, Cancelled, PreconditionFailed
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.patches import Shape
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.rpc.access.authorisation import check_extraction, get_creator
from vfmalign.core.rpc.access.identity import current_identity
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.threads import STORE
from vfmalign.core.runtime.work_context import current_work
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.deletion import delete_below
from vfmalign.core.storage.keys import features_prefix
from vfmalign.core.storage.store.access import STORE_ACCESS
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.erasure.servicer import ErasureRpcs
from vfmalign.features import converters, listing, metrics
from vfmalign.features.deletion import Deletions
from vfmalign.features.dicom.reader import DicomReader, DicomRequest
from vfmalign.features.dicom.reading import ReadStudy
from vfmalign.features.dicom.uploads import StudyUploads
from vfmalign.features.erasure import check_group_not_erased, make_erasures
from vfmalign.features.extraction.cache import ModelCache
from vfmalign.features.extraction.dataset_extraction import extract_dataset
from vfmalign.features.extraction.device import MemoryMeter, describe_device
from vfmalign.features.extraction.extractor import check_layers, extract, extract_patches
from vfmalign.features.extraction.parts import ExtractionOptions, Features, Hooks
from vfmalign.features.extraction.study import Source, StudyRequest, prepare_sources
from vfmalign.features.extraction.study_store import store_features
from vfmalign.features.outbox.delivery import Outbox
from vfmalign.features.settings import FeaturesOptions
from vfmalign.features.workers import Workers
from vfmalign.imaging.preprocessing import PreparedStudy
from vfmalign.models.encoder import Encoder
from vfmalign.v1 import features_pb2 as pb
from vfmalign.v1 import features_pb2_grpc

T = TypeVar("T")
Context = ServicerContext[Message, Message]
_STOP_POLL_S = 1.0


class FeatureServicer(ErasureRpcs, features_pb2_grpc.FeatureServiceServicer):
    """FeatureService.

    Args:
        store: object store of the tenant.
        models: cache of the tenant's encoders.
        dicom: reads the tenant's DICOM studies.
        uploads: uploads of the tenant's callers.
        workers: worker threads of all tenants.
        outbox: delivers the tenant's observations to monitors.
        options: options of the feature service.
        max_message_bytes: maximum size of a response in bytes.
    """

    def __init__(
        self,
        store: ObjectStore,
        models: ModelCache,
        *,
        dicom: DicomReader,
        uploads: StudyUploads,
        workers: Workers,
        outbox: Outbox,
        options: FeaturesOptions,
        max_message_bytes: int,
    ) -> None:
        self._store = store
        self._models = models
        self._dicom = dicom
        self._uploads = uploads
        self._workers = workers
        self._outbox = outbox
        self._erasures = make_erasures(store)
        self._deletions = Deletions(store)
        self._options = options
        self._max_message_bytes = max_message_bytes

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """See the proto."""
        page = await self._workers.lists.run(listing.list_models, self._store, listing.PageQuery.parse(request))
        response: pb.ListModelsResponse = converters.to_models(page, self._store.uri).to_proto()
        return response

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """See the proto."""
        card, provenance = await STORE.run(listing.get_model, self._store, request.model_id)
        return pb.GetModelResponse(model=converters.to_model(card, self._store.uri, provenance).to_proto())

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        """See the proto."""
        page = await self._workers.lists.run(listing.list_datasets, self._store, listing.PageQuery.parse(request))
        response: pb.ListDatasetsResponse = converters.to_datasets(page).to_proto()
        return response

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> pb.GetDatasetResponse:
        """See the proto."""
        dataset = await STORE.run(load_dataset, self._store, request.dataset_id)
        described = await STORE.run(listing.describe_stored, self._store, dataset)
        return pb.GetDatasetResponse(dataset=described.to_proto())

    async def ListFeatureSets(self, request: pb.ListFeatureSetsRequest, context: Context) -> pb.ListFeatureSetsResponse:
        """See the proto."""
        filters, query = ListFeatureSetsRequest.from_proto(request), listing.PageQuery.parse(request)
        page = await self._workers.lists.run(listing.list_feature_sets, self._store, filters, query)
        response: pb.ListFeatureSetsResponse = converters.to_feature_sets(page).to_proto()
        return response

    async def GetFeatureSet(self, request: pb.GetFeatureSetRequest, context: Context) -> pb.GetFeatureSetResponse:
        """See the proto."""
        feature_set = await STORE.run(listing.get_feature_set, self._store, request.feature_set_id)
        return pb.GetFeatureSetResponse(feature_set=feature_set.to_proto())

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> pb.DeleteDatasetResponse:
        """See the proto."""
        deletion = await STORE.run(self._deletions.delete, "datasets", request.dataset_id, dry_run=request.dry_run)
        return pb.DeleteDatasetResponse(deletion=deletion.to_proto())

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.DeleteModelResponse:
        """See the proto."""
        deletion = await STORE.run(self._deletions.delete, "models", request.model_id, dry_run=request.dry_run)
        return pb.DeleteModelResponse(deletion=deletion.to_proto())

    async def DeleteFeatureSet(
        self, request: pb.DeleteFeatureSetRequest, context: Context
    ) -> pb.DeleteFeatureSetResponse:
        """See the proto."""
        deletion = await STORE.run(self._deletions.delete, "features", request.feature_set_id, dry_run=request.dry_run)
        return pb.DeleteFeatureSetResponse(deletion=deletion.to_proto())

    async def Extract(self, request: pb.ExtractRequest, context: Context) -> pb.ExtractResponse:
        """See the proto."""
        is_reference = request.study.dicom.WhichOneof("source") == "reference"
        check_extraction(current_identity.get(), by_reference=is_reference and not request.store_as)
        is_dicom = request.study.HasField("dicom")
        async with (self._workers.dicom_gate if is_dicom else self._workers.gate).enter() as leave:
            to_key = partial(self._store.key, prefixes=STORE_ACCESS["features"].read)
            to_upload_key = partial(self._store.key, prefixes=(self._uploads.get_prefix(),))
            dicom = converters.to_dicom_request(request.study, to_upload_key)
            return await self._extract(converters.to_study_request(request, to_key), dicom, leave)

    async def CreateStudyUpload(
        self, request: pb.CreateStudyUploadRequest, context: Context
    ) -> pb.CreateStudyUploadResponse:
        """See the proto."""
        record = CreateStudyUploadRequest.from_proto(request)
        response: pb.CreateStudyUploadResponse = (await STORE.run(self._uploads.create, record.file)).to_proto()
        return response

    async def _extract(
        self, request: StudyRequest, dicom: DicomRequest | None, leave: Callable[[], None]
    ) -> pb.ExtractResponse:
        """Extracts the features of a study. Leaves the gate when it no longer needs a thread of a pipeline."""
        stages, meter = Stages(), MemoryMeter(self._models.device)
        with stages.stage("load_model"):
            encoder, card = await STORE.run(self._models.get, request.model, request.model_sha256)
        layers = request.layers or (card.primary_layer,)
        check_layers(encoder, layers)
        patch_DHW = card.preprocessing.patch_shape_dhw
        if patch_DHW is not None and request.pooling == "none":
            raise BadOption(
                "the model reads its input in patches, whose feature maps are not joined",
                field="pooling",
                remedy="choose mean",
            )
        origin = converters.to_origin(card, request.input_transform)
        check = None if request.observation is None else self._outbox.check(request.observation.monitor_id, origin)
        read = ReadStudy([], (), {})
        if dicom is None:
            study = await self._prepare(request, request.sources, card, stages)
        else:
            async with self._workers.dicom_slots:
                read = await self._workers.dicom.run(self._dicom.read, dicom, card, stages, current_work.get())
                study = await self._prepare(request, read.sources, card, stages)

        def forward() -> Features:
            metrics.batch_size.observe(1)
            with stages.stage("forward"):
                return meter.run(lambda: _extract_one(encoder, study, layers, request.pooling, patch_DHW))

        features = _without_batch(await self._workers.device.run(forward))
        leave()
        stored = None
        if request.store_as:
            with stages.stage("write"):
                stored = await STORE.run(self._store_features, request, features)
        delivered = None
        if request.observation is not None:
            with stages.stage("observe"):
                observed = converters.to_observed(request.observation, features, origin, read.b_values)
                delivered = (await self._outbox.deliver(observed, check)).to_proto()
        if stored is not None:
            packed = converters.to_stored_layers(stored, self._store.uri)
        else:  # raises for features that are not finite; the monitor must receive them before
            packed = converters.to_inline_layers(features, self._max_message_bytes)
        cost = converters.to_cost(stages.seconds(), describe_device(self._models.device), meter.peak_bytes)
        return pb.ExtractResponse(
            layers=packed,
            checkpoint_sha256=origin.checkpoint_sha256,
            cost=cost.to_proto(),
            preprocessing_sha256=origin.preprocessing_sha256,
            observation=delivered,
            series=[pb.TakenSeries(**taken.model_dump(exclude_none=True)) for taken in read.series],
        )

    def _store_features(self, request: StudyRequest, features: Features) -> dict[str, StoredFile]:
        check_group_not_erased(self._erasures, request.store_group, request.store_as)
        stored = store_features(self._store, request.store_as, request.store_group, features)
        try:
            check_group_not_erased(self._erasures, request.store_group, request.store_as)
        except PreconditionFailed:  # the erasure began meanwhile, and may not have seen the study
            delete_below(self._store, [features_prefix(request.store_as)])
            raise
        return stored

    async def _prepare(
        self, request: StudyRequest, sources: Sequence[Source], card: ModelCard, stages: Stages
    ) -> PreparedStudy:
        return await self._workers.studies.run(
            prepare_sources,
            self._store,
            sources,
            card.preprocessing,
            request.input_transform,
            stages,
            context=current_work.get(),
        )

    async def ExtractDataset(
        self, request: pb.ExtractDatasetRequest, context: Context
    ) -> AsyncIterator[pb.ExtractDatasetResponse]:
        """See the proto."""
        extraction = converters.to_extraction_request(request)
        created_by = get_creator(current_identity.get(), extraction.created_by)
        extraction = extraction.model_copy(update={"created_by": created_by})
        stages, meter, started = Stages(), MemoryMeter(self._models.device), time.perf_counter()
        progress: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        hooks = Hooks(
            compute=lambda function: _from_thread(loop, self._workers.device.run(meter.run, function), stop),
            stages=stages,
            report=lambda done, total: _put(loop, progress, (done, total)),
            cancelled=stop.is_set,
        )
        options = ExtractionOptions(self._options.batch_size, self._options.part_cases, self._options.readers)
        work = asyncio.ensure_future(
            self._workers.datasets.run(extract_dataset, self._store, self._models, extraction, options, hooks)
        )
        work.add_done_callback(lambda _: progress.put_nowait(None))
        try:
            while (point := await progress.get()) is not None:
                yield converters.to_progress(*point, time.perf_counter() - started).to_proto()
            result = await work
        finally:
            # If the caller has left, the worker stops at the next batch. The next call reuses the stored parts.
            stop.set()
            work.cancel()
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
        cost = converters.to_cost(stages.seconds(), describe_device(self._models.device), meter.peak_bytes)
        feature_set = await STORE.run(converters.to_feature_set, self._store, result, cost)
        yield feature_set.to_proto()


def _extract_one(
    encoder: Encoder, study: PreparedStudy, layers: Sequence[str], pooling: Pooling, patch_DHW: Shape | None
) -> Features:
    if patch_DHW is not None:
        return extract_patches(encoder, study, layers, patch_DHW)
    return extract(encoder, study.input_CDHW[None], layers, pooling, torch.tensor([study.slices]))


def _without_batch(features_N: Features) -> Features:
    return {layer: tensor_N[0] for layer, tensor_N in features_N.items()}


def _from_thread(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], stop: threading.Event) -> T:
    """Runs a coroutine in the event loop and waits for it from another thread.

    Raises:
        Cancelled: `stop` was set. The loop may have ended by then, so that the future would never complete.
    """
    future = asyncio.run_coroutine_threadsafe(work, loop)
    while not wait([future], timeout=_STOP_POLL_S).done:
        if stop.is_set():
            future.cancel()
            raise Cancelled("the extraction was cancelled")
    return future.result()


def _put(loop: asyncio.AbstractEventLoop, progress: asyncio.Queue[T], item: T) -> None:
    """Puts an item into a queue of the event loop from another thread."""
    loop.call_soon_threadsafe(progress.put_nowait, item)
