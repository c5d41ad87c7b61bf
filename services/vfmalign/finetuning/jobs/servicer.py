"""`FineTuningService` and `AlignmentService`: parse, call the books, pack. Decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc

from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.analysis.records import CheckReport
from vfmalign.finetuning.checks import converters as check_messages
from vfmalign.finetuning.checks.repository import Check, CheckRepository
from vfmalign.finetuning.db.pagination import PageRequest
from vfmalign.finetuning.jobs import converters as job_messages
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.request import CheckId, JobId, resolve_job
from vfmalign.v1 import alignment_pb2, alignment_pb2_grpc, finetuning_pb2, finetuning_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Watching:
    """The pause between two looks of a watcher, and the end of all watching when the service drains."""

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._ended = asyncio.Event()

    async def pause(self) -> None:
        """Waits until it is time to look again.

        Raises:
            Unavailable: the service is ending.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), self._poll_s)
            raise Unavailable("the service is ending", subject="finetuning", remedy="watch again when it is back")

    async def end(self) -> None:
        """Ends every watcher."""
        self._ended.set()


class FineTuningServicer(finetuning_pb2_grpc.FineTuningServiceServicer):
    """Jobs.

    Args:
        jobs: the book.
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


class AlignmentServicer(alignment_pb2_grpc.AlignmentServiceServicer):
    """Checks.

    Args:
        checks, jobs: the books.
        store: where reports are.
        stage_names: every stage of a check, in order.
        wake: called after a change that the reconciler should see at once.
        watching: paces watchers and ends them with the service.
    """

    def __init__(
        self,
        checks: CheckRepository,
        jobs: JobRepository,
        store: ObjectStore,
        *,
        stage_names: Sequence[str],
        wake: Callable[[], None],
        watching: Watching,
    ) -> None:
        self._checks = checks
        self._jobs = jobs
        self._store = store
        self._stage_names = stage_names
        self._wake = wake
        self._watching = watching

    async def CreateCheck(
        self, request: alignment_pb2.CreateCheckRequest, context: Context
    ) -> alignment_pb2.CreateCheckResponse:
        """Creates a check."""
        check_id = job_messages.parse_id(CheckId, request.check_id, "check_id")
        asked = check_messages.parse_check(request.spec)
        check = await asyncio.to_thread(self._checks.create, check_id, asked)
        self._wake()
        return alignment_pb2.CreateCheckResponse(check=await asyncio.to_thread(self._pack, check))

    async def GetCheck(
        self, request: alignment_pb2.GetCheckRequest, context: Context
    ) -> alignment_pb2.GetCheckResponse:
        """Returns one check."""
        return alignment_pb2.GetCheckResponse(check=await asyncio.to_thread(self._get, request.check_id))

    async def ListChecks(
        self, request: alignment_pb2.ListChecksRequest, context: Context
    ) -> alignment_pb2.ListChecksResponse:
        """Lists checks."""
        states = job_messages.parse_states(request.states, check_messages.STATES)
        page = await asyncio.to_thread(self._checks.list, PageRequest(request.page_size, request.page_token, states))
        return alignment_pb2.ListChecksResponse(
            checks=[await asyncio.to_thread(self._pack, check, result=False) for check in page.items],
            next_page_token=page.next_token,
        )

    async def CancelCheck(
        self, request: alignment_pb2.CancelCheckRequest, context: Context
    ) -> alignment_pb2.CancelCheckResponse:
        """Asks a check to stop."""
        check = await asyncio.to_thread(self._checks.cancel, request.check_id)
        self._wake()
        return alignment_pb2.CancelCheckResponse(check=await asyncio.to_thread(self._pack, check))

    async def WatchCheck(
        self, request: alignment_pb2.WatchCheckRequest, context: Context
    ) -> AsyncIterator[alignment_pb2.WatchCheckResponse]:
        """Streams a check at every change."""
        sent = None
        while True:
            message = await asyncio.to_thread(self._get, request.check_id)
            if message != sent:
                yield alignment_pb2.WatchCheckResponse(check=message)
                sent = message
            if message.HasField("end_time"):
                return
            await self._watching.pause()

    def _get(self, check_id: str) -> alignment_pb2.Check:
        return self._pack(self._checks.get(check_id))

    def _pack(self, check: Check, *, result: bool = True) -> alignment_pb2.Check:
        report = None
        if result and check.report is not None:
            data = self._store.get(check.report.json_ref.key, sha256=check.report.json_ref.sha256)
            report = CheckReport.model_validate_json(data)
        return check_messages.pack_check(
            check,
            self._store,
            stages=check_messages.pack_stages(self._stage_names, self._checks.stages(check.id)),
            job_ids=[job.id for job in self._jobs.of_check(check.id)],
            report=report,
        )
