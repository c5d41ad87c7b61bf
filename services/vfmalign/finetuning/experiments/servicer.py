"""`StudyService`: parse, call the book, pack. Decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.checks.repository import CheckBook
from vfmalign.finetuning.db.pagination import PageRequest
from vfmalign.finetuning.experiments import converters as messages
from vfmalign.finetuning.experiments.cell_status import standings
from vfmalign.finetuning.experiments.repository import Study, StudyBook
from vfmalign.finetuning.experiments.request import StudyId, StudyRequest, fix
from vfmalign.finetuning.jobs import converters as job_messages
from vfmalign.finetuning.jobs.servicer import Watching
from vfmalign.v1 import study_pb2, study_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class StudyServicer(study_pb2_grpc.StudyServiceServicer):
    """Studies.

    Args:
        studies, checks: the books.
        store: where models, datasets and reports are.
        watching: paces watchers and ends them with the service.
    """

    def __init__(self, studies: StudyBook, checks: CheckBook, store: ObjectStore, *, watching: Watching) -> None:
        self._studies = studies
        self._checks = checks
        self._store = store
        self._watching = watching

    async def CreateStudy(
        self, request: study_pb2.CreateStudyRequest, context: Context
    ) -> study_pb2.CreateStudyResponse:
        """Creates a study."""
        study_id = job_messages.parse_id(StudyId, request.study_id, "study_id")
        asked = messages.parse_study(request.spec)
        study = await asyncio.to_thread(self._create, study_id, asked)
        return study_pb2.CreateStudyResponse(study=await asyncio.to_thread(self._pack, study))

    async def GetStudy(self, request: study_pb2.GetStudyRequest, context: Context) -> study_pb2.GetStudyResponse:
        """Returns one study."""
        return study_pb2.GetStudyResponse(study=await asyncio.to_thread(self._get, request.study_id))

    async def ListStudies(
        self, request: study_pb2.ListStudiesRequest, context: Context
    ) -> study_pb2.ListStudiesResponse:
        """Lists studies."""
        states = job_messages.parse_states(request.states, messages.STATES)
        page = await asyncio.to_thread(self._studies.list, PageRequest(request.page_size, request.page_token, states))
        return study_pb2.ListStudiesResponse(
            studies=[await asyncio.to_thread(self._pack, study, cells=False) for study in page.items],
            next_page_token=page.next_token,
        )

    async def CancelStudy(
        self, request: study_pb2.CancelStudyRequest, context: Context
    ) -> study_pb2.CancelStudyResponse:
        """Asks a study to stop."""
        study = await asyncio.to_thread(self._studies.cancel, request.study_id)
        return study_pb2.CancelStudyResponse(study=await asyncio.to_thread(self._pack, study))

    async def WatchStudy(
        self, request: study_pb2.WatchStudyRequest, context: Context
    ) -> AsyncIterator[study_pb2.WatchStudyResponse]:
        """Streams a study at every change."""
        sent = None
        while True:
            message = await asyncio.to_thread(self._get, request.study_id)
            if message != sent:
                yield study_pb2.WatchStudyResponse(study=message)
                sent = message
            if message.HasField("end_time"):
                return
            await self._watching.pause()

    def _create(self, study_id: str, asked: StudyRequest) -> Study:
        # What is there already is not asked again of a store in which a model may have changed since.
        return self._studies.find(study_id, asked) or self._studies.create(study_id, asked, fix(self._store, asked))

    def _get(self, study_id: str) -> study_pb2.AlignmentStudy:
        return self._pack(self._studies.get(study_id))

    def _pack(self, study: Study, *, cells: bool = True) -> study_pb2.AlignmentStudy:
        return messages.pack_study(study, self._store, standings(study, self._checks), cells=cells)
