"""Keeps jobs and checks moving: desired state − artifacts − running work → next action (design §2).

One loop. Every round lets the supervisor look after the jobs and makes sure that each active check has a driver, a
coroutine that runs whatever stage can run. Drivers keep nothing that is not in the book or an artifact: after a kill at
any moment the next process begins them again and finds what is done. Knows nothing of what stages do.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from vfmalign.core.domain.artifacts import Record, check_key
from vfmalign.core.domain.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    Exhausted,
    Forbidden,
    Unauthenticated,
    Unavailable,
    VfmalignError,
)
from vfmalign.core.runtime import logs
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.checks.clients import FeatureClient, MmdClient
from vfmalign.finetuning.checks.repository import Check, CheckRepository, ReportRefs, StageProgress
from vfmalign.finetuning.checks.stages import Outputs, Stage, StageContext
from vfmalign.finetuning.jobs.repository import JobRepository, StoredRef
from vfmalign.finetuning.jobs.supervisor import Supervisor

# What passes by itself, or once an operator has put it right, does not cost a check its finished stages.
PASSING = (Unavailable, Exhausted, DeadlineExceeded, Cancelled, Unauthenticated, Forbidden)
_NOT_IN_A_REQUEST_ID = re.compile(r"[^A-Za-z0-9_-]")
_T = TypeVar("_T")
_log = logs.get(__name__)


@dataclass(frozen=True)
class Pace:
    """How often to look, and how long to wait.

    Attributes:
        poll_s: between two rounds.
        first_wait_s, longest_wait_s: before a stage whose service is unavailable is tried again; doubled each time.
        max_checks: checks that are worked on at once.
        stop_jobs: whether running jobs checkpoint and end with the service; otherwise the next start adopts them.
    """

    poll_s: float = 0.5
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    max_checks: int = 4
    stop_jobs: bool = True


@dataclass
class Status:
    """What the running stages of one check say, as one sentence; written down when it changes."""

    book: CheckRepository
    check_id: str
    _words: dict[str, tuple[str, StageProgress | None]] = field(default_factory=dict)

    async def say(self, stage: str, message: str, progress: StageProgress | None) -> None:
        """Replaces what a stage says."""
        if self._words.get(stage) != (message, progress):
            self._words[stage] = (message, progress)
            await self._write()

    async def done(self, stage: str) -> None:
        """A stage has nothing more to say."""
        if self._words.pop(stage, None) is not None and self._words:
            await self._write()

    async def _write(self) -> None:
        message = "; ".join(dict.fromkeys(words for words, _ in self._words.values()))
        progress = next((progress for _, progress in self._words.values() if progress is not None), None)
        await asyncio.to_thread(self.book.say, self.check_id, message, progress)


class Reconciler:
    """The loop; one per database."""

    def __init__(
        self,
        *,
        stages: Sequence[Stage],
        checks: CheckRepository,
        jobs: JobRepository,
        supervisor: Supervisor,
        store: ObjectStore,
        features: FeatureClient,
        mmd: MmdClient,
        pace: Pace,
    ) -> None:
        self._stages = stages
        self._checks = checks
        self._jobs = jobs
        self._supervisor = supervisor
        self._store = store
        self._features = features
        self._mmd = mmd
        self._pace = pace
        self._drivers: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Begins the next round at once."""
        self._wake.set()

    def stop(self) -> None:
        """Ends `run` after the round it is in."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Works until `stop`; then ends what it runs."""
        while not self._stopping:
            self._wake.clear()
            await self._round()
            if not self._stopping:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._pace.poll_s)
        await self._end(list(self._drivers))
        if self._pace.stop_jobs:
            await asyncio.to_thread(self._supervisor.stop_all)

    async def _round(self) -> None:
        try:
            await asyncio.to_thread(self._supervisor.tick)
            await self._tend_checks()
        except VfmalignError as error:
            _log.warning("round_delayed", error=str(error))
        except Exception:
            _log.exception("round_failed")

    async def _tend_checks(self) -> None:
        for check_id in [check_id for check_id, driver in self._drivers.items() if driver.done()]:
            del self._drivers[check_id]
        active = await asyncio.to_thread(self._checks.active)
        for check in active[: self._pace.max_checks]:
            if check.cancel_requested:
                await self._cancel(check)
            elif check.id not in self._drivers:
                self._drivers[check.id] = asyncio.create_task(self._drive(check.id), name=f"check {check.id}")

    async def _cancel(self, check: Check) -> None:
        await self._end([check.id])
        if await self._cancel_jobs(check.id):
            await asyncio.to_thread(self._checks.cancelled, check.id)

    async def _cancel_jobs(self, check_id: str) -> bool:
        """Asks every job of a check to end; True once all have."""
        jobs = await asyncio.to_thread(self._jobs.of_check, check_id)
        after = [job if job.finished else await asyncio.to_thread(self._jobs.cancel, job.id) for job in jobs]
        return all(job.finished for job in after)

    async def _end(self, check_ids: Sequence[str]) -> None:
        drivers = [driver for check_id in check_ids if (driver := self._drivers.get(check_id)) is not None]
        for driver in drivers:
            driver.cancel()
        await asyncio.gather(*drivers, return_exceptions=True)

    async def _drive(self, check_id: str) -> None:
        """Takes a check to its end, unless this process ends before."""
        logs.request_id.set(f"check-{_NOT_IN_A_REQUEST_ID.sub('-', check_id)}"[:64])  # follows its calls everywhere
        try:
            check = await asyncio.to_thread(self._checks.begin, check_id)
            if check.state == "RUNNING":
                status = Status(self._checks, check_id)
                await self._patiently(status, "the beginning", lambda: asyncio.to_thread(self._claim, check))
                await self._run_stages(check, status)
                refs = await self._patiently(status, "the end", lambda: asyncio.to_thread(self._report_refs, check_id))
                await asyncio.to_thread(self._checks.succeed, check_id, refs)
                _log.info("check_succeeded", check=check_id)
        except VfmalignError as error:
            if passes(error):  # the database: the next round begins a new driver
                _log.warning("check_delayed", check=check_id, error=str(error))
            else:
                await self._fail(check_id, str(error), error.reason)
        except Exception:
            _log.exception("check_crashed", check=check_id)
            await self._fail(check_id, "the check met a fault of ours; the service's log has the trace", "INTERNAL")

    async def _fail(self, check_id: str, message: str, reason: str) -> None:
        _log.warning("check_failed", check=check_id, reason=reason, error=message)
        await self._cancel_jobs(check_id)
        await asyncio.to_thread(self._checks.fail, check_id, message, reason)

    async def _run_stages(self, check: Check, status: Status) -> None:
        """Runs every stage whose needs are met, side by side, until all are done or one fails."""
        outputs = Outputs()
        running: dict[asyncio.Task[Record], Stage] = {}
        try:
            while True:
                begun = {stage.name for stage in running.values()}
                for stage in self._stages:
                    ready = all(need in outputs for need in stage.needs)
                    if ready and stage.name not in outputs and stage.name not in begun:
                        running[asyncio.create_task(self._run_stage(check, stage, outputs, status))] = stage
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    outputs.put(running.pop(task).name, task.result())
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _run_stage(self, check: Check, stage: Stage, outputs: Outputs, status: Status) -> Record:
        context = StageContext(
            check=check,
            store=self._store,
            jobs=self._jobs,
            features=self._features,
            mmd=self._mmd,
            say=partial(status.say, stage.name),
            poll_s=self._pace.poll_s,
        )
        begun = False

        async def attempt() -> Record:
            nonlocal begun
            record = await stage.find(context)
            if record is None:
                if not begun:
                    await asyncio.to_thread(self._checks.begin_stage, check.id, stage.name)
                    begun = True
                record = await stage.make(context, outputs)
            await asyncio.to_thread(self._checks.end_stage, check.id, stage.name, "succeeded")
            return record

        try:
            record = await self._patiently(status, stage.name, attempt)
        except VfmalignError as error:
            await asyncio.to_thread(self._checks.end_stage, check.id, stage.name, "failed", str(error))
            raise
        await status.done(stage.name)
        return record

    async def _patiently(self, status: Status, where: str, act: Callable[[], Awaitable[_T]]) -> _T:
        """Does something until what it needs is there, and says what it waits for."""
        wait_s = self._pace.first_wait_s
        while True:
            try:
                return await act()
            except VfmalignError as error:
                if not passes(error):
                    raise
                pause_s = max(wait_s, error.retry_after_s or 0.0)
                wait_s = min(2 * wait_s, self._pace.longest_wait_s)
                _log.warning("stage_waits", check=status.check_id, stage=where, error=str(error), seconds=pause_s)
                with contextlib.suppress(VfmalignError):  # the database may be what is down
                    await status.say(where, f"waiting at {where}: {error}; trying again in {pause_s:g} s", None)
                await asyncio.sleep(pause_s)

    def _claim(self, check: Check) -> None:
        """Makes sure that the artifacts under this id are this check's own, also where the database was lost.

        Raises:
            Conflict: they were made for another request.
        """
        key = check_key(check.id, "spec.json")
        mine = check.request.to_json()
        if not self._store.put_if_absent(key, mine) and self._store.get(key) != mine:
            raise Conflict(
                "belongs to a check with another body", subject=self._store.uri(key), remedy="choose another check id"
            )

    def _report_refs(self, check_id: str) -> ReportRefs:
        return ReportRefs(json_ref=self._ref(check_id, "report.json"), html_ref=self._ref(check_id, "report.html"))

    def _ref(self, check_id: str, name: str) -> StoredRef:
        key = check_key(check_id, name)
        data = self._store.get(key)
        return StoredRef(key=key, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def passes(error: VfmalignError) -> bool:
    """Whether to wait and try again; what is too large for a device stays so, and says it by naming no time."""
    never = isinstance(error, Exhausted) and error.retry_after_s is None
    return isinstance(error, PASSING) and not never
