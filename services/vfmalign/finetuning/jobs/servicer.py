"""gRPC servicer of `FineTuningService`: convert the request, call the repository, convert the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.db.pagination import PageRequest
from vfmalign.finetuning.jobs import converters as job_messages
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.request import JobId, resolve_job
from vfmalign.finetuning.watching import Watching
from vfmalign.v1 import finetuning_pb2, finetuning_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class FineTuningServicer(finetuning_pb2_grpc.FineTuningServiceServicer):
    """Serves `FineTuningService`.

    Args:
        jobs: the repository of jobs.
        store: where models, datasets and results are.
        wake: called after a change that the reconciler should see at once.
        watching: paces watchers and ends them with the service.
    """

    def __init__(
        self, jobs: JobRepository, store: ObjectStore, *, wake: Callable[[], None], watching: Watching
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._wake = wake
        self._watching = watching

    async def CreateJob(
        self, request: finetuning_pb2.CreateJobRequest, context: Context
    ) -> finetuning_pb2.CreateJobResponse:
        """Creates a job."""
        job_id = job_messages.parse_id(JobId, request.job_id, "job_id")
        asked = job_messages.parse_job(request.spec)
        job = await asyncio.to_thread(self._jobs.find, job_id, asked)
        if job is None:
            spec = await asyncio.to_thread(resolve_job, self._store, job_id, asked)
            job = await asyncio.to_thread(self._jobs.create, asked, spec)
            self._wake()
        return finetuning_pb2.CreateJobResponse(job=job_messages.pack_job(job, self._store))

    async def GetJob(self, request: finetuning_pb2.GetJobRequest, context: Context) -> finetuning_pb2.GetJobResponse:
        """Returns one job."""
        job = await asyncio.to_thread(self._jobs.get, request.job_id)
        return finetuning_pb2.GetJobResponse(job=job_messages.pack_job(job, self._store))

    async def ListJobs(
        self, request: finetuning_pb2.ListJobsRequest, context: Context
    ) -> finetuning_pb2.ListJobsResponse:
        """Lists jobs."""
        states = job_messages.parse_states(request.states, job_messages.STATES)
        page = await asyncio.to_thread(self._jobs.list, PageRequest(request.page_size, request.page_token, states))
        return finetuning_pb2.ListJobsResponse(
            jobs=[job_messages.pack_job(job, self._store, curve=False) for job in page.items],
            next_page_token=page.next_token,
        )

    async def CancelJob(
        self, request: finetuning_pb2.CancelJobRequest, context: Context
    ) -> finetuning_pb2.CancelJobResponse:
        """Asks a job to stop."""
        job = await asyncio.to_thread(self._jobs.cancel, request.job_id)
        self._wake()
        return finetuning_pb2.CancelJobResponse(job=job_messages.pack_job(job, self._store))

    async def WatchJob(
        self, request: finetuning_pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[finetuning_pb2.WatchJobResponse]:
        """Streams a job at every change."""
        sent = None
        while True:
            job = await asyncio.to_thread(self._jobs.get, request.job_id)
            if job != sent:
                yield finetuning_pb2.WatchJobResponse(job=job_messages.pack_job(job, self._store))
                sent = job
            if job.finished:
                return
            await self._watching.pause()
