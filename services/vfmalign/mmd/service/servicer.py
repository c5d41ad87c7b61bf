"""gRPC servicer of MmdService. Converts messages and submits each comparison to a pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
from google.protobuf.message import Message

from vfmalign.client.messages.mmd import ComputeResponse, CreateUploadRequest, PairError
from vfmalign.core.domain.errors import BadOption, Exhausted, VfmalignError
from vfmalign.core.rpc.status_mapping import get_status_code
from vfmalign.core.runtime.threads import MESSAGES, STORE
from vfmalign.core.runtime.work_context import current_work
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.lru_cache import SizedLruCache
from vfmalign.mmd.service import comparison_job, converters
from vfmalign.mmd.service.comparison_job import ComparisonJob
from vfmalign.mmd.service.feature_reader import FeatureReader, get_missing_store
from vfmalign.mmd.service.pipelines import Pipelines
from vfmalign.mmd.service.uploads import Uploads
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc

MAX_PAIRS = 1000

Context = grpc.aio.ServicerContext[Message, Message]


class MmdServicer(mmd_pb2_grpc.MmdServiceServicer):
    """Servicer of MmdService. At most one long and one short comparison run at a time. Other comparisons wait.

    Args:
        store: object storage of one tenant's feature sets and uploads; if None, only inline features are accepted.
        uploads: uploads of this tenant; None if there is no store.
        engine: device, precision and memory limit.
        pipelines: pipelines that run the comparisons of all tenants.
        cache_bytes: maximum size of the samples that the pairs of a batch share.
    """

    def __init__(
        self,
        store: ObjectStore | None,
        uploads: Uploads | None,
        engine: ComputeConfig,
        pipelines: Pipelines,
        *,
        cache_bytes: int,
    ) -> None:
        self._store, self._uploads, self._engine, self._pipelines = store, uploads, engine, pipelines
        self._cache_bytes = cache_bytes

    async def Compute(self, request: mmd_pb2.ComputeRequest, context: Context) -> mmd_pb2.ComputeResponse:
        """Compares two samples, layer by layer."""
        return await self._compute(request, FeatureReader(self._store), self._engine)

    async def ComputeBatch(
        self, request: mmd_pb2.ComputeBatchRequest, context: Context
    ) -> AsyncIterator[mmd_pb2.ComputeBatchResponse]:
        """Compares many pairs of samples in order.

        If a pair fails, the response reports the error, and the next pair follows.
        """
        if not 1 <= len(request.requests) <= MAX_PAIRS:
            raise BadOption(
                f"expected 1 to {MAX_PAIRS:,} pairs, got {len(request.requests):,}",
                field="requests",
                remedy="send at least one pair, and split a larger batch",
            )
        cache = SizedLruCache(self._cache_bytes if len(request.requests) > 1 else 0)
        reader, engine = FeatureReader(self._store, cache), replace(self._engine, cache=cache)
        for index, pair in enumerate(request.requests):
            compute = self._compute if index == 0 else self._compute_with_retry
            try:
                response = await compute(pair, reader, engine)
            except VfmalignError as error:
                failure = PairError(code=get_status_code(error).value[0], reason=error.reason, message=str(error))
                yield mmd_pb2.ComputeBatchResponse(index=index, error=failure.to_proto())
            else:
                yield mmd_pb2.ComputeBatchResponse(index=index, response=response)

    async def CreateUpload(
        self, request: mmd_pb2.CreateUploadRequest, context: Context
    ) -> mmd_pb2.CreateUploadResponse:
        """Returns the URL to which the client uploads a file of arrays."""
        record = CreateUploadRequest.from_proto(request)
        if self._uploads is None:
            raise get_missing_store("file")
        response = await STORE.run(self._uploads.create, record.file)
        message: mmd_pb2.CreateUploadResponse = response.to_proto()
        return message

    async def _compute(
        self, request: mmd_pb2.ComputeRequest, reader: FeatureReader, engine: ComputeConfig
    ) -> mmd_pb2.ComputeResponse:
        """Runs one comparison. The comparison stops at the next tile if the caller disconnects."""
        options = converters.to_options(request)
        sources = [converters.to_source(request.x, "x"), converters.to_source(request.y, "y")]
        if request.HasField("reference"):
            sources.append(converters.to_source(request.reference, "reference"))
        job = ComparisonJob(sources, options, reader, current_work.get())
        # Reading waits for the network, and must not block the worker thread meanwhile.
        prepared = (
            comparison_job.prepare(job, engine)
            if job.is_inline
            else await STORE.run(comparison_job.prepare, job, engine)
        )
        pipeline = self._pipelines.short if prepared.short else self._pipelines.long
        response = await pipeline.run(comparison_job.run, prepared, engine)
        if response.projection is None:
            return _to_proto(response)
        # A projection has up to 200,000 points; convert it in a thread, so that other calls do not wait.
        return await MESSAGES.run(_to_proto, response)

    async def _compute_with_retry(
        self, request: mmd_pb2.ComputeRequest, reader: FeatureReader, engine: ComputeConfig
    ) -> mmd_pb2.ComputeResponse:
        """Runs one comparison of a batch. Waits if the queue is full, because the batch has already started."""
        while True:
            try:
                return await self._compute(request, reader, engine)
            except Exhausted as error:
                if error.reason != "QUEUE_FULL" or error.retry_after_s is None:
                    raise
                delay_s = error.retry_after_s
            await asyncio.sleep(delay_s)


def _to_proto(response: ComputeResponse) -> mmd_pb2.ComputeResponse:
    message: mmd_pb2.ComputeResponse = response.to_proto()
    return message
