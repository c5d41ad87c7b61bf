"""gRPC servicer of `FineTuningService`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from vfmalign.client.messages.jobs import Job, JobSpec
from vfmalign.core.domain.errors import within
from vfmalign.core.rpc.watching import Watching
from vfmalign.core.runtime.threads import STORE
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.jobs.converters import to_job
from vfmalign.finetuning.jobs.repository import JobRepository, StoredJob
from vfmalign.finetuning.jobs.request import check_job_id, check_objective, resolve_job
from vfmalign.finetuning.jobs.results import reopen_if_lost
from vfmalign.finetuning.servicers import Context, Delete, OperationServicer
from vfmalign.finetuning.uses import marking_uses
from vfmalign.v1 import finetuning_pb2, finetuning_pb2_grpc


class FineTuningServicer(
    OperationServicer[StoredJob, finetuning_pb2.Job], finetuning_pb2_grpc.FineTuningServiceServicer
):
    """Serves `FineTuningService`.

    Args:
        jobs: repository of jobs.
        store: object store of the models, datasets and results.
        log_command: function that returns the command that shows the log of a job's attempt.
        delete: see `OperationServicer`.
        wake: function to call after a change that the reconciler should see at once.
        watching: object that sets the interval of watching calls, and that ends them when the service stops.
    """

    def __init__(
        self,
        jobs: JobRepository,
        store: ObjectStore,
        *,
        log_command: Callable[[str, int], str],
        delete: Delete,
        wake: Callable[[], None],
        watching: Watching,
    ) -> None:
        super().__init__(jobs, store, delete=delete, watching=watching, wake=wake)
        self._jobs = jobs
        self._log_command = log_command

    async def CreateJob(
        self, request: finetuning_pb2.CreateJobRequest, context: Context
    ) -> finetuning_pb2.CreateJobResponse:
        """Creates a job."""
        check_job_id(request.job_id)
        spec = JobSpec.from_proto(request.spec, "spec")
        check_objective(spec)
        with within("spec"):
            job = await STORE.run(self._create, request.job_id, spec)
        self._wake()
        return finetuning_pb2.CreateJobResponse(job=await self._pack(job))

    async def GetJob(self, request: finetuning_pb2.GetJobRequest, context: Context) -> finetuning_pb2.GetJobResponse:
        """Returns one job."""
        return finetuning_pb2.GetJobResponse(job=await self._get(request.job_id))

    async def ListJobs(
        self, request: finetuning_pb2.ListJobsRequest, context: Context
    ) -> finetuning_pb2.ListJobsResponse:
        """Lists jobs."""
        jobs, token = await self._list(request)
        return finetuning_pb2.ListJobsResponse(jobs=jobs, next_page_token=token)

    async def CancelJob(
        self, request: finetuning_pb2.CancelJobRequest, context: Context
    ) -> finetuning_pb2.CancelJobResponse:
        """Cancels a job."""
        return finetuning_pb2.CancelJobResponse(job=await self._cancel(request.job_id))

    async def RetryJob(
        self, request: finetuning_pb2.RetryJobRequest, context: Context
    ) -> finetuning_pb2.RetryJobResponse:
        """Queues a job again."""
        await self._check_owner(request.job_id)
        await STORE.run(reopen_if_lost, self._jobs, self._store, request.job_id)
        return finetuning_pb2.RetryJobResponse(job=await self._retry(request.job_id))

    async def DeleteJob(
        self, request: finetuning_pb2.DeleteJobRequest, context: Context
    ) -> finetuning_pb2.DeleteJobResponse:
        """Deletes a job that has ended."""
        deletion = await self._delete(request.job_id, dry_run=request.dry_run)
        return finetuning_pb2.DeleteJobResponse(deletion=deletion)

    async def WatchJob(
        self, request: finetuning_pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[finetuning_pb2.WatchJobResponse]:
        """Streams the job whenever it changes."""
        async for job in self._watch(request.job_id):
            yield finetuning_pb2.WatchJobResponse(job=job)

    def _create(self, job_id: str, spec: JobSpec) -> StoredJob:
        # An existing job is returned without resolving its spec: the stored model may have changed since.
        if (job := self._jobs.find(job_id, spec)) is not None:
            return job
        with marking_uses(self._store, "job", job_id, spec):
            return self._jobs.create(spec, resolve_job(self._store, job_id, spec))

    def _get_spec(self, item: StoredJob) -> JobSpec:
        return item.request

    def _convert(self, item: StoredJob, *, whole: bool = True) -> Job:
        log_command = self._log_command(item.id, item.attempts) if item.attempts else ""
        return to_job(item, self._store, whole=whole, log_command=log_command)
