"""Delivers observations of Extract: tells the monitor, or stores them durably for the sender."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

from vfmalign.client.messages.features import DeliveredObservation
from vfmalign.client.messages.monitors import ObservationResult
from vfmalign.core.domain.errors import StoreUnavailable, TooLarge, VfmalignError
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.threads import STORE
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext, current_work, work_within
from vfmalign.core.storage.keys import outbox_prefix
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features import metrics
from vfmalign.features.outbox.entries import Observed, digest
from vfmalign.features.outbox.link import MonitoringLink, get_reason, is_refused
from vfmalign.features.outbox.waiting import Waiting
from vfmalign.features.settings import OutboxOptions

_LOG = logs.get("outbox")
_Result = TypeVar("_Result")
_Observing = asyncio.Task[tuple[ObservationResult, ...]]

CONFLICT = "CONFLICT"
FROM_OUTBOX = "FROM_OUTBOX"
_IN_ORDER = "WAITS_IN_ORDER", "earlier observations of this monitor wait; the sender sends them in order"
_AWAY = "UNAVAILABLE", "the monitoring service does not answer; the sender sends the observation when it does"
_SLOW = "NO_ANSWER_YET", "the monitoring service has not answered in time; the sender sends the observation again"


class Outbox:
    """Observations of one tenant.

    Args:
        store: objects of the tenant.
        link: the monitoring service; None where the deployment has none.
        waiting: what waits for monitors.
        options: of the outbox.

    Attributes:
        on_stored: called after an observation was stored.
    """

    on_stored: Callable[[], None]

    def __init__(
        self, store: ObjectStore, link: MonitoringLink | None, waiting: Waiting, options: OutboxOptions
    ) -> None:
        self.store, self.waiting = store, waiting
        self._link, self._options = link, options
        self.on_stored = lambda: None
        self._tasks: set[asyncio.Task[Any]] = set()

    def look(self, monitor: str) -> asyncio.Task[None]:
        """Begins to look for what other replicas have stored for a monitor, which `deliver` must not overtake.

        It takes one request to the store, so it begins before the features are computed.
        """
        return self._start(self._look(monitor))

    async def deliver(self, observed: Observed, look: asyncio.Task[None] | None = None) -> DeliveredObservation:
        """Tells the monitor, or stores the observation; returns what became of it. It never fails.

        It waits for the network only while the monitoring service answers: else for one write to the store.

        Args:
            observed: the observation.
            look: what `look` has returned; looks now where None.
        """
        try:
            delivered = await self._deliver(observed, look)
        except Exception:
            _LOG.exception("observation_not_delivered", monitor=observed.monitor)
            delivered = _drop("INTERNAL", "an internal error; the log of the feature service has its cause")
        metrics.observations_delivered.labels(delivered.delivery, delivered.reason).inc()
        if delivered.delivery == "dropped":  # metrics do not name the monitor, because callers may name any
            _LOG.warning("observation_dropped", monitor=observed.monitor, reason=delivered.reason)
        return delivered

    async def close(self) -> None:
        """Waits for writes that are under way, and ends calls."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._options.write_timeout_s)
        for task in self._tasks:
            task.cancel()

    async def _look(self, monitor: str) -> None:
        if self._link is not None:
            with work_within(WorkContext(time.monotonic() + self._options.write_timeout_s)):
                self.waiting.add(await STORE.run(self.store.sizes_bytes, outbox_prefix(monitor), limit=1))

    async def _deliver(self, observed: Observed, look: asyncio.Task[None] | None) -> DeliveredObservation:
        if self._link is None:
            return _drop(
                "NO_MONITORING",
                "this deployment has no monitoring service; ask the operator to set VFMALIGN_MONITORING_ADDRESS",
            )
        if self.waiting.has(observed.monitor):
            return await self._queue(observed, *_IN_ORDER)
        if self._link.is_away:
            return await self._queue(observed, *_AWAY)
        # Without an answer of the store, what this process knows must do.
        await asyncio.wait({look or self.look(observed.monitor)}, timeout=self._options.hedge_s)
        if self.waiting.has(observed.monitor):
            return await self._queue(observed, *_IN_ORDER)
        # Goes on after this call, which may end before: observing is idempotent, and says whether the service answers.
        observing = self._start(self._link.observe(self.store.tenant, [observed]))
        await asyncio.wait({observing}, timeout=self._options.hedge_s)
        if not observing.done():
            self._link.is_away = True
            return await self._queue(observed, *_SLOW, observing)
        return _get_answer(observing) or await self._queue(observed, *_describe_failure(observing))

    async def _queue(
        self, observed: Observed, reason: str, detail: str, observing: _Observing | None = None
    ) -> DeliveredObservation:
        """Stores an observation, and returns which ends first: the write, or the call to the monitor."""
        try:
            key, write = self._begin_write(observed)
        except TooLarge as error:
            return await self._wait_alone(observing) or _drop(error.reason, str(error))
        end_s = time.monotonic() + self._options.write_timeout_s
        pending: set[asyncio.Task[Any]] = {write} if observing is None else {write, observing}
        while pending and (left_s := end_s - time.monotonic()) > 0:
            done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if observing in done and (answer := _get_answer(observing)) is not None:
                self._withdraw(key, write)
                return answer
            if write in done and write.exception() is None:
                return DeliveredObservation(delivery="queued", reason=reason, detail=detail)
        failure = write.exception() if write.done() else None
        reason = "NO_ANSWER" if failure is None else get_reason(failure)
        _LOG.warning("observation_not_stored", monitor=observed.monitor, reason=reason)
        return _drop(
            StoreUnavailable.reason,
            "neither the monitoring service nor the object storage has confirmed it; send the observation again",
        )

    async def _wait_alone(self, observing: _Observing | None) -> DeliveredObservation | None:
        """Waits for the call to the monitor, where nothing can be stored, as long as for a write."""
        if observing is None:
            return None
        await asyncio.wait({observing}, timeout=self._options.write_timeout_s)
        return _get_answer(observing) if observing.done() else None

    def _begin_write(self, observed: Observed) -> tuple[str, asyncio.Task[None]]:
        """Begins to store an observation.

        Raises:
            TooLarge: the outbox is full.
        """
        data = observed.to_bytes()
        key = self.waiting.begin(observed.monitor, len(data), digest(data))
        return key, self._start(self._write(key, data))

    async def _write(self, key: str, data: bytes) -> None:
        is_written = False
        try:
            with work_within(WorkContext(time.monotonic() + self._options.write_timeout_s)):
                await STORE.run(self.store.put, key, data)
            is_written = True
        finally:
            self.waiting.end(key, is_written=is_written)
        self.on_stored()

    def _withdraw(self, key: str, write: asyncio.Task[None]) -> None:
        """Takes back an observation that the monitor has decided on meanwhile, so that no later one waits for it."""
        self.waiting.remove(key)
        self._start(self._delete_after(write, key))

    async def _delete_after(self, write: asyncio.Task[None], key: str) -> None:
        await asyncio.wait({write})
        if write.exception() is None:
            await STORE.run(self.store.delete, key)  # else a later survey finds it, and the monitor has it already

    def _start(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        """Starts work that may outlast the call that it is for, and is therefore not cancelled with it."""
        context = contextvars.copy_context()
        context.run(current_work.set, UNLIMITED)
        task = asyncio.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, VfmalignError):
            _LOG.error("delivery_crashed", exc_info=error)


def _get_answer(observing: _Observing) -> DeliveredObservation | None:
    """Returns what a call to the monitor has decided; None where a repetition may succeed."""
    error = observing.exception()
    if error is None:
        (result,) = observing.result()
        if result.outcome == "conflict":
            return _drop(
                CONFLICT,
                "the monitor has recorded other content under this observation id; send it with an id of its own",
            )
        return DeliveredObservation(delivery="recorded")
    return _drop(get_reason(error), str(error)) if is_refused(error, is_promised=False) else None


def _describe_failure(observing: _Observing) -> tuple[str, str]:
    error = observing.exception()
    detail = "the monitor could not record the observation; the sender sends it again"
    return "UNAVAILABLE" if error is None else get_reason(error), detail


def _drop(reason: str, detail: str) -> DeliveredObservation:
    delivery: Literal["dropped"] = "dropped"
    return DeliveredObservation(delivery=delivery, reason=reason, detail=detail)
