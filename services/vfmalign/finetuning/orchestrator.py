"""Orchestrator: the loops over jobs, checks and experiments during one term of the leader.

Everything that the loops write is fenced: transactions verify the term, and writes to the object store its deadline.
Repositories and store of the API's servicers are not, because a standby serves the API as well.
"""

from __future__ import annotations

import asyncio
import dataclasses
from functools import partial

from vfmalign.client.async_client import AsyncClient
from vfmalign.client.messages.common import Estimate
from vfmalign.core.runtime import metrics
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.checks.reconciler import PollingPolicy, Reconciler
from vfmalign.finetuning.checks.reporting import all_stages
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.db.database import Database
from vfmalign.finetuning.db.lease import Term
from vfmalign.finetuning.experiments.cell_results import CellResults
from vfmalign.finetuning.experiments.report_writer import ReportWriter
from vfmalign.finetuning.experiments.repository import ExperimentRepository
from vfmalign.finetuning.experiments.runner import ExperimentRunner
from vfmalign.finetuning.experiments.seed_control import CellFeatures, compare_seeds
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.retries import Limits
from vfmalign.finetuning.jobs.supervisor import Supervisor
from vfmalign.finetuning.launchers.base import Launcher
from vfmalign.finetuning.settings import FinetuningSettings


class Orchestrator:
    """The work of `Leadership`.

    Args:
        term: fences every write.
        database: holds jobs, checks and experiments.
        store: holds their artifacts.
        launcher: runs the jobs; it outlives the term.
        client: calls the other services.
        settings: limits and intervals.
    """

    def __init__(
        self,
        term: Term,
        *,
        database: Database,
        store: ObjectStore,
        launcher: Launcher,
        client: AsyncClient,
        settings: FinetuningSettings,
    ) -> None:
        self._client = client
        self._loop: asyncio.AbstractEventLoop | None = None
        database, store = database.guarded_by(term.verify), store.guarded_by(term.check_deadline)
        jobs, checks = JobRepository(database), CheckRepository(database)
        limits = settings.launcher.model_dump(include={field.name for field in dataclasses.fields(Limits)})
        self._stops_jobs = settings.launcher.stops_jobs
        self._supervisor = Supervisor(jobs, store, launcher, Limits(**limits))
        self._reconciler = Reconciler(
            get_stages=partial(all_stages, checks),
            checks=checks,
            jobs=jobs,
            supervisor=self._supervisor,
            store=store,
            client=client,
            policy=PollingPolicy(**settings.reconciler.model_dump()),
        )
        results = CellResults(checks, store)
        self._experiments = ExperimentRunner(
            experiments=ExperimentRepository(database),
            checks=checks,
            store=store,
            results=results,
            write_report=ReportWriter(results, store, self._compare_seeds).write,
            max_checks=max(1, settings.reconciler.max_checks - 1),
            poll_s=settings.reconciler.poll_s,
        )

    async def run(self) -> None:
        """Runs the loops until `stop`."""
        self._loop = asyncio.get_running_loop()
        try:
            await asyncio.gather(self._reconciler.run(), self._experiments.run())
        finally:
            metrics.jobs.clear()  # those of the next leader count

    def _compare_seeds(self, one: CellFeatures | None, other: CellFeatures | None, level: float) -> Estimate:
        """Computes a control from the thread that writes a report; the client belongs to the loop."""
        if self._loop is None:
            raise RuntimeError("reports are written while the loops run")
        return asyncio.run_coroutine_threadsafe(compare_seeds(self._client.mmd, one, other, level), self._loop).result()

    def stop(self) -> None:
        """Ends the loops after their current rounds."""
        self._reconciler.stop()
        self._experiments.stop()

    def wake(self) -> None:
        """Starts the next round over jobs and checks at once."""
        self._reconciler.wake()

    async def hand_over(self) -> None:
        """Lets running jobs checkpoint and end, where the settings say that they stop with the service."""
        if self._stops_jobs:
            await asyncio.to_thread(self._supervisor.stop_all)
