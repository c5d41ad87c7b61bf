"""gRPC servicer of `AlignmentService`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from vfmalign.client.messages.checks import Check, CheckSpec, EarlierCheck, TrainingPlan
from vfmalign.core.domain.errors import DataLoss, NotFound, PreconditionFailed, Unavailable, within
from vfmalign.core.rpc.watching import Watching
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.threads import DATABASE, STORE
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.erasure.receipts import Erasures
from vfmalign.erasure.servicer import ErasureRpcs
from vfmalign.finetuning.checks.converters import to_check, to_stages
from vfmalign.finetuning.checks.plans import list_earlier
from vfmalign.finetuning.checks.reporting import all_stages, read_report
from vfmalign.finetuning.checks.repository import CheckRepository, StoredCheck
from vfmalign.finetuning.checks.request import check_inputs, check_spec
from vfmalign.finetuning.checks.statement import no_signing_key
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.operation import check_not_erased
from vfmalign.finetuning.servicers import Context, Delete, OperationServicer, stream_report
from vfmalign.finetuning.uses import marking_uses
from vfmalign.v1 import alignment_pb2, alignment_pb2_grpc

_log = logs.get(__name__)


class AlignmentServicer(
    ErasureRpcs, OperationServicer[StoredCheck, alignment_pb2.Check], alignment_pb2_grpc.AlignmentServiceServicer
):
    """Serves `AlignmentService`.

    Args:
        checks, jobs: repositories.
        store: object store of the models, datasets and reports.
        delete: see `OperationServicer`.
        erasures: erasures of patients from this service.
        wake: function to call after a change that the reconciler should see at once.
        watching: object that sets the interval of watching calls, and that ends them when the service stops.
        signs: whether the deployment has a key for the results of checks with a plan.
    """

    def __init__(
        self,
        checks: CheckRepository,
        jobs: JobRepository,
        store: ObjectStore,
        *,
        delete: Delete,
        erasures: Erasures,
        wake: Callable[[], None],
        watching: Watching,
        signs: bool = False,
    ) -> None:
        super().__init__(checks, store, delete=delete, watching=watching, wake=wake)
        self._checks = checks
        self._jobs = jobs
        self._erasures = erasures
        self._signs = signs

    async def CreateCheck(
        self, request: alignment_pb2.CreateCheckRequest, context: Context
    ) -> alignment_pb2.CreateCheckResponse:
        """Creates a check."""
        spec = CheckSpec.from_proto(request.spec, "spec")
        with within("spec"):
            check_spec(spec)
            check, plans = await STORE.run(self._create, request.check_id, spec)
        self._wake()
        return alignment_pb2.CreateCheckResponse(
            check=await self._pack(check),
            plans=[plan.to_proto() for plan in plans],
            earlier_checks=[earlier.to_proto() for earlier in await STORE.run(self._list_earlier, check)],
        )

    async def GetCheck(
        self, request: alignment_pb2.GetCheckRequest, context: Context
    ) -> alignment_pb2.GetCheckResponse:
        """Returns one check."""
        return alignment_pb2.GetCheckResponse(check=await self._get(request.check_id))

    async def ListChecks(
        self, request: alignment_pb2.ListChecksRequest, context: Context
    ) -> alignment_pb2.ListChecksResponse:
        """Lists checks."""
        checks, token = await self._list(request)
        return alignment_pb2.ListChecksResponse(checks=checks, next_page_token=token)

    async def CancelCheck(
        self, request: alignment_pb2.CancelCheckRequest, context: Context
    ) -> alignment_pb2.CancelCheckResponse:
        """Cancels a check and its jobs."""
        return alignment_pb2.CancelCheckResponse(check=await self._cancel(request.check_id))

    async def RetryCheck(
        self, request: alignment_pb2.RetryCheckRequest, context: Context
    ) -> alignment_pb2.RetryCheckResponse:
        """Queues a check and its jobs again after they ended."""
        return alignment_pb2.RetryCheckResponse(check=await self._retry(request.check_id))

    async def DeleteCheck(
        self, request: alignment_pb2.DeleteCheckRequest, context: Context
    ) -> alignment_pb2.DeleteCheckResponse:
        """Deletes a check that has ended."""
        deletion = await self._delete(request.check_id, dry_run=request.dry_run)
        return alignment_pb2.DeleteCheckResponse(deletion=deletion)

    async def WatchCheck(
        self, request: alignment_pb2.WatchCheckRequest, context: Context
    ) -> AsyncIterator[alignment_pb2.WatchCheckResponse]:
        """Streams the check whenever it changes."""
        async for check in self._watch(request.check_id):
            yield alignment_pb2.WatchCheckResponse(check=check)

    async def GetCheckReport(
        self, request: alignment_pb2.GetCheckReportRequest, context: Context
    ) -> AsyncIterator[alignment_pb2.GetCheckReportResponse]:
        """Streams a file of a check's report."""
        item = await DATABASE.run(self._checks.get, request.check_id)
        check_not_erased("check", item)
        check = await STORE.run(self._convert, item)
        result = check.result
        files = {} if result is None else {"html": result.report_html, "json": result.report_json}
        if result is not None and result.plan is not None and result.plan.statement is not None:
            files["dsse"] = result.plan.statement
        async for content in stream_report(self._store, f"check {item.id}", check.state, files, request.format):
            yield alignment_pb2.GetCheckReportResponse(content=content)

    def _create(self, check_id: str, spec: CheckSpec) -> tuple[StoredCheck, tuple[TrainingPlan, ...]]:
        # An existing check is returned even if its inputs have changed since: the check has pinned its own.
        if (check := self._checks.find(check_id, spec)) is not None:
            return check, ()
        if spec.plan is not None and not self._signs:
            raise no_signing_key(check_id)
        with marking_uses(self._store, "check", check_id, spec):
            plans = check_inputs(self._store, self._jobs, check_id, spec)
            return self._checks.create(check_id, spec), plans

    def _list_earlier(self, check: StoredCheck) -> tuple[EarlierCheck, ...]:
        """Returns the earlier checks; none if the object store is unavailable. The stage `validate` stores them."""
        with suppress(Unavailable, NotFound, PreconditionFailed):  # an existing check's dataset may have changed
            if check.request.plan is not None:
                dataset = load_dataset(self._store, check.request.dataset_id, check.request.dataset_digest)
                return list_earlier(self._checks, check, dataset)
        return ()

    def _get_spec(self, item: StoredCheck) -> CheckSpec:
        return item.request

    def _convert(self, item: StoredCheck, *, whole: bool = True) -> Check:
        report = None
        if whole and item.state == "succeeded" and item.erased_at is None:
            try:
                report = read_report(self._store, item)
            except DataLoss as loss:
                _log.warning("report_lost", check=item.id, error=loss)
                item = self._checks.reopen(item.id, f"{loss.subject}: {loss.message}; it is created again")
        stages, runs = [stage.name for stage in all_stages(item.request)], self._checks.stages(item.id)
        if item.finished:  # an earlier version may have run other stages
            stages = [stage for stage in stages if any(run.stage == stage for run in runs)]
        return to_check(
            item,
            self._store,
            stages=to_stages(stages, runs, item.stage_progress),
            jobs=self._jobs.of_check(item.id),
            report=report,
        )
