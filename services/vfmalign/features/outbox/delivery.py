"""Stores observations of Extract for the sender. Drops observations that the monitor would reject."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cachetools import TTLCache

from vfmalign.client.async_client import AsyncClient
from vfmalign.client.messages.features import DeliveredObservation
from vfmalign.client.messages.monitors import FeatureOrigin
from vfmalign.core.domain.errors import Internal, NotFound, StoreUnavailable, TooLarge, VfmalignError
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.threads import STORE
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext, current_work, work_within
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features import metrics
from vfmalign.features.outbox.entries import OutboxEntry, digest
from vfmalign.features.outbox.pending import PendingKeys
from vfmalign.features.settings import OutboxOptions

_LOG = logs.get("outbox")
_Result = TypeVar("_Result")
_ORIGINS, _ORIGINS_S = 1024, 60.0
"""Number of monitors with cached origins, and how long they are cached, in seconds."""

Check = asyncio.Task[DeliveredObservation | None]


class Outbox:
    """Queue of one tenant's observations that wait for delivery to their monitors.

    Args:
        store: object store of the tenant.
        client: client of the monitoring service; None if the deployment has none.
        pending: keys of the observations that wait for monitors.
        options: options of the outbox.

    Attributes:
        on_stored: called after an observation has been stored.
    """

    on_stored: Callable[[], None]

    def __init__(
        self, store: ObjectStore, client: AsyncClient | None, pending: PendingKeys, options: OutboxOptions
    ) -> None:
        self.store, self.pending = store, pending
        self._client, self._options = client, options
        self._origins: TTLCache[str, FeatureOrigin] = TTLCache(_ORIGINS, _ORIGINS_S)
        self.on_stored = lambda: None
        self._tasks: set[asyncio.Task[Any]] = set()

    def check(self, monitor: str, origin: FeatureOrigin) -> Check:
        """Starts a check that the monitor exists and watches features of this origin.

        If the check fails, `deliver` drops the observation. The check is one call. Start the check before the features
        are computed.
        """
        return self._start(self._check(monitor, origin))

    async def deliver(self, observed: OutboxEntry, check: Check | None = None) -> DeliveredObservation:
        """Stores an observation for the sender, and returns the outcome. Never raises.

        Waits for one write to the store, but never for the monitoring service.

        Args:
            observed: the observation.
            check: result of `check`. If the check has not finished, the observation is stored, and the sender finds out
                whether the monitor accepts it.
        """
        try:
            delivered = await self._deliver(observed, None if check is None else _get_refusal(check))
        except Exception:
            _LOG.exception("observation_not_delivered", monitor=observed.monitor)
            delivered = _drop(Internal.reason, "internal error; see the log of the feature service")
        metrics.observations_delivered.labels(delivered.delivery, delivered.reason).inc()
        if delivered.delivery == "dropped":  # not a metric label: callers may name any monitor
            _LOG.warning("observation_dropped", monitor=observed.monitor, reason=delivered.reason)
        return delivered

    async def close(self) -> None:
        """Waits until running writes have ended, and cancels running calls."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._options.write_timeout_s)
        for task in self._tasks:
            task.cancel()

    async def _check(self, monitor: str, origin: FeatureOrigin) -> DeliveredObservation | None:
        """Asks again if the cached answer would drop the observation: the monitor may have changed since."""
        if self._client is None or self._origins.get(monitor) == origin:
            return None
        try:
            watched = (await self._client.monitors.get(monitor)).origin
        except NotFound as error:
            return _drop(error.reason, str(error)) if error.reason == NotFound.reason else None
        except VfmalignError:
            return None
        self._origins[monitor] = watched
        if watched == origin:
            return None
        return _drop(
            "WRONG_ORIGIN",
            "the monitor watches features of another model, preprocessing or input transform; extract with the model "
            "of the monitor, or give the monitor a reference of the new model",
        )

    async def _deliver(self, observed: OutboxEntry, refusal: DeliveredObservation | None) -> DeliveredObservation:
        if self._client is None:
            return _drop(
                "NO_MONITORING",
                "this deployment has no monitoring service; ask the operator to set VFMALIGN_MONITORING_ADDRESS",
            )
        if refusal is not None:
            return refusal
        data = observed.to_bytes()
        try:
            key = self.pending.begin(observed.monitor, len(data), digest(data))
        except TooLarge as error:
            return _drop(error.reason, str(error))
        write = self._start(self._write(key, data))
        await asyncio.wait({write}, timeout=self._options.write_timeout_s)
        if write.done() and write.exception() is None:
            return DeliveredObservation(delivery="queued")
        failure = write.exception() if write.done() else None
        reason = failure.reason if isinstance(failure, VfmalignError) else "NO_ANSWER"
        _LOG.warning("observation_not_stored", monitor=observed.monitor, reason=reason)
        return _drop(
            StoreUnavailable.reason, "the object storage did not confirm the write; send the observation again"
        )

    async def _write(self, key: str, data: bytes) -> None:
        is_written = False
        try:
            with work_within(WorkContext(time.monotonic() + self._options.write_timeout_s)):
                await STORE.run(self.store.put, key, data)
            is_written = True
        finally:
            self.pending.end(key, is_written=is_written)
        self.on_stored()

    def _start(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        """Starts work that may outlast its call, and is therefore not cancelled with it."""
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


def _get_refusal(check: Check) -> DeliveredObservation | None:
    """Returns the result of a check; None if it has not finished or has failed."""
    check.cancel()
    return None if not check.done() or check.cancelled() or check.exception() else check.result()


def _drop(reason: str, detail: str) -> DeliveredObservation:
    return DeliveredObservation(delivery="dropped", reason=reason, detail=detail)
