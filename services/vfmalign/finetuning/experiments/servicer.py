"""`ExperimentService`: parse, call the book, pack. Decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.db.pagination import PageRequest
from vfmalign.finetuning.experiments import converters as messages
from vfmalign.finetuning.experiments.cell_status import get_cell_statuses
from vfmalign.finetuning.experiments.repository import Experiment, ExperimentRepository
from vfmalign.finetuning.experiments.request import ExperimentId, ExperimentRequest, fix
from vfmalign.finetuning.servicers import Watching, parse_id, parse_states
from vfmalign.v1 import experiment_pb2, experiment_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class ExperimentServicer(experiment_pb2_grpc.ExperimentServiceServicer):
    """Experiments.

    Args:
        experiments, checks: the books.
        store: where models, datasets and reports are.
        watching: paces watchers and ends them with the service.
    """

    def __init__(
        self, experiments: ExperimentRepository, checks: CheckRepository, store: ObjectStore, *, watching: Watching
    ) -> None:
        self._experiments = experiments
        self._checks = checks
        self._store = store
        self._watching = watching

    async def CreateExperiment(
        self, request: experiment_pb2.CreateExperimentRequest, context: Context
    ) -> experiment_pb2.CreateExperimentResponse:
        """Creates an experiment."""
        experiment_id = parse_id(ExperimentId, request.experiment_id, "experiment_id")
        asked = messages.parse_experiment(request.spec)
        experiment = await asyncio.to_thread(self._create, experiment_id, asked)
        return experiment_pb2.CreateExperimentResponse(experiment=await asyncio.to_thread(self._pack, experiment))

    async def GetExperiment(
        self, request: experiment_pb2.GetExperimentRequest, context: Context
    ) -> experiment_pb2.GetExperimentResponse:
        """Returns one experiment."""
        return experiment_pb2.GetExperimentResponse(
            experiment=await asyncio.to_thread(self._get, request.experiment_id)
        )

    async def ListExperiments(
        self, request: experiment_pb2.ListExperimentsRequest, context: Context
    ) -> experiment_pb2.ListExperimentsResponse:
        """Lists experiments."""
        states = parse_states(request.states, experiment_pb2.ExperimentState.DESCRIPTOR)
        page = await asyncio.to_thread(
            self._experiments.list, PageRequest(request.page_size, request.page_token, states)
        )
        return experiment_pb2.ListExperimentsResponse(
            experiments=[await asyncio.to_thread(self._pack, experiment, cells=False) for experiment in page.items],
            next_page_token=page.next_token,
        )

    async def CancelExperiment(
        self, request: experiment_pb2.CancelExperimentRequest, context: Context
    ) -> experiment_pb2.CancelExperimentResponse:
        """Asks an experiment to stop."""
        experiment = await asyncio.to_thread(self._experiments.cancel, request.experiment_id)
        return experiment_pb2.CancelExperimentResponse(experiment=await asyncio.to_thread(self._pack, experiment))

    async def WatchExperiment(
        self, request: experiment_pb2.WatchExperimentRequest, context: Context
    ) -> AsyncIterator[experiment_pb2.WatchExperimentResponse]:
        """Streams an experiment at every change."""
        sent = None
        while True:
            message = await asyncio.to_thread(self._get, request.experiment_id)
            if message != sent:
                yield experiment_pb2.WatchExperimentResponse(experiment=message)
                sent = message
            if message.HasField("end_time"):
                return
            await self._watching.pause()

    def _create(self, experiment_id: str, asked: ExperimentRequest) -> Experiment:
        # What is there already is not asked again of a store in which a model may have changed since.
        return self._experiments.find(experiment_id, asked) or self._experiments.create(
            experiment_id, asked, fix(self._store, asked)
        )

    def _get(self, experiment_id: str) -> experiment_pb2.Experiment:
        return self._pack(self._experiments.get(experiment_id))

    def _pack(self, experiment: Experiment, *, cells: bool = True) -> experiment_pb2.Experiment:
        return messages.pack_experiment(
            experiment, self._store, get_cell_statuses(experiment, self._checks), cells=cells
        )
