"""Shared parts of the servicers of jobs, checks and experiments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from vfmalign.client.messages.base import ApiMessage, get_enum_label
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.common import Deletion, ObjectRef
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.errors import BadOption, NotFound, PreconditionFailed
from vfmalign.core.rpc.access.authorisation import check_ownership
from vfmalign.core.rpc.access.identity import current_identity
from vfmalign.core.rpc.watching import Watching, split_content
from vfmalign.core.runtime.threads import DATABASE, STORE
from vfmalign.core.storage.lost_objects import lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.pagination import PageRequest
from vfmalign.finetuning.lifecycle import LifecycleRepository
from vfmalign.finetuning.operation import Operation
from vfmalign.finetuning.uses import marking_uses
from vfmalign.v1 import common_pb2

Context = grpc.aio.ServicerContext[Message, Message]
Item = TypeVar("Item", bound=Operation)
Packed = TypeVar("Packed", bound=Message)
Delete = Callable[[str, bool], Deletion]
"""Called as `delete(id, dry_run)`."""
_PAGE_BYTES = 4 * 2**20
"""Maximum size of the messages of a page in bytes. A page ends before it exceeds this size."""


class OperationServicer(ABC, Generic[Item, Packed]):
    """Common handlers of the three servicers. The servicers differ only in their messages, such as `Packed`.

    Args:
        repository: repository of the operations.
        store: object store of the inputs and artifacts.
        delete: function that deletes an operation that has ended, or only measures its size; see `Deletions.delete`.
        watching: object that sets the interval of watching calls, and that ends them when the service stops.
        wake: function to call after a change that the reconciler should see at once.
    """

    def __init__(
        self,
        repository: LifecycleRepository[Any, Item],
        store: ObjectStore,
        *,
        delete: Delete,
        watching: Watching,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._repository = repository
        self._store = store
        self._delete_item = delete
        self._watching = watching
        self._wake = wake

    @abstractmethod
    def _get_spec(self, item: Item) -> JobSpec | CheckSpec | ExperimentSpec:
        """Returns the request of an operation."""

    @abstractmethod
    def _convert(self, item: Item, *, whole: bool = True) -> ApiMessage:
        """Converts an operation to its message. Lists leave out large fields (`whole` is False)."""

    async def _pack(self, item: Item, *, whole: bool = True) -> Packed:
        # Operations that succeeded have a report, which is in the store.
        threads = STORE if whole and item.state == "succeeded" else DATABASE
        record = await threads.run(self._convert, item, whole=whole)
        message: Packed = record.to_proto()
        return message

    async def _get(self, item_id: str) -> Packed:
        return await self._pack(await DATABASE.run(self._repository.get, item_id))

    async def _list(self, request: Message) -> tuple[list[Packed], str]:
        """Returns one page of messages and the token of the next page."""
        query = PageRequest.parse(request)
        page = await DATABASE.run(self._repository.list, query)
        messages: list[Packed] = []
        free_bytes = _PAGE_BYTES
        for item in page.items:
            message = await self._pack(item, whole=False)
            free_bytes -= message.ByteSize()
            if messages and free_bytes < 0:
                shorter = replace(query, size=len(messages))
                return messages, (await DATABASE.run(self._repository.list, shorter)).next_token
            messages.append(message)
        return messages, page.next_token

    async def _check_owner(self, item_id: str) -> None:
        """Checks that the caller may end or restart an operation.

        Raises:
            NotFound: the id is unknown.
            Forbidden: another caller created it, and the caller is not an admin.
        """
        item = await DATABASE.run(self._repository.get, item_id)
        check_ownership(current_identity.get(), item.created_by, item.id)

    async def _cancel(self, item_id: str) -> Packed:
        await self._check_owner(item_id)
        item = await DATABASE.run(self._repository.cancel, item_id)
        self._wake()
        return await self._pack(item)

    async def _retry(self, item_id: str) -> Packed:
        await self._check_owner(item_id)
        item = await STORE.run(self._retry_marked, item_id)
        self._wake()
        return await self._pack(item)

    def _retry_marked(self, item_id: str) -> Item:
        item = self._repository.get(item_id)
        with marking_uses(self._store, self._repository.noun, item_id, self._get_spec(item)):
            return self._repository.retry(item_id)

    async def _delete(self, item_id: str, *, dry_run: bool) -> common_pb2.Deletion:
        with suppress(NotFound):  # its deletion may have been interrupted; whoever asks may complete it
            await self._check_owner(item_id)
        deletion = await STORE.run(self._delete_item, item_id, dry_run)
        message: common_pb2.Deletion = deletion.to_proto()
        return message

    async def _watch(self, item_id: str) -> AsyncIterator[Packed]:
        """Yields the message at every change until the operation has ended."""
        sent = None
        while True:
            message = await self._get(item_id)
            if message != sent:
                yield message
                sent = message
            if message.HasField("end_time"):
                return
            await self._watching.pause()


async def stream_report(
    store: ObjectStore, subject: str, state: str, files: Mapping[str, ObjectRef | None], number: int
) -> AsyncIterator[bytes]:
    """Yields a file of a report in parts.

    Args:
        store: object store of the file.
        subject: subject of the report, such as `check c1`.
        state: state of the subject, which the error names.
        files: files by format; empty if there is no report.
        number: number of the format. If no format is specified, the HTML page is sent.

    Raises:
        PreconditionFailed: there is no report, or the report does not exist in this format.
        DataLoss: the file was lost or changed.
    """
    label = get_enum_label(common_pb2.ReportFormat.DESCRIPTOR, number) or "html"
    if not files:
        raise PreconditionFailed(
            f"there is no report, because the state is {state}",
            subject=subject,
            remedy="wait until it has succeeded",
            reason="NO_REPORT",
        )
    if (ref := files.get(label)) is None:
        raise BadOption("the report has no such file", field="format", remedy=f"choose {' or '.join(files)}")

    def read() -> bytes:
        with lost_as("report", subject, "repeat the call: the report is written again"):
            return store.get(store.key(ref.uri), sha256=ref.sha256)

    content = await STORE.run(read)
    for part in split_content(content):
        yield part
