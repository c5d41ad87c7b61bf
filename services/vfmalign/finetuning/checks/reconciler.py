"""Reconciler: compares requests, artifacts and running work, and takes the next action for the checks of a tenant.

Every round makes sure that each active check has a driver. A driver is a coroutine that runs every stage once the
inputs of the stage are ready. Drivers keep all state in the database and the artifacts, so the process can be killed at
any point. The next process starts the drivers again. Drivers skip stages that have intact artifacts. If a stage needs a
lost object, the stage that created the object runs again (`repairs`).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from vfmalign.client.async_client import AsyncClient
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.errors import (
    Cancelled,
    Conflict,
    DataLoss,
    DeadlineExceeded,
    Exhausted,
    Forbidden,
    Unauthenticated,
    Unavailable,
    VfmalignError,
)
from vfmalign.core.domain.record import Record
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.runtime import logs
from vfmalign.core.storage.keys import check_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.artifacts import Outputs, Stage, StageContext
from vfmalign.finetuning.checks.repairs import ArtifactLost, Repairs
from vfmalign.finetuning.checks.reporting import all_stages
from vfmalign.finetuning.checks.repository import CheckRepository, ReportRefs, StoredCheck
from vfmalign.finetuning.checks.signing import StatementSigner
from vfmalign.finetuning.jobs.repository import JobRepository

# These errors pass by themselves, or once an operator has fixed the deployment. Failing the check would waste its
# finished stages.
TRANSIENT_ERRORS = (Unavailable, Exhausted, DeadlineExceeded, Cancelled, Unauthenticated, Forbidden)


def _list_reasons(classes: Iterable[type[VfmalignError]]) -> set[str]:
    """Returns the default reasons of error classes and of all their subclasses."""
    return {reason for cls in classes for reason in (cls.reason, *_list_reasons(cls.__subclasses__()))}


_TRANSIENT_REASONS = tuple(sorted(_list_reasons(TRANSIENT_ERRORS)))
_NOT_IN_A_REQUEST_ID = re.compile(r"[^A-Za-z0-9_-]")
_T = TypeVar("_T")
_log = logs.get(__name__)


@dataclass(frozen=True)
class PollingPolicy:
    """Intervals and limits of the reconciler.

    Attributes:
        poll_s: interval at which the state of a job is polled, in seconds.
        first_wait_s, longest_wait_s: first and longest pause, in seconds, before a stage is tried again after a
            transient error. The pause doubles with each attempt.
        max_checks: maximum number of checks of one tenant that run at once.
    """

    poll_s: float = 0.5
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    max_checks: int = 4


@dataclass
class StatusBoard:
    """Progress of the running stages of one check. Each change is written to the database."""

    checks: CheckRepository
    check_id: str
    _stages: dict[str, Progress] = field(default_factory=dict)

    async def set_status(self, stage: str, detail: str, progress: Progress | None = None, *, reason: str = "") -> None:
        """Replaces the progress of a stage; see `SetStatus`."""
        update = {"phase": stage, "detail": detail, "reason": reason}
        progress = (progress or Progress()).model_copy(update=update)
        if self._stages.get(stage) != progress:
            self._stages[stage] = progress
            await self._write()

    async def remove(self, stage: str) -> None:
        """Removes a stage that has ended.

        If no other stage runs, the progress of the ended stage stays until the next stage reports.
        """
        if self._stages.pop(stage, None) is not None and self._stages:
            await self._write()

    async def _write(self) -> None:
        await asyncio.to_thread(self.checks.set_stage_progress, self.check_id, tuple(self._stages.values()))


class Reconciler:
    """Reconciles the checks of one tenant during one term of the leader.

    Args:
        get_stages: returns the stages of a requested check, in order.
        checks, jobs: repositories.
        store: object store of the artifacts.
        client: client that calls the other services on behalf of the tenant.
        policy: intervals and limits.
        signer: signs the results of checks with a plan.
    """

    def __init__(
        self,
        *,
        get_stages: Callable[[CheckSpec], Sequence[Stage]] = all_stages,
        checks: CheckRepository,
        jobs: JobRepository,
        store: ObjectStore,
        client: AsyncClient,
        policy: PollingPolicy,
        signer: StatementSigner | None = None,
    ) -> None:
        self._get_stages = get_stages
        self._checks = checks
        self._jobs = jobs
        self._store = store
        self._client = client
        self._policy = policy
        self._signer = signer
        self._drivers: dict[str, asyncio.Task[None]] = {}
        self._waits: dict[tuple[str, str], str] = {}

    async def end(self) -> None:
        """Ends the drivers. Jobs continue."""
        await self._end_drivers(list(self._drivers))

    def count_waiting(self) -> dict[str, int]:
        """Maps each kind of transient error to the number of checks that pause after it. The number may be 0."""
        numbers = Counter(reason for _, reason in {(check, reason) for (check, _), reason in self._waits.items()})
        return {reason: numbers[reason] for reason in _TRANSIENT_REASONS}

    async def reconcile(self) -> None:
        """Runs one round: ends cancelled checks, then starts drivers for other checks until the limit is reached."""
        for check_id in [check_id for check_id, driver in self._drivers.items() if driver.done()]:
            del self._drivers[check_id]
        active = await asyncio.to_thread(self._checks.active)
        for check in active:
            if check.cancel_requested:
                await self._cancel(check)
        waiting = [check.id for check in active if not check.cancel_requested and check.id not in self._drivers]
        for check_id in waiting[: max(0, self._policy.max_checks - len(self._drivers))]:
            self._drivers[check_id] = asyncio.create_task(self._drive(check_id), name=f"check {check_id}")

    async def _cancel(self, check: StoredCheck) -> None:
        # End the driver first: otherwise it would create further jobs while the existing ones are cancelled.
        await self._end_drivers([check.id])
        if await self._cancel_jobs(check.id):
            await asyncio.to_thread(self._checks.mark_cancelled, check.id)

    async def _cancel_jobs(self, check_id: str) -> bool:
        """Cancels every job of a check, and returns whether all have ended."""
        jobs = await asyncio.to_thread(self._jobs.of_check, check_id)
        after = [job if job.finished else await asyncio.to_thread(self._jobs.cancel, job.id) for job in jobs]
        return all(job.finished for job in after)

    async def _end_drivers(self, check_ids: Sequence[str]) -> None:
        drivers = [self._drivers.pop(check_id) for check_id in check_ids if check_id in self._drivers]
        for driver in drivers:
            driver.cancel()
        await asyncio.gather(*drivers, return_exceptions=True)

    async def _drive(self, check_id: str) -> None:
        """Runs a check to its end, unless this process ends first."""
        # The request id is passed on with every call, so that one search finds the check in the logs of all services.
        logs.request_id.set(f"check-{_NOT_IN_A_REQUEST_ID.sub('-', check_id)}"[:64])
        try:
            check = await asyncio.to_thread(self._checks.begin, check_id)
            if check.state == "running":
                await self._run_check(check)
        except VfmalignError as error:
            if is_transient(error):  # the database is unavailable: a later round starts a new driver
                _log.warning("check_delayed", check=check_id, error=error)
            else:
                await self._fail(check_id, str(error), error.reason)
        except Exception:
            _log.exception("check_crashed", check=check_id)
            await self._fail(check_id, "internal error; see the log of the finetuning service", "INTERNAL")

    async def _run_check(self, check: StoredCheck) -> None:
        board = StatusBoard(self._checks, check.id)
        await self._with_retry(board, "start", lambda: asyncio.to_thread(self._claim, check))
        await board.remove("start")
        await self._run_stages(check, board)
        refs = await self._with_retry(board, "end", lambda: asyncio.to_thread(self._report_refs, check))
        await asyncio.to_thread(self._checks.succeed, check.id, refs)
        _log.info("check_succeeded", check=check.id)

    async def _fail(self, check_id: str, message: str, reason: str) -> None:
        _log.warning("check_failed", check=check_id, reason=reason)
        await self._cancel_jobs(check_id)
        await asyncio.to_thread(self._checks.fail, check_id, message, reason)

    async def _run_stages(self, check: StoredCheck, board: StatusBoard) -> None:
        """Runs each stage as soon as its inputs are ready, concurrently, until all are done or one fails."""
        outputs, stages = Outputs(), self._get_stages(check.request)
        repairs = Repairs(check, {stage.name: stage for stage in stages}, self._store, self._checks, self._jobs)
        running: dict[str, asyncio.Task[Record]] = {}
        try:
            while True:
                for stage in stages:
                    ready = all(name in outputs for name in stage.reads + stage.after)
                    ready = ready and not repairs.blocks(stage.name)
                    if ready and stage.name not in outputs and stage.name not in running:
                        work = self._run_stage(check, stage, outputs, board, repairs)
                        running[stage.name] = asyncio.create_task(work)
                if not running:
                    return
                await asyncio.wait(running.values(), return_when=asyncio.FIRST_COMPLETED)
                for name in [name for name, task in running.items() if task.done()]:
                    if name not in running:  # cancelled because of a repair
                        continue
                    try:
                        outputs.put(name, running.pop(name).result())
                    except ArtifactLost as lost:
                        readers = await repairs.begin(name, lost.loss, outputs, own=True)
                        await _end_tasks(running, readers)
                    except DataLoss as loss:
                        readers = await repairs.begin(name, loss, outputs, own=False)
                        await _end_tasks(running, readers)
        finally:
            await _end_tasks(running, list(running))

    async def _run_stage(
        self, check: StoredCheck, stage: Stage, outputs: Outputs, board: StatusBoard, repairs: Repairs
    ) -> Record:
        repairing = stage.name in repairs.active
        context = StageContext(
            check=check,
            store=self._store,
            checks=self._checks,
            jobs=self._jobs,
            features=self._client.features,
            mmd=self._client.mmd,
            set_status=partial(board.set_status, stage.name),
            poll_s=self._policy.poll_s,
            repairing=repairing,
            signer=self._signer,
            before_store=partial(repairs.before_store, stage.name, outputs=outputs) if repairing else None,
        )
        begun = False

        async def attempt() -> Record:
            nonlocal begun
            digest = ""
            record = None if repairing else await self._find(stage, context)
            if record is None:
                if not begun:  # a retry within this process belongs to the same run of the stage
                    await asyncio.to_thread(self._checks.begin_stage, check.id, stage.name)
                    begun = True
                record = await stage.make(context, outputs.restrict_to(stage.reads))
                digest = record.digest() if stage.artifact else ""  # a job's result is recorded with the job
            await asyncio.to_thread(self._checks.end_stage, check.id, stage.name, "succeeded", artifact_sha256=digest)
            return record

        try:
            record = await self._with_retry(board, stage.name, attempt)
        except VfmalignError as error:
            await asyncio.to_thread(self._checks.end_stage, check.id, stage.name, "failed", str(error))
            raise
        repairs.end(stage.name)
        await board.remove(stage.name)
        return record

    async def _find(self, stage: Stage, context: StageContext) -> Record | None:
        """Returns the artifact of a stage that is done.

        Raises:
            ArtifactLost: the stage had finished, and its artifact was lost since.
        """
        digests = await asyncio.to_thread(self._checks.artifact_digests, context.check.id)
        try:
            return await stage.find(replace(context, digests=digests))
        except DataLoss as loss:
            raise ArtifactLost(loss) from loss

    async def _with_retry(self, board: StatusBoard, phase: str, action: Callable[[], Awaitable[_T]]) -> _T:
        """Repeats an action until it ends without a transient error. Reports the error while it waits."""
        wait_s = self._policy.first_wait_s
        while True:
            try:
                return await action()
            except VfmalignError as error:
                if not is_transient(error):
                    raise
                pause_s = max(wait_s, error.retry_after_s or 0.0)
                wait_s = min(2 * wait_s, self._policy.longest_wait_s)
                _log.warning("stage_waits", check=board.check_id, stage=phase, error=error, seconds=pause_s)
                self._waits[board.check_id, phase] = type(error).reason
                try:
                    with contextlib.suppress(VfmalignError):  # the database itself may be unavailable
                        detail = f"waiting at {phase}: {error}; trying again in {pause_s:g} s"
                        await board.set_status(phase, detail, reason=error.reason)
                    await asyncio.sleep(pause_s)
                finally:
                    del self._waits[board.check_id, phase]

    def _claim(self, check: StoredCheck) -> None:
        """Makes sure that the artifacts under this id belong to this check, even after the database was lost.

        Raises:
            Conflict: they were created for another request.
        """
        key, spec = check_key(check.id, "spec.json"), check.request.to_json()
        if not self._store.put_if_absent(key, spec) and self._store.get(key) != spec:
            raise Conflict("another check created it", subject=self._store.uri(key), remedy="choose another check id")

    def _report_refs(self, check: StoredCheck) -> ReportRefs:
        return ReportRefs(
            json_ref=self._ref(check.id, "report.json"),
            html_ref=self._ref(check.id, "report.html"),
            statement_ref=None if check.request.plan is None else self._ref(check.id, "statement.dsse"),
        )

    def _ref(self, check_id: str, name: str) -> StoredFile:
        key = check_key(check_id, name)
        return StoredFile.of(key, self._store.get(key))


async def _end_tasks(running: dict[str, asyncio.Task[Record]], names: Iterable[str]) -> None:
    """Cancels the running stages among these."""
    tasks = [running.pop(name) for name in names if name in running]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def is_transient(error: VfmalignError) -> bool:
    """Returns whether an action that failed with this error should be tried again.

    `Exhausted` without a retry time is not transient, because it means that a request never fits the device.
    """
    never_fits = isinstance(error, Exhausted) and error.retry_after_s is None
    return isinstance(error, TRANSIENT_ERRORS) and not never_fits
