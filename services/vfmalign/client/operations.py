"""Clients of long operations: jobs, checks and experiments.

The three services offer the same calls: create, get, list, cancel, retry and watch. Every method returns records of
`client.messages`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, ClassVar, Generic, Literal, TypeVar

import grpc

from vfmalign.client.messages.checks import Check, CheckSpec, EarlierCheck, TrainingPlan
from vfmalign.client.messages.common import JOB_STATES, STATES, Deletion, JobState
from vfmalign.client.messages.experiments import Experiment, ExperimentSpec
from vfmalign.client.messages.jobs import Job, JobSpec
from vfmalign.client.responses import RECONNECT_S, read_stream, reconnect
from vfmalign.core.domain.errors import BadOption, DeadlineExceeded, Internal, Unavailable
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    experiment_pb2,
    experiment_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
)

_MAX_PAGE_SIZE = 1000

ReportFormat = Literal["html", "json", "csv", "dsse"]
SpecT = TypeVar("SpecT", JobSpec, CheckSpec, ExperimentSpec)
OperationT = TypeVar("OperationT", Job, Check, Experiment)


class AsyncOperationsClient(ABC, Generic[SpecT, OperationT]):
    """Creates, observes and cancels operations of one kind. Subclasses call the service.

    Args:
        open_channel: returns the channel to the service.
    """

    NOUN: ClassVar[str]
    """Name of an operation, for errors."""
    STATES: ClassVar[Sequence[JobState]]
    """States that an operation can have."""

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel

    async def create(self, operation_id: str, spec: SpecT) -> OperationT:
        """Creates an operation and returns at once. If an operation with this id and spec exists, returns it.

        Raises:
            BadOption: a field of the spec is invalid. The error names the field.
            Conflict: an operation with this id but another spec exists.
            VfmalignError: the call failed otherwise.
        """
        return await self._create(operation_id, spec)

    async def get(self, operation_id: str) -> OperationT:
        """Returns the current state of an operation.

        Raises:
            NotFound: no operation has this id.
        """
        return await self._get(operation_id)

    async def list(
        self,
        states: Sequence[JobState] = (),
        *,
        model_id: str = "",
        dataset_id: str = "",
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int | None = None,
    ) -> list[OperationT]:
        """Lists all operations or the newest `limit` operations, newest first.

        Args:
            states: states to list; empty for all states. Only jobs can be `pending`.
            model_id: model of the operations; empty for all models.
            dataset_id: dataset of the operations; empty for all datasets.
            created_after: earliest creation time; None for no limit.
            created_before: latest creation time (exclusive); None for no limit.
            limit: maximum number of operations; None for no limit.

        Raises:
            BadOption: a state is unknown, or the limit is not positive.
        """
        if limit is not None and limit < 1:
            raise BadOption(f"must be positive, got {limit}", field="limit", remedy="leave it out to list everything")
        for state in states:
            if state not in self.STATES:
                raise BadOption(
                    f"{str(state)[:64]!r} is not a state",
                    field="states",
                    remedy=f"choose from {', '.join(self.STATES)}",
                )
        fields = {
            "states": [f"{self.NOUN.upper()}_STATE_{state.upper()}" for state in states],
            "model_id": model_id,
            "dataset_id": dataset_id,
            "created_after": created_after,
            "created_before": created_before,
        }
        operations: list[OperationT] = []
        token = ""
        while True:
            page_size = 0 if limit is None else min(limit - len(operations), _MAX_PAGE_SIZE)
            page, token = await self._list_page(fields | {"page_size": page_size, "page_token": token})
            operations += page
            if not token or len(operations) == limit:
                return operations

    async def cancel(self, operation_id: str) -> OperationT:
        """Requests that an operation stop. An operation that has ended does not change.

        Raises:
            NotFound: no operation has this id.
        """
        return await self._cancel(operation_id)

    async def retry(self, operation_id: str) -> OperationT:
        """Queues a failed or cancelled operation again. The operation continues from its stored results.

        A queued or running operation does not change. If you retry an operation that is being cancelled, the
        cancellation is withdrawn.

        Raises:
            NotFound: no operation has this id.
            PreconditionFailed: the operation succeeded.
        """
        return await self._retry(operation_id)

    async def delete(self, operation_id: str, *, dry_run: bool = False) -> Deletion:
        """Deletes an ended operation and its objects, or only returns how much a deletion would free.

        Raises:
            NotFound: no operation has this id.
            PreconditionFailed: the operation has not ended, unfinished work reads its results, or the operation is part
                of another operation.
            Forbidden: another caller created the operation, and you are not an admin.
        """
        return await self._delete(operation_id, dry_run)

    async def watch(
        self,
        operation_id: str,
        *,
        reconnect_s: float = RECONNECT_S,
        on_disconnect: Callable[[Unavailable], None] | None = None,
    ) -> AsyncGenerator[OperationT, None]:
        """Yields the operation after every change until it has ended. Reconnects when the service restarts.

        Args:
            operation_id: the operation.
            reconnect_s: seconds for which the service may be unreachable.
            on_disconnect: called whenever the connection to the service is lost.

        Raises:
            NotFound: no operation has this id.
            Unavailable: the service stayed unreachable.
        """
        states = reconnect(lambda: self._watch(operation_id), reconnect_s, on_disconnect)
        async with aclosing(states) as operations:
            async for operation in operations:
                yield operation

    async def wait(
        self,
        operation_id: str,
        *,
        timeout_s: float | None = None,
        on_change: Callable[[OperationT], None] | None = None,
        reconnect_s: float = RECONNECT_S,
    ) -> OperationT:
        """Waits until an operation has ended, and returns it. Failed and cancelled operations are returned, too.

        Args:
            operation_id: the operation.
            timeout_s: seconds to wait; None for no limit.
            on_change: function that is called with the operation after every change.
            reconnect_s: seconds for which the service may be unreachable.

        Raises:
            DeadlineExceeded: the operation did not end in time, but continues to run.
            NotFound: no operation has this id.
            Unavailable: the service stayed unreachable.
        """
        last: OperationT | None = None
        try:
            async with asyncio.timeout(timeout_s):
                async for last in self.watch(operation_id, reconnect_s=reconnect_s):
                    if on_change is not None:
                        on_change(last)
        except TimeoutError:
            raise DeadlineExceeded(
                f"it has not ended within {timeout_s:g} s",
                subject=f"{self.NOUN} {operation_id}",
                remedy="wait longer, or cancel it",
            ) from None
        if last is None:
            raise Internal("the service ended its answer without a message", subject=operation_id)
        return last

    @abstractmethod
    async def _create(self, operation_id: str, spec: SpecT) -> OperationT: ...

    @abstractmethod
    async def _get(self, operation_id: str) -> OperationT: ...

    @abstractmethod
    async def _list_page(self, fields: Mapping[str, Any]) -> tuple[Sequence[OperationT], str]:
        """Returns a page and the token of the next one, which is empty for the last one; `fields` is the request."""

    @abstractmethod
    async def _cancel(self, operation_id: str) -> OperationT: ...

    @abstractmethod
    async def _retry(self, operation_id: str) -> OperationT: ...

    @abstractmethod
    async def _delete(self, operation_id: str, dry_run: bool) -> Deletion: ...

    @abstractmethod
    def _watch(self, operation_id: str) -> AsyncGenerator[OperationT, None]: ...


class AsyncReportedClient(AsyncOperationsClient[SpecT, OperationT]):
    """Client of operations that end in a report."""

    async def get_report(self, operation_id: str, report_format: ReportFormat = "html") -> bytes:
        """Returns a file of an operation's report.

        Args:
            operation_id: the operation.
            report_format: `html`, `json`, or, for the cells of an experiment, `csv`.

        Raises:
            NotFound: no operation has this id.
            PreconditionFailed: the operation has not succeeded.
        """
        async with aclosing(self._read_report(operation_id, f"REPORT_FORMAT_{report_format.upper()}")) as parts:
            return b"".join([part async for part in parts])

    @abstractmethod
    def _read_report(self, operation_id: str, format_name: str) -> AsyncGenerator[bytes, None]: ...


class AsyncJobsClient(AsyncOperationsClient[JobSpec, Job]):
    """Training jobs."""

    NOUN = "job"
    STATES = JOB_STATES

    async def _create(self, job_id: str, spec: JobSpec) -> Job:
        request = finetuning_pb2.CreateJobRequest(job_id=job_id, spec=spec.to_proto())
        return Job.from_response((await self._stub().CreateJob(request)).job)

    async def _get(self, job_id: str) -> Job:
        request = finetuning_pb2.GetJobRequest(job_id=job_id)
        return Job.from_response((await self._stub().GetJob(request)).job)

    async def _list_page(self, fields: Mapping[str, Any]) -> tuple[Sequence[Job], str]:
        page = await self._stub().ListJobs(finetuning_pb2.ListJobsRequest(**fields))
        return [Job.from_response(job) for job in page.jobs], page.next_page_token

    async def _cancel(self, job_id: str) -> Job:
        request = finetuning_pb2.CancelJobRequest(job_id=job_id)
        return Job.from_response((await self._stub().CancelJob(request)).job)

    async def _retry(self, job_id: str) -> Job:
        request = finetuning_pb2.RetryJobRequest(job_id=job_id)
        return Job.from_response((await self._stub().RetryJob(request)).job)

    async def _delete(self, job_id: str, dry_run: bool) -> Deletion:
        request = finetuning_pb2.DeleteJobRequest(job_id=job_id, dry_run=dry_run)
        return Deletion.from_response((await self._stub().DeleteJob(request)).deletion)

    def _watch(self, job_id: str) -> AsyncGenerator[Job, None]:
        call = self._stub().WatchJob(finetuning_pb2.WatchJobRequest(job_id=job_id))
        return read_stream(call, lambda response: Job.from_response(response.job))

    def _stub(self) -> finetuning_pb2_grpc.FineTuningServiceAsyncStub:
        return finetuning_pb2_grpc.FineTuningServiceStub(self._open_channel())


class AsyncChecksClient(AsyncReportedClient[CheckSpec, Check]):
    """Alignment checks."""

    NOUN = "check"
    STATES = STATES

    async def create_with_plans(
        self, check_id: str, spec: CheckSpec
    ) -> tuple[Check, tuple[TrainingPlan, ...], tuple[EarlierCheck, ...]]:
        """Creates a check as `create` does. Also returns two plans of the check's trainings, and earlier checks.

        The first plan counts all trainings of the check. The second plan counts only the trainings with one seed. The
        plans are empty if the check already exists. Earlier checks are listed only if the check has a declared plan.
        """
        request = alignment_pb2.CreateCheckRequest(check_id=check_id, spec=spec.to_proto())
        response = await self._stub().CreateCheck(request)
        plans = tuple(map(TrainingPlan.from_response, response.plans))
        earlier = tuple(map(EarlierCheck.from_response, response.earlier_checks))
        return Check.from_response(response.check), plans, earlier

    async def _create(self, check_id: str, spec: CheckSpec) -> Check:
        return (await self.create_with_plans(check_id, spec))[0]

    async def _get(self, check_id: str) -> Check:
        request = alignment_pb2.GetCheckRequest(check_id=check_id)
        return Check.from_response((await self._stub().GetCheck(request)).check)

    async def _list_page(self, fields: Mapping[str, Any]) -> tuple[Sequence[Check], str]:
        page = await self._stub().ListChecks(alignment_pb2.ListChecksRequest(**fields))
        return [Check.from_response(check) for check in page.checks], page.next_page_token

    async def _cancel(self, check_id: str) -> Check:
        request = alignment_pb2.CancelCheckRequest(check_id=check_id)
        return Check.from_response((await self._stub().CancelCheck(request)).check)

    async def _retry(self, check_id: str) -> Check:
        request = alignment_pb2.RetryCheckRequest(check_id=check_id)
        return Check.from_response((await self._stub().RetryCheck(request)).check)

    async def _delete(self, check_id: str, dry_run: bool) -> Deletion:
        request = alignment_pb2.DeleteCheckRequest(check_id=check_id, dry_run=dry_run)
        return Deletion.from_response((await self._stub().DeleteCheck(request)).deletion)

    def _watch(self, check_id: str) -> AsyncGenerator[Check, None]:
        call = self._stub().WatchCheck(alignment_pb2.WatchCheckRequest(check_id=check_id))
        return read_stream(call, lambda response: Check.from_response(response.check))

    def _read_report(self, check_id: str, format_name: str) -> AsyncGenerator[bytes, None]:
        request = alignment_pb2.GetCheckReportRequest(check_id=check_id, format=format_name)
        return read_stream(self._stub().GetCheckReport(request), lambda response: response.content)

    def _stub(self) -> alignment_pb2_grpc.AlignmentServiceAsyncStub:
        return alignment_pb2_grpc.AlignmentServiceStub(self._open_channel())


class AsyncExperimentsClient(AsyncReportedClient[ExperimentSpec, Experiment]):
    """Client of experiments: models × tasks × seeds."""

    NOUN = "experiment"
    STATES = STATES

    async def _create(self, experiment_id: str, spec: ExperimentSpec) -> Experiment:
        request = experiment_pb2.CreateExperimentRequest(experiment_id=experiment_id, spec=spec.to_proto())
        return Experiment.from_response((await self._stub().CreateExperiment(request)).experiment)

    async def _get(self, experiment_id: str) -> Experiment:
        request = experiment_pb2.GetExperimentRequest(experiment_id=experiment_id)
        return Experiment.from_response((await self._stub().GetExperiment(request)).experiment)

    async def _list_page(self, fields: Mapping[str, Any]) -> tuple[Sequence[Experiment], str]:
        page = await self._stub().ListExperiments(experiment_pb2.ListExperimentsRequest(**fields))
        return [Experiment.from_response(experiment) for experiment in page.experiments], page.next_page_token

    async def _cancel(self, experiment_id: str) -> Experiment:
        request = experiment_pb2.CancelExperimentRequest(experiment_id=experiment_id)
        return Experiment.from_response((await self._stub().CancelExperiment(request)).experiment)

    async def _retry(self, experiment_id: str) -> Experiment:
        request = experiment_pb2.RetryExperimentRequest(experiment_id=experiment_id)
        return Experiment.from_response((await self._stub().RetryExperiment(request)).experiment)

    async def _delete(self, experiment_id: str, dry_run: bool) -> Deletion:
        request = experiment_pb2.DeleteExperimentRequest(experiment_id=experiment_id, dry_run=dry_run)
        return Deletion.from_response((await self._stub().DeleteExperiment(request)).deletion)

    def _watch(self, experiment_id: str) -> AsyncGenerator[Experiment, None]:
        call = self._stub().WatchExperiment(experiment_pb2.WatchExperimentRequest(experiment_id=experiment_id))
        return read_stream(call, lambda response: Experiment.from_response(response.experiment))

    def _read_report(self, experiment_id: str, format_name: str) -> AsyncGenerator[bytes, None]:
        request = experiment_pb2.GetExperimentReportRequest(experiment_id=experiment_id, format=format_name)
        return read_stream(self._stub().GetExperimentReport(request), lambda response: response.content)

    def _stub(self) -> experiment_pb2_grpc.ExperimentServiceAsyncStub:
        return experiment_pb2_grpc.ExperimentServiceStub(self._open_channel())
