"""MmdService over gRPC: translates messages and puts jobs on the work queue. Computes nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from vfmalign.core.errors import BadOption, Exhausted, VfmalignError
from vfmalign.core.statuses import code_of
from vfmalign.core.store import ObjectStore
from vfmalign.core.work import WorkQueue
from vfmalign.mmd import jobs, translate
from vfmalign.mmd.jobs import Job
from vfmalign.mmd.results import Engine
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc

MAX_PAIRS = 1000
_BATCH_RETRY_S = 0.2

Context = grpc.aio.ServicerContext[Any, Any]


class MmdServicer(mmd_pb2_grpc.MmdServiceServicer):
    """Compares samples; one comparison computes at a time, the others wait in the queue."""

    def __init__(self, store: ObjectStore, engine: Engine, queue: WorkQueue) -> None:
        self._store, self._engine, self._queue = store, engine, queue

    async def Compute(self, request: mmd_pb2.ComputeRequest, context: Context) -> mmd_pb2.ComputeResponse:
        """Compares two samples, layer by layer."""
        return await self._compute(request, context)

    async def ComputeBatch(
        self, request: mmd_pb2.ComputeBatchRequest, context: Context
    ) -> AsyncIterator[mmd_pb2.ComputeBatchResponse]:
        """Compares many pairs in order; a pair that fails is reported and the next one runs."""
        if not 1 <= len(request.requests) <= MAX_PAIRS:
            raise BadOption(
                f"expected 1 to {MAX_PAIRS} pairs, got {len(request.requests)}",
                field="requests",
                remedy="split the batch",
            )
        for index, pair in enumerate(request.requests):
            try:
                response = await (
                    self._compute(pair, context) if index == 0 else self._compute_patiently(pair, context)
                )
            except VfmalignError as error:
                failure = mmd_pb2.PairError(code=code_of(error).value[0], reason=error.reason, message=str(error))
                yield mmd_pb2.ComputeBatchResponse(index=index, error=failure)
            else:
                yield mmd_pb2.ComputeBatchResponse(index=index, response=response)

    async def _compute(self, request: mmd_pb2.ComputeRequest, context: Context) -> mmd_pb2.ComputeResponse:
        """One comparison; a caller that goes away stops it at the next tile."""
        options = translate.options_of(request)
        given = [translate.source_of(request.x, "x"), translate.source_of(request.y, "y")]
        if request.HasField("reference"):
            given.append(translate.source_of(request.reference, "reference"))
        left_s = context.time_remaining()
        job = Job(given, options, None if left_s is None else time.monotonic() + left_s)
        cancelled = threading.Event()
        try:
            outcome = await self._queue.run(jobs.run, job, self._store, self._engine, cancelled.is_set)
        finally:
            cancelled.set()
        return translate.response_of(outcome)

    async def _compute_patiently(self, request: mmd_pb2.ComputeRequest, context: Context) -> mmd_pb2.ComputeResponse:
        """One comparison of a batch that has begun: it waits where the queue is full instead of failing."""
        while True:
            try:
                return await self._compute(request, context)
            except Exhausted as error:
                if error.retry_after_s is None:
                    raise
            await asyncio.sleep(_BATCH_RETRY_S)
