"""gRPC servicer of `ExperimentService`: convert the request, call the repository, convert the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

from vfmalign.client.messages import experiments as messages
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.core.domain.errors import DataLoss
from vfmalign.core.rpc.watching import Watching
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.threads import DATABASE, STORE
from vfmalign.core.storage.lost_objects import lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.artifacts import RESTORE
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.experiments.cell_status import get_cell_statuses
from vfmalign.finetuning.experiments.converters import to_message
from vfmalign.finetuning.experiments.repository import ExperimentRepository, StoredExperiment
from vfmalign.finetuning.experiments.request import check_experiment_spec, pin_inputs
from vfmalign.finetuning.operation import check_not_erased
from vfmalign.finetuning.servicers import Context, Delete, OperationServicer, stream_report
from vfmalign.finetuning.uses import marking_uses
from vfmalign.v1 import experiment_pb2, experiment_pb2_grpc

_log = logs.get(__name__)


class ExperimentServicer(
    OperationServicer[StoredExperiment, experiment_pb2.Experiment], experiment_pb2_grpc.ExperimentServiceServicer
):
    """Serves `ExperimentService`.

    Args:
        experiments: repository of experiments.
        checks: repository of checks.
        store: object store of models, datasets and reports.
        delete: see `OperationServicer`.
        watching: object that sets the interval of watching calls, and that ends them when the service stops.
    """

    def __init__(
        self,
        experiments: ExperimentRepository,
        checks: CheckRepository,
        store: ObjectStore,
        *,
        delete: Delete,
        watching: Watching,
    ) -> None:
        super().__init__(experiments, store, delete=delete, watching=watching)
        self._experiments = experiments
        self._checks = checks

    async def CreateExperiment(
        self, request: experiment_pb2.CreateExperimentRequest, context: Context
    ) -> experiment_pb2.CreateExperimentResponse:
        """Creates an experiment."""
        spec = ExperimentSpec.from_proto(request.spec, "spec")
        check_experiment_spec(spec)
        experiment = await STORE.run(self._create, request.experiment_id, spec)
        return experiment_pb2.CreateExperimentResponse(experiment=await self._pack(experiment))

    async def GetExperiment(
        self, request: experiment_pb2.GetExperimentRequest, context: Context
    ) -> experiment_pb2.GetExperimentResponse:
        """Returns one experiment."""
        return experiment_pb2.GetExperimentResponse(experiment=await self._get(request.experiment_id))

    async def ListExperiments(
        self, request: experiment_pb2.ListExperimentsRequest, context: Context
    ) -> experiment_pb2.ListExperimentsResponse:
        """Lists experiments."""
        experiments, token = await self._list(request)
        return experiment_pb2.ListExperimentsResponse(experiments=experiments, next_page_token=token)

    async def CancelExperiment(
        self, request: experiment_pb2.CancelExperimentRequest, context: Context
    ) -> experiment_pb2.CancelExperimentResponse:
        """Requests that an experiment stops."""
        return experiment_pb2.CancelExperimentResponse(experiment=await self._cancel(request.experiment_id))

    async def RetryExperiment(
        self, request: experiment_pb2.RetryExperimentRequest, context: Context
    ) -> experiment_pb2.RetryExperimentResponse:
        """Queues an experiment and its checks again after they ended."""
        return experiment_pb2.RetryExperimentResponse(experiment=await self._retry(request.experiment_id))

    async def DeleteExperiment(
        self, request: experiment_pb2.DeleteExperimentRequest, context: Context
    ) -> experiment_pb2.DeleteExperimentResponse:
        """Deletes an experiment that has ended."""
        deletion = await self._delete(request.experiment_id, dry_run=request.dry_run)
        return experiment_pb2.DeleteExperimentResponse(deletion=deletion)

    async def WatchExperiment(
        self, request: experiment_pb2.WatchExperimentRequest, context: Context
    ) -> AsyncIterator[experiment_pb2.WatchExperimentResponse]:
        """Streams the experiment whenever it changes."""
        async for message in self._watch(request.experiment_id):
            yield experiment_pb2.WatchExperimentResponse(experiment=message)

    async def GetExperimentReport(
        self, request: experiment_pb2.GetExperimentReportRequest, context: Context
    ) -> AsyncIterator[experiment_pb2.GetExperimentReportResponse]:
        """Streams a file of an experiment's report."""
        item = await DATABASE.run(self._experiments.get, request.experiment_id)
        check_not_erased("experiment", item)
        experiment = await STORE.run(self._convert, item)
        refs = {"html": experiment.report_html, "json": experiment.report_json, "csv": experiment.cells_csv}
        files = {} if experiment.report_html is None else refs
        subject = f"experiment {item.id}"
        async for content in stream_report(self._store, subject, experiment.state, files, request.format):
            yield experiment_pb2.GetExperimentReportResponse(content=content)

    def _create(self, experiment_id: str, spec: ExperimentSpec) -> StoredExperiment:
        # Look for the experiment first: its inputs are pinned already, and a model may have changed since.
        if (experiment := self._experiments.find(experiment_id, spec)) is not None:
            return experiment
        with marking_uses(self._store, "experiment", experiment_id, spec):
            return self._experiments.create(experiment_id, spec, pin_inputs(self._store, spec))

    def _get_spec(self, item: StoredExperiment) -> ExperimentSpec:
        return item.spec

    def _convert(self, item: StoredExperiment, *, whole: bool = True) -> messages.Experiment:
        if whole and item.state == "succeeded" and item.report is not None:
            try:
                with lost_as("report", item.id, RESTORE):
                    for ref in (item.report.json_ref, item.report.html_ref, item.report.csv_ref):
                        self._store.get(ref.key, sha256=ref.sha256)
            except DataLoss as loss:
                _log.warning("report_lost", experiment=item.id, error=loss)
                item = self._experiments.reopen(item.id, f"{loss.subject}: {loss.message}; it is created again")
        return to_message(item, self._store, get_cell_statuses(item, self._checks), whole=whole)
