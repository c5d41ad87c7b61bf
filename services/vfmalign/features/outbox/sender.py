"""Sends the waiting observations of all tenants until they are recorded.

Each monitor receives its observations in the order of their keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from vfmalign.client.async_client import AsyncClient
from vfmalign.core.domain.errors import (
    MISCONFIGURED_STORE,
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
    TooLarge,
    Unavailable,
    VfmalignError,
)
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.threads import STORE
from vfmalign.core.storage.keys import OUTBOX, is_outbox_key, outbox_prefix
from vfmalign.features import metrics
from vfmalign.features.outbox.delivery import Outbox
from vfmalign.features.outbox.entries import OutboxEntry, delete_entries, read_batch
from vfmalign.features.settings import OutboxOptions

BATCH = 64
"""Maximum number of observations per call."""
_BATCH_BYTES = 4 * 2**20
CONFLICT, DAMAGED = "CONFLICT", "DAMAGED"
_REFUSALS = (Conflict, InvalidInput, NotFound, PreconditionFailed, TooLarge)
"""Errors of Observe that a retry cannot fix. A missing role is not one of them, because an operator can grant it."""
_LONGEST_PAUSE_S = 5.0
_LOG = logs.get("outbox")
_Group = Sequence[tuple[str, OutboxEntry]]
_Monitor = tuple[Outbox, str]


class Sender:
    """Task that sends the observations of all tenants.

    Other replicas or earlier processes may have stored some of these observations.

    Replicas may send the same observation twice. The monitor then records the observation only once.

    Args:
        clients: maps each tenant to its client of the monitoring service.
        outboxes: outboxes of all tenants.
        options: options of the outbox.
    """

    def __init__(self, clients: Mapping[str, AsyncClient], outboxes: Sequence[Outbox], options: OutboxOptions) -> None:
        self._clients, self._outboxes, self._poll_s = clients, outboxes, options.poll_s
        self._woken = asyncio.Event()
        self._survey_s = 0.0
        self._failed_s: dict[_Monitor, float] = {}
        self._task: asyncio.Task[None] | None = None
        for outbox in outboxes:
            outbox.on_stored = self.wake

    def start(self) -> None:
        """Starts sending."""
        self._task = asyncio.create_task(self._run(), name="outbox-sender")

    def wake(self) -> None:
        """Tells the sender that there are new observations."""
        self._woken.set()

    async def close(self) -> None:
        """Ends the task. An interrupted batch is sent again later."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(Exception),
                wait=wait_random_exponential(multiplier=0.2, max=_LONGEST_PAUSE_S),
                before_sleep=_log_failure,
            )
            await retrying(self._send_all)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._survey_s - time.monotonic())):
                    await self._woken.wait()

    async def _send_all(self) -> None:
        """Sends all waiting observations.

        Raises:
            VfmalignError: some observations could not be sent. If the service or the store does not answer, sending
                stops, and the next attempt begins with other monitors; after other errors, the other monitors are tried
                at once.
        """
        while True:
            await self._survey()
            if (failure := await self._empty()) is not None:
                raise failure
            if all(outbox.pending.is_surveyed for outbox in self._outboxes):
                return

    async def _survey(self) -> None:
        """Lists the observations of other processes, if it is time or the last listing was incomplete."""
        is_due = time.monotonic() >= self._survey_s
        for outbox in self._outboxes:
            if is_due or not outbox.pending.is_surveyed:
                before = outbox.pending.begin_survey()
                listed = await STORE.run(
                    outbox.store.sizes_bytes, OUTBOX, limit=outbox.pending.limit, accepts=is_outbox_key
                )
                outbox.pending.end_survey(listed, before)
        if is_due:
            self._survey_s = time.monotonic() + self._poll_s

    async def _empty(self) -> VfmalignError | None:
        """Sends the batches of all monitors in turn; returns an error if some could not be sent.

        Monitors that have failed come last: the service may be unavailable for one of them only.
        """
        failed: set[_Monitor] = set()
        failure: VfmalignError | None = None
        while waiting := [one for one in self._list_monitors() if one not in failed]:
            self._failed_s = {one: failed_s for one, failed_s in self._failed_s.items() if one in waiting}
            for outbox, monitor in sorted(waiting, key=lambda one: self._failed_s.get(one, 0.0)):
                try:
                    with logs.bound(tenant=outbox.store.tenant):
                        await self._send_next(outbox, monitor)
                    self._failed_s.pop((outbox, monitor), None)
                except VfmalignError as error:
                    self._failed_s[outbox, monitor] = time.monotonic()
                    if isinstance(error, Unavailable | DeadlineExceeded):
                        raise
                    failed.add((outbox, monitor))
                    failure = error
        return failure

    def _list_monitors(self) -> list[_Monitor]:
        return [(outbox, monitor) for outbox in self._outboxes for monitor in outbox.pending.get_monitors()]

    async def _send_next(self, outbox: Outbox, monitor: str) -> None:
        keys = await self._list_next(outbox, monitor)
        batch = await STORE.run(read_batch, outbox.store, keys)
        outbox.pending.remove(*batch.gone)
        for _, group in groupby(batch.entries, key=lambda entry: entry[1].origin):
            await self._send(outbox, list(group))
        for key in batch.damaged:
            _count_drop(monitor, DAMAGED)
            await self._delete(outbox, [key])

    async def _list_next(self, outbox: Outbox, monitor: str) -> list[str]:
        """Returns the next keys from the store, because this process knows only the keys that it wrote itself."""
        before = outbox.pending.begin_survey()
        listed = await STORE.run(outbox.store.sizes_bytes, outbox_prefix(monitor), limit=BATCH)
        outbox.pending.end_page(monitor, listed, before, is_last=len(listed) < BATCH)
        sizes = accumulate(listed[key] for key in sorted(listed))
        keys = [key for key, total in zip(sorted(listed), sizes, strict=True) if total <= _BATCH_BYTES]
        return keys or sorted(listed)[:1]

    async def _send(self, outbox: Outbox, group: _Group) -> None:
        """Sends observations of one monitor and origin; drops exactly the observations that the monitor rejects."""
        monitors, first = self._clients[outbox.store.tenant].monitors, group[0][1]
        try:
            results = await monitors.observe(
                first.monitor, [observed.observation for _, observed in group], first.origin
            )
        except _REFUSALS as error:
            if error.reason in MISCONFIGURED_STORE:  # an error in the service's settings, not in the observation
                raise
            if len(group) > 1:
                for entry in group:
                    await self._send(outbox, [entry])
                return
            ((key, observed),) = group
            _count_drop(observed.monitor, error.reason)
            await self._delete(outbox, [key])
            return
        for (_, observed), result in zip(group, results, strict=True):
            if result.outcome == "conflict":
                _count_drop(observed.monitor, CONFLICT)
            else:
                metrics.observations_delivered.labels("recorded", "").inc()
        await self._delete(outbox, [key for key, _ in group])

    async def _delete(self, outbox: Outbox, keys: Sequence[str]) -> None:
        deleted = await STORE.run(delete_entries, outbox.store, keys)
        outbox.pending.remove(*deleted)
        if len(deleted) < len(keys):
            raise StoreUnavailable("the sent observations could not be deleted", subject="outbox")


def _count_drop(monitor: str, reason: str) -> None:
    """Counts and logs a queued observation that is lost, without its ids."""
    metrics.observations_delivered.labels("dropped", reason).inc()
    _LOG.warning("observation_dropped", monitor=monitor, reason=reason)


def _log_failure(state: RetryCallState) -> None:
    """Logs the first of several failures; metrics show how long they last."""
    error = state.outcome.exception() if state.outcome is not None else None
    if error is None or (state.attempt_number > 1 and isinstance(error, VfmalignError)):
        return
    if isinstance(error, VfmalignError):
        _LOG.warning("outbox_waits", reason=error.reason, error=error)
    else:
        _LOG.error("outbox_waits", exc_info=error)
