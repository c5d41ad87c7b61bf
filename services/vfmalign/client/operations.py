"""Clients of long operations: jobs, checks and experiments.

The three services offer the same calls: create, get, list, cancel and watch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from vfmalign.client.messages.base import ApiMessage
from vfmalign.core.domain.errors import DeadlineExceeded, Internal, Unavailable
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    experiment_pb2,
    experiment_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
)

RECONNECT_S = 300.0
"""Seconds that a service may be unreachable before `watch` and `wait` give up."""
_PAUSE_S = 1.0
_MAX_PAGE_SIZE = 1000

T = TypeVar("T")


class AsyncOperationsClient(Generic[T]):
    """Creates, observes and cancels operations of one kind.

    Args:
        open_channel: returns the channel to the service.
    """

    NOUN: ClassVar[str]
    """Name of the message, such as `Job`."""
    MESSAGES: ClassVar[Any]
    """Module of the service's messages."""
    STUB: ClassVar[Any]
    """Class of the service's stub."""

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel

    async def create(self, operation_id: str, spec: ApiMessage | Message) -> T:
        """Creates an operation and returns at once; the same id with the same spec returns the first one.

        Raises:
            BadOption: the spec is wrong; the error names the field.
            Conflict: the id is taken by an operation with another spec.
            VfmalignError: the call failed otherwise.
        """
        message = spec.to_proto() if isinstance(spec, ApiMessage) else spec
        return self._unpack(await self._call(f"Create{self.NOUN}", self._id(operation_id) | {"spec": message}))

    async def get(self, operation_id: str) -> T:
        """Returns an operation as it stands.

        Raises:
            NotFound: there is none of this id.
        """
        return self._unpack(await self._call(f"Get{self.NOUN}", self._id(operation_id)))

    async def list(self, states: Sequence[str] = (), *, limit: int | None = None) -> list[T]:
        """Lists operations, newest first: every page, or the newest `limit` operations.

        Args:
            states: labels such as `running`; all where empty.
            limit: positive; no limit where None.
        """
        prefix = f"{self.NOUN.upper()}_STATE_"
        numbers = [getattr(self.MESSAGES, prefix + state.upper()) for state in states]
        operations: list[T] = []
        token = ""
        while True:
            page_size = 0 if limit is None else min(limit - len(operations), _MAX_PAGE_SIZE)
            fields = {"page_size": page_size, "page_token": token, "states": numbers}
            page = await self._call(f"List{self.NOUN}s", fields)
            operations += [self._convert(message) for message in getattr(page, f"{self.NOUN.lower()}s")]
            token = page.next_page_token
            if not token or len(operations) == limit:
                return operations

    async def cancel(self, operation_id: str) -> T:
        """Asks an operation to stop; one that has ended stays as it is.

        Raises:
            NotFound: there is none of this id.
        """
        return self._unpack(await self._call(f"Cancel{self.NOUN}", self._id(operation_id)))

    async def watch(
        self,
        operation_id: str,
        *,
        reconnect_s: float = RECONNECT_S,
        on_disconnect: Callable[[Unavailable], None] | None = None,
    ) -> AsyncIterator[T]:
        """Yields the operation at every change until it has ended, reconnecting when the service restarts.

        Args:
            operation_id: the operation.
            reconnect_s: seconds that the service may be unreachable.
            on_disconnect: called once for every time that the service is lost.

        Raises:
            NotFound: there is none of this id.
            Unavailable: the service stayed unreachable.
        """
        request = getattr(self.MESSAGES, f"Watch{self.NOUN}Request")(**self._id(operation_id))
        lost_at: float | None = None
        while True:
            call = getattr(self._stub(), f"Watch{self.NOUN}")(request)
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
        on_change: Callable[[T], None] | None = None,
        reconnect_s: float = RECONNECT_S,
    ) -> T:
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
        last: T | None = None
        try:
            async with asyncio.timeout(timeout_s):
                async for last in self.watch(operation_id, reconnect_s=reconnect_s):
                    if on_change is not None:
                        on_change(last)
        except TimeoutError:
            raise DeadlineExceeded(
                f"it has not ended within {timeout_s:g} s",
                subject=f"{self.NOUN.lower()} {operation_id}",
                remedy="wait longer, or cancel it",
            ) from None
        if last is None:
            raise Internal("the service ended its answer without a message", subject=operation_id)
        return last

    def _convert(self, message: Any) -> T:
        """Converts the message of an operation to what the methods return."""
        converted: T = message
        return converted

    def _unpack(self, response: Any) -> T:
        return self._convert(getattr(response, self.NOUN.lower()))

    def _id(self, operation_id: str) -> dict[str, Any]:
        return {f"{self.NOUN.lower()}_id": operation_id}

    def _stub(self) -> Any:
        return type(self).STUB(self._open_channel())

    async def _call(self, name: str, fields: dict[str, Any]) -> Any:
        request = getattr(self.MESSAGES, f"{name}Request")(**fields)
        return await getattr(self._stub(), name)(request)


class AsyncJobsClient(AsyncOperationsClient[finetuning_pb2.Job]):
    """Training jobs."""

    NOUN = "Job"
    MESSAGES: ClassVar[Any] = finetuning_pb2
    STUB: ClassVar[Any] = finetuning_pb2_grpc.FineTuningServiceStub


class AsyncChecksClient(AsyncOperationsClient[alignment_pb2.Check]):
    """Alignment checks."""

    NOUN = "Check"
    MESSAGES: ClassVar[Any] = alignment_pb2
    STUB: ClassVar[Any] = alignment_pb2_grpc.AlignmentServiceStub


class AsyncExperimentsClient(AsyncOperationsClient[experiment_pb2.Experiment]):
    """Experiments: models × tasks × seeds."""

    NOUN = "Experiment"
    MESSAGES: ClassVar[Any] = experiment_pb2
    STUB: ClassVar[Any] = experiment_pb2_grpc.ExperimentServiceStub
