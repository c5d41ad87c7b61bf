"""Clients of long operations: jobs, checks and experiments.

The three services offer the same calls: create, get, list, cancel, retry and watch. Every method returns records of
`client.messages`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

import grpc

from vfmalign.client.messages.checks import Check, CheckSpec
from vfmalign.client.messages.common import JobState
from vfmalign.client.messages.experiments import Experiment, ExperimentSpec
from vfmalign.client.messages.jobs import Job, JobSpec
from vfmalign.core.domain.errors import BadOption, DeadlineExceeded, Internal, Unavailable
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    common_pb2,
    experiment_pb2,
    experiment_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
)

RECONNECT_S = 300.0
"""Seconds that a service may be unreachable before `watch` and `wait` give up."""
_PAUSE_S = 1.0
_MAX_PAGE_SIZE = 1000

ReportFormat = Literal["html", "json", "csv"]
SpecT = TypeVar("SpecT", JobSpec, CheckSpec, ExperimentSpec)
OperationT = TypeVar("OperationT", Job, Check, Experiment)


class AsyncOperationsClient(Generic[SpecT, OperationT]):
    """Creates, observes and cancels operations of one kind.

    Args:
        open_channel: returns the channel to the service.
    """

    RECORD: ClassVar[type[Any]]
    """Class of the operation's record, which has the name of its message."""
    MESSAGES: ClassVar[Any]
    """Module of the service's messages."""
    STUB: ClassVar[Any]
    """Class of the service's stub."""

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel

    async def create(self, operation_id: str, spec: SpecT) -> OperationT:
        """Creates an operation and returns at once; the same id with the same spec returns the first one.

        Raises:
            BadOption: the spec is wrong; the error names the field.
            Conflict: the id is taken by an operation with another spec.
            VfmalignError: the call failed otherwise.
        """
        return self._unpack(await self._call(f"Create{self._name}", self._id(operation_id) | {"spec": spec.to_proto()}))

    async def get(self, operation_id: str) -> OperationT:
        """Returns an operation as it stands.

        Raises:
            NotFound: there is none of this id.
        """
        return self._unpack(await self._call(f"Get{self._name}", self._id(operation_id)))

    async def list(self, states: Sequence[JobState] = (), *, limit: int | None = None) -> list[OperationT]:
        """Lists operations, newest first: every page, or the newest `limit` operations.

        Args:
            states: states to list; all where empty. Only jobs can be `pending`.
            limit: positive; no limit where None.

        Raises:
            BadOption: a state is unknown, or the limit is not positive.
        """
        if limit is not None and limit < 1:
            raise BadOption(f"must be positive, got {limit}", field="limit", remedy="leave it out to list everything")
        numbers = [self._state_number(state) for state in states]
        operations: list[OperationT] = []
        token = ""
        while True:
            page_size = 0 if limit is None else min(limit - len(operations), _MAX_PAGE_SIZE)
            fields = {"page_size": page_size, "page_token": token, "states": numbers}
            page = await self._call(f"List{self._name}s", fields)
            operations += [self.RECORD.from_response(message) for message in getattr(page, f"{self._noun}s")]
            token = page.next_page_token
            if not token or len(operations) == limit:
                return operations

    async def cancel(self, operation_id: str) -> OperationT:
        """Asks an operation to stop; one that has ended stays as it is.

        Raises:
            NotFound: there is none of this id.
        """
        return self._unpack(await self._call(f"Cancel{self._name}", self._id(operation_id)))

    async def retry(self, operation_id: str) -> OperationT:
        """Queues an operation again that failed or was cancelled; it continues from what it has stored.

        One that is queued or running stays as it is, and one that is being cancelled goes on.

        Raises:
            NotFound: there is none of this id.
            PreconditionFailed: it succeeded.
        """
        return self._unpack(await self._call(f"Retry{self._name}", self._id(operation_id)))

    async def watch(
        self,
        operation_id: str,
        *,
        reconnect_s: float = RECONNECT_S,
        on_disconnect: Callable[[Unavailable], None] | None = None,
    ) -> AsyncIterator[OperationT]:
        """Yields the operation at every change until it has ended, reconnecting when the service restarts.

        Args:
            operation_id: the operation.
            reconnect_s: seconds that the service may be unreachable.
            on_disconnect: called once for every time that the service is lost.

        Raises:
            NotFound: there is none of this id.
            Unavailable: the service stayed unreachable.
        """
        lost_at: float | None = None
        while True:
            call = self._call(f"Watch{self._name}", self._id(operation_id))
            try:
                async for message in call:
                    lost_at = None
                    yield self._unpack(message)
                return
            except DeadlineExceeded:
                continue  # the stream's own deadline: the operation goes on
            except Unavailable as error:
                if lost_at is None:
                    lost_at = time.monotonic()
                    if on_disconnect is not None:
                        on_disconnect(error)
                if time.monotonic() - lost_at > reconnect_s:
                    raise
            finally:
                call.cancel()  # gRPC keeps a stream open whose reader has left
            await asyncio.sleep(_PAUSE_S)

    async def wait(
        self,
        operation_id: str,
        *,
        timeout_s: float | None = None,
        on_change: Callable[[OperationT], None] | None = None,
        reconnect_s: float = RECONNECT_S,
    ) -> OperationT:
        """Waits until an operation has ended and returns it, whether it succeeded or not.

        Args:
            operation_id: the operation.
            timeout_s: seconds to wait; without limit where None.
            on_change: called with the operation at every change.
            reconnect_s: seconds that the service may be unreachable.

        Raises:
            DeadlineExceeded: it has not ended in time; it goes on.
            NotFound: there is none of this id.
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
                subject=f"{self._noun} {operation_id}",
                remedy="wait longer, or cancel it",
            ) from None
        if last is None:
            raise Internal("the service ended its answer without a message", subject=operation_id)
        return last

    @property
    def _name(self) -> str:
        return self.RECORD.__name__

    @property
    def _noun(self) -> str:
        return self._name.lower()

    def _id(self, operation_id: str) -> dict[str, Any]:
        return {f"{self._noun}_id": operation_id}

    def _state_number(self, state: JobState) -> int:
        known = get_args(self.RECORD.model_fields["state"].annotation)
        if state not in known:
            raise BadOption(
                f"{str(state)[:64]!r} is not a state", field="states", remedy=f"choose from {', '.join(known)}"
            )
        number: int = getattr(self.MESSAGES, f"{self._noun}_state_{state}".upper())
        return number

    def _unpack(self, response: Any) -> OperationT:
        operation: OperationT = self.RECORD.from_response(getattr(response, self._noun))
        return operation

    def _stub(self) -> Any:
        return type(self).STUB(self._open_channel())

    def _call(self, name: str, fields: dict[str, Any]) -> Any:
        """Starts a call, such as `GetJob`, and returns it; its response is awaited or iterated."""
        return getattr(self._stub(), name)(getattr(self.MESSAGES, f"{name}Request")(**fields))


class AsyncJobsClient(AsyncOperationsClient[JobSpec, Job]):
    """Training jobs."""

    RECORD = Job
    MESSAGES: ClassVar[Any] = finetuning_pb2
    STUB: ClassVar[Any] = finetuning_pb2_grpc.FineTuningServiceStub


class AsyncReportedClient(AsyncOperationsClient[SpecT, OperationT]):
    """Operations that end in a report."""

    async def get_report(self, operation_id: str, report_format: ReportFormat = "html") -> bytes:
        """Returns a file of an operation's report.

        Args:
            operation_id: the operation.
            report_format: `html`, `json`, or for the cells of an experiment `csv`.

        Raises:
            NotFound: there is none of this id.
            PreconditionFailed: it has no report, because it has not succeeded.
        """
        number = common_pb2.ReportFormat.Value(f"REPORT_FORMAT_{report_format.upper()}")
        call = self._call(f"Get{self._name}Report", self._id(operation_id) | {"format": number})
        try:
            return b"".join([message.content async for message in call])
        finally:
            call.cancel()


class AsyncChecksClient(AsyncReportedClient[CheckSpec, Check]):
    """Alignment checks."""

    RECORD = Check
    MESSAGES: ClassVar[Any] = alignment_pb2
    STUB: ClassVar[Any] = alignment_pb2_grpc.AlignmentServiceStub


class AsyncExperimentsClient(AsyncReportedClient[ExperimentSpec, Experiment]):
    """Experiments: models × tasks × seeds."""

    RECORD = Experiment
    MESSAGES: ClassVar[Any] = experiment_pb2
    STUB: ClassVar[Any] = experiment_pb2_grpc.ExperimentServiceStub
