"""gRPC servicer of `AlignmentService`: convert the request, call the repository, convert the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc

from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.analysis.records import CheckReport
from vfmalign.finetuning.checks import converters
from vfmalign.finetuning.checks.repository import Check, CheckRepository
from vfmalign.finetuning.checks.request import CheckId
from vfmalign.finetuning.db.pagination import PageRequest
from vfmalign.finetuning.jobs.converters import parse_id, parse_states
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.watching import Watching
from vfmalign.v1 import alignment_pb2, alignment_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class AlignmentServicer(alignment_pb2_grpc.AlignmentServiceServicer):
    """Serves `AlignmentService`.

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
        check_id = parse_id(CheckId, request.check_id, "check_id")
        spec = converters.parse_check(request.spec)
        check = await asyncio.to_thread(self._checks.create, check_id, spec)
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
        states = parse_states(request.states, converters.STATES)
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
        return converters.pack_check(
            check,
            self._store,
            stages=converters.pack_stages(self._stage_names, self._checks.stages(check.id), check.stage_progress),
            job_ids=[job.id for job in self._jobs.of_check(check.id)],
            report=report,
        )
