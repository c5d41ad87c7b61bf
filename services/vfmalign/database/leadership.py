"""Leadership: runs the leader's work while this process has the lease. Otherwise, the process stands by.

A separate thread renews the lease, so that slow calls of the work cannot delay renewals. The work ends when another
process takes over the lease. This process then stands by until it can acquire the lease again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from vfmalign.core.domain.errors import LeaseLost, VfmalignError
from vfmalign.core.runtime import logs
from vfmalign.database import metrics
from vfmalign.database.lease import Lease, Term

LEADER = "leader"
"""Name in the health service that is SERVING only at the leader."""
ORCHESTRATION = "orchestration"
"""Name in the health service that is SERVING as long as this process leads, or knows that another one does."""
_RENEWALS_PER_TTL = 3
_LONGEST_POLL_S = 1.0

_T = TypeVar("_T")
_log = logs.get(__name__)


class Work(Protocol):
    """Work of the leader during one term."""

    async def run(self) -> None:
        """Runs until `stop`."""

    def stop(self) -> None:
        """Makes `run` end soon. The next leader continues all work."""

    def wake(self) -> None:
        """Looks for new work at once."""

    async def hand_over(self) -> None:
        """Hands the work over to the next leader. Called after `run` if the service stops while this process leads."""


class Leadership:
    """Loop in which one process leads or stands by.

    Args:
        lease: this process's claim.
        begin: returns the work of a term.
        announce: called with a name and a flag. The flag of `LEADER` states whether this process leads. The flag of
            `ORCHESTRATION` states whether any process leads.
    """

    def __init__(
        self, lease: Lease, begin: Callable[[Term], Work], announce: Callable[[str, bool], Awaitable[None]]
    ) -> None:
        self._lease = lease
        self._begin = begin
        self._announce = announce
        self._work: Work | None = None
        self._stopping = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lease")

    def wake(self) -> None:
        """Lets the work run its next round at once if this process leads.

        Another leader finds new work in its next round.
        """
        if self._work is not None:
            self._work.wake()

    def stop(self) -> None:
        """Ends `run` after the work has ended and been handed over."""
        self._stopping.set()

    async def run(self) -> None:
        """Alternates between standing by and leading until `stop` is called."""
        await self._resign()
        while (term := await self._stand_by()) is not None:
            try:
                await self._lead(term)
            except VfmalignError as error:
                _log.warning("leadership_ended", epoch=term.epoch, error=error)
            except Exception:
                _log.exception("leadership_failed", epoch=term.epoch)
                await self._pause(_LONGEST_POLL_S)
        self._thread.shutdown(wait=False)

    async def _stand_by(self) -> Term | None:
        """Waits for the lease and acquires it; returns None once the service stops."""
        leader = None
        while not self._stopping.is_set():
            try:
                if (term := await self._in_thread(self._lease.try_acquire)) is not None:
                    return term
                await self._announce(ORCHESTRATION, True)
                seen = await self._in_thread(self._lease.get_holder)
                if seen != leader:
                    leader = seen
                    _log.info("standing_by", leader=leader)
            except VfmalignError as error:
                _log.warning("lease_not_read", error=error)
                await self._announce(ORCHESTRATION, False)
            except Exception:
                _log.exception("lease_not_read")
                await self._announce(ORCHESTRATION, False)
            await self._pause(min(self._lease.ttl_s / _RENEWALS_PER_TTL, _LONGEST_POLL_S))
        return None

    async def _lead(self, term: Term) -> None:
        """Does the work of one term, and gives the lease back."""
        _log.info("leading", epoch=term.epoch)
        metrics.orchestrator_takeovers.inc()
        metrics.orchestrator_leader.set_function(lambda: float(term.remaining_s > 0))
        try:
            self._work = self._begin(term)
            await self._announce_term(term)
            await self._supervise(self._work, term)
        finally:
            self._work = None
            await self._resign()
            with contextlib.suppress(VfmalignError):  # another process has taken over, or the lease expires by itself
                await self._in_thread(term.release)

    async def _supervise(self, work: Work, term: Term) -> None:
        """Runs the work until it is lost to another leader or the service stops."""
        running = asyncio.create_task(work.run(), name="leader")
        renewing = asyncio.create_task(self._renew(term), name="lease")
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((running, renewing, stopping), return_when=asyncio.FIRST_COMPLETED)
            if renewing.done():
                await self._resign()
            work.stop()
            await running
            if not renewing.done():
                await work.hand_over()
        finally:
            tasks = (running, renewing, stopping)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _resign(self) -> None:
        metrics.orchestrator_leader.set_function(lambda: 0.0)
        await self._announce(LEADER, False)
        await self._announce(ORCHESTRATION, False)

    async def _announce_term(self, term: Term) -> None:
        leads = term.remaining_s > 0
        await self._announce(LEADER, leads)
        await self._announce(ORCHESTRATION, leads)

    async def _renew(self, term: Term) -> None:
        """Renews the lease until another process has it.

        While the database does not answer, the lease may expire. The work goes on, but can write nothing. When the
        database answers again, the work continues unless another process has taken over.
        """
        pause_s = renewal_s = self._lease.ttl_s / _RENEWALS_PER_TTL
        while True:
            await asyncio.sleep(pause_s)
            renewal = asyncio.ensure_future(self._in_thread(term.renew))
            await asyncio.wait((renewal,), timeout=max(term.remaining_s, 0.0))
            if not renewal.done():
                await self._announce_term(term)
            try:
                await renewal
                pause_s = renewal_s
            except LeaseLost as error:
                _log.warning("lease_lost", epoch=term.epoch, error=error)
                return
            except VfmalignError as error:
                _log.warning("lease_not_renewed", epoch=term.epoch, error=error, seconds_left=term.remaining_s)
                pause_s = renewal_s / _RENEWALS_PER_TTL
            except Exception:
                _log.exception("lease_not_renewed", epoch=term.epoch, seconds_left=term.remaining_s)
                pause_s = renewal_s / _RENEWALS_PER_TTL
            await self._announce_term(term)

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
