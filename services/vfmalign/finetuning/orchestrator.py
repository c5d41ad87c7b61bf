"""Orchestrator: the loops over the jobs, checks and experiments of all tenants during one term of the leader.

All writes of the loops are fenced: a transaction verifies the leader's term, and a write to the object store verifies
the deadline of this term. The repositories and the store of the API's servicers are not fenced, because a standby also
serves the API.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from vfmalign.client.async_client import AsyncClient
from vfmalign.client.messages.common import Estimate
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.runtime import logs
from vfmalign.core.storage.deletion import keep_sweeping
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.database import Database
from vfmalign.database.lease import Term
from vfmalign.finetuning import metrics
from vfmalign.finetuning.checks.reconciler import PollingPolicy, Reconciler
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.signing import StatementSigner
from vfmalign.finetuning.deletions import Deletions
from vfmalign.finetuning.erasure import make_erasures
from vfmalign.finetuning.experiments.cell_results import CellResults
from vfmalign.finetuning.experiments.report_writer import ReportWriter
from vfmalign.finetuning.experiments.repository import ExperimentRepository
from vfmalign.finetuning.experiments.runner import ExperimentRunner
from vfmalign.finetuning.experiments.seed_control import CellFeatures, compare_seeds
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.retries import Limits
from vfmalign.finetuning.jobs.rounds import JobRounds
from vfmalign.finetuning.jobs.supervisor import Supervisor
from vfmalign.finetuning.launchers.base import Launcher
from vfmalign.finetuning.launchers.by_tenant import TenantLauncher
from vfmalign.finetuning.probes import Probes
from vfmalign.finetuning.settings import FinetuningSettings
from vfmalign.finetuning.uses import Uses

_log = logs.get(__name__)


@dataclasses.dataclass(frozen=True)
class Tenancy:
    """Resources of one tenant.

    Attributes:
        database: database of the tenant's jobs, checks and experiments.
        store: object store of the tenant.
        client: client that calls other services for the tenant.
    """

    database: Database
    store: ObjectStore
    client: AsyncClient


class _TenantLoops:
    """Checks and experiments of one tenant.

    Args:
        tenancy: resources of the tenant. The leader's term fences its writes.
        settings: limits and intervals.
        signer: see `Reconciler`.
    """

    def __init__(self, tenancy: Tenancy, settings: FinetuningSettings, signer: StatementSigner | None) -> None:
        self._client = tenancy.client
        self._loop: asyncio.AbstractEventLoop | None = None
        store, checks = tenancy.store, CheckRepository(tenancy.database)
        self.stored_checks, self.stored_experiments = checks, ExperimentRepository(tenancy.database)
        self._stored_jobs, self._quota = JobRepository(tenancy.database), settings.quota
        self._uses, self._store = Uses(store), store
        sweep, days = Deletions(tenancy.database, store).sweep, settings.retention
        self._sweep = partial(sweep, jobs_days=days.jobs_days, checks_days=days.checks_days)
        self._erasures = make_erasures(tenancy.database, store)
        self.tenant = store.tenant
        self.checks = Reconciler(
            checks=checks,
            jobs=self._stored_jobs,
            store=store,
            client=tenancy.client,
            policy=PollingPolicy(**settings.reconciler.model_dump()),
            signer=signer,
        )
        results = CellResults(checks, store)
        self.experiments = ExperimentRunner(
            experiments=self.stored_experiments,
            checks=checks,
            store=store,
            results=results,
            write_report=ReportWriter(results, store, self._compare_seeds).write,
            max_checks=max(1, settings.reconciler.max_checks - 1),
            poll_s=settings.reconciler.poll_s,
        )

    def measure_quotas(self) -> dict[str, float]:
        """Returns the used share of each quota. The caller with the most unfinished work determines the share."""
        used = {
            "jobs": self._stored_jobs.count_of_busiest_caller(),
            "checks": self.stored_checks.count_of_busiest_caller(),
            "experiments": self.stored_experiments.count_of_busiest_caller(),
        }
        return {name: used[name] / limit for name, limit in self._quota.model_dump().items() if limit}

    def mark_inputs(self) -> None:
        """Protects the inputs of unfinished operations from deletion by other services."""
        repositories = (self._stored_jobs, self.stored_checks, self.stored_experiments)
        if self._uses.is_due():
            self._uses.update({repository.noun: repository.list_unfinished() for repository in repositories})

    async def keep_sweeping(self) -> None:
        """Deletes expired operations every hour and continues erasures every minute, until this task is cancelled."""
        await asyncio.gather(
            keep_sweeping(self._store, "operations", self._sweep),
            self._erasures.keep_resuming(),
        )

    async def run_experiments(self) -> None:
        """Runs the loop over experiments."""
        logs.bind(tenant=self.tenant)
        self._loop = asyncio.get_running_loop()
        await self.experiments.run()

    def _compare_seeds(self, one: CellFeatures | None, other: CellFeatures | None, level: float) -> Estimate:
        """Computes a control, called from the thread that writes a report. The client belongs to the event loop."""
        if self._loop is None:
            raise RuntimeError("reports are written while the loops run")
        return asyncio.run_coroutine_threadsafe(compare_seeds(self._client.mmd, one, other, level), self._loop).result()


class Orchestrator:
    """Work that only the leader among the replicas does; see `Leadership`.

    Args:
        term: fences every write.
        tenancies: resources by tenant.
        launcher: launcher that runs the jobs of all tenants. It outlives the term.
        probes: probes of the other services.
        settings: limits and intervals.
        signer: signs the results of checks with a plan; None if the deployment has no key.
    """

    def __init__(
        self,
        term: Term,
        *,
        tenancies: Mapping[str, Tenancy],
        launcher: Launcher,
        probes: Probes,
        settings: FinetuningSettings,
        signer: StatementSigner | None = None,
    ) -> None:
        limits = Limits(**settings.launcher.model_dump(include={field.name for field in dataclasses.fields(Limits)}))
        self._stops_jobs = settings.launcher.stops_jobs
        self._poll_s = settings.reconciler.poll_s
        self._stopping = False
        self._probes = probes
        self._beside: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._loops: list[_TenantLoops] = []
        supervisors = []
        for tenant, tenancy in tenancies.items():
            guarded = dataclasses.replace(
                tenancy,
                database=tenancy.database.guarded_by(term.verify),
                store=tenancy.store.guarded_by(term.check_deadline),
            )
            self._loops.append(_TenantLoops(guarded, settings, signer))
            jobs = JobRepository(guarded.database)
            supervisors.append(Supervisor(jobs, guarded.store, TenantLauncher(launcher, tenant), limits))
        self._jobs = JobRounds(supervisors, limits)

    async def run(self) -> None:
        """Runs the loops until `stop`."""
        self._beside = {asyncio.create_task(self._probes.run(), name="probes")}
        self._beside |= {asyncio.create_task(loops.keep_sweeping(), name="sweep") for loops in self._loops}
        try:
            await asyncio.gather(self._run_rounds(), *(loops.run_experiments() for loops in self._loops))
        finally:
            self._end_beside()
            await asyncio.wait(self._beside)
            metrics.clear_states()

    def stop(self) -> None:
        """Ends the probes and the hourly deletions at once, and each loop after its current round."""
        self._stopping = True
        self._end_beside()
        self._wake.set()
        for loops in self._loops:
            loops.experiments.stop()

    def wake(self) -> None:
        """Starts the next round over jobs and checks at once."""
        self._wake.set()

    async def hand_over(self) -> None:
        """If the settings stop jobs with the service, lets running jobs write a checkpoint and end."""
        if self._stops_jobs:
            await asyncio.to_thread(self._jobs.stop_all)

    def _end_beside(self) -> None:
        for task in self._beside:
            task.cancel()

    async def _run_rounds(self) -> None:
        """Runs rounds over jobs and checks until `stop`, then ends the checks' drivers. Jobs continue."""
        while not self._stopping:
            self._wake.clear()
            await _try(lambda: asyncio.to_thread(self._jobs.reconcile))
            for loops in self._loops:
                with logs.bound(tenant=loops.tenant):
                    await _try(loops.checks.reconcile)
                    await _try(partial(asyncio.to_thread, loops.mark_inputs))
            metrics.count_states(metrics.checks_waiting, [loops.checks.count_waiting() for loops in self._loops])
            await _try(lambda: asyncio.to_thread(self._count))
            if not self._stopping:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._poll_s)
        for loops in self._loops:
            await loops.checks.end()

    def _count(self) -> None:
        metrics.count_states(metrics.checks, [loops.stored_checks.counts() for loops in self._loops])
        metrics.count_states(metrics.experiments, [loops.stored_experiments.counts() for loops in self._loops])
        metrics.count_states(metrics.experiment_cells, [loops.experiments.cell_counts for loops in self._loops])
        for loops in self._loops:
            metrics.export_quotas(loops.tenant, loops.measure_quotas())


async def _try(reconcile: Callable[[], Awaitable[None]]) -> None:
    """Runs a part of a round. If it fails, the next round tries it again, and other tenants are not delayed."""
    try:
        await reconcile()
    except VfmalignError as error:
        _log.warning("round_delayed", error=error)
    except Exception:
        _log.exception("round_failed")
