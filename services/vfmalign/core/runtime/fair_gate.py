"""A gate in front of threads that all tenants share: calls enter by tenant in turn, not in the order of arrival.

Threads serve calls in the order of arrival, so a caller with many calls would make all others wait. Only as many calls
as keep the threads busy are inside the gate; the others wait in front of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from vfmalign.core.domain.errors import Exhausted, Unavailable, VfmalignError
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.work_context import current_work

SHORTEST_RETRY_S, LONGEST_RETRY_S = 0.1, 60.0
_WEIGHT = 0.2
"""Of the last call in the mean duration."""


class Caller(NamedTuple):
    """Who makes a call.

    Attributes:
        tenant: for which the call acts; empty where it acts for none.
        key: identifies the caller.
    """

    tenant: str
    key: str


_NOBODY = Caller("", "")
current_caller: ContextVar[Caller] = ContextVar("vfmalign_caller", default=_NOBODY)
"""Who makes the call that the running context serves."""


@dataclass(eq=False)
class _Call:
    """A call that has a place. Its turn is done when its wait ends: True if it may enter."""

    caller: Caller
    turn: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def keys(self) -> tuple[str, Caller]:
        """The tenant and the caller, each of which has turns."""
        return self.caller.tenant, self.caller


class FairGate:
    """Lets calls in by tenant in turn, and within a tenant by caller in turn. It belongs to the event loop.

    The next call is one of the tenant with the fewest calls inside, and of several such the one whose turn is longest
    ago. If all places are taken, a new call displaces the newest waiting call of the tenant that holds most, and there
    of the caller that holds most; if that is the new call's own caller, it is refused.

    Args:
        inside: calls that may be inside at once: one more than the threads, so that none of them is ever idle.
        places: calls that may be inside or wait.
        name: of the queue, for its metric and errors.
    """

    def __init__(self, inside: int, places: int, name: str) -> None:
        self._most_inside, self._most, self._name = inside, places, name
        self._calls: dict[_Call, None] = {}  # in the order of arrival
        self._inside: dict[_Call, float] = {}  # since when, by the clock of the event loop
        self._places: Counter[str | Caller] = Counter()
        self._turns: dict[str | Caller, int] = {}
        self._turn = 0
        self._mean_s = self._last_end_s = 0.0
        self._closed = False
        self._gauge = metrics.queue_depth.labels(name)
        self._gauge.set(0)

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[Callable[[], None]]:
        """Waits for a turn of the current caller; the body is inside. Whoever is cancelled gives the place back.

        Yields:
            A function that lets the next call in before the body ends. The call keeps its place until then.

        Raises:
            Exhausted: there is no place, or another call took it.
            Unavailable: the gate was closed.
        """
        call = self._take_place(current_caller.get())
        try:
            with current_work.get().waiting_for(f"queue: {self._name}"):
                if not await call.turn or self._closed:
                    raise self._create_error()
            yield partial(self._leave, call)
        finally:
            self._leave(call)
            self._free_place(call)

    def close(self) -> None:
        """Refuses new and waiting calls; those inside go on."""
        self._closed = True
        for call in self._get_waiting():
            call.turn.set_result(False)

    def _get_waiting(self) -> list[_Call]:
        return [call for call in self._calls if not call.turn.done()]  # one that is cancelled goes in a moment

    def _take_place(self, caller: Caller) -> _Call:
        if self._closed:
            raise self._create_error()
        if len(self._calls) >= self._most:
            self._make_room(caller)
        call = _Call(caller)
        for key in call.keys:
            self._places[key] += 1
            self._turns.setdefault(key, self._turn - 1)  # only the last one comes later
        self._calls[call] = None
        self._let_in()
        self._gauge.set(len(self._calls))
        return call

    def _make_room(self, newcomer: Caller) -> None:
        """Displaces a call, unless the newcomer would hold most places itself."""
        keys: list[str | Caller] = [newcomer.tenant, newcomer]
        places, waiting = self._places + Counter(keys), self._get_waiting()

        def weigh(caller: Caller) -> tuple[int, bool, int, bool]:
            return places[caller.tenant], caller.tenant == newcomer.tenant, places[caller], caller == newcomer

        heaviest = max([newcomer, *(call.caller for call in waiting)], key=weigh)
        if heaviest == newcomer:
            raise self._create_error()
        newest = next(call for call in reversed(waiting) if call.caller == heaviest)
        newest.turn.set_result(False)
        self._free_place(newest)

    def _let_in(self) -> None:
        while len(self._inside) < self._most_inside and (waiting := self._get_waiting()):
            inside = Counter(key for call in self._inside for key in call.keys)
            call = min(waiting, key=lambda call: [(inside[key], self._turns[key]) for key in call.keys])
            self._turn += 1
            self._turns |= dict.fromkeys(call.keys, self._turn)
            self._inside[call] = asyncio.get_running_loop().time()
            call.turn.set_result(True)

    def _leave(self, call: _Call) -> None:
        begin_s, end_s = self._inside.pop(call, None), asyncio.get_running_loop().time()
        if begin_s is not None:
            # Behind a call that was inside before, it has waited for the thread.
            seconds = end_s - max(begin_s, self._last_end_s)
            self._mean_s += (_WEIGHT if self._mean_s else 1.0) * (seconds - self._mean_s)
            self._last_end_s = end_s
            self._let_in()

    def _free_place(self, call: _Call) -> None:
        if call in self._calls:  # else it was displaced
            del self._calls[call]
            self._places -= Counter(call.keys)
            for key in call.keys:
                if not self._places[key]:
                    self._turns.pop(key)
            self._gauge.set(len(self._calls))

    def _create_error(self) -> VfmalignError:
        """Returns the error for a call that has no place, or lost it."""
        subject = f"queue {self._name}"
        if self._closed:
            return Unavailable(
                "it accepts no more work because the process is stopping",
                subject=subject,
                remedy="send the call to another replica",
                reason="DRAINING",
            )
        error = Exhausted(
            f"{len(self._calls)} calls run or wait already",
            subject=subject,
            remedy="repeat the call after the delay of this error, send fewer at once, or add a replica",
            reason="QUEUE_FULL",
        )
        error.retry_after_s = min(max(len(self._calls) * self._mean_s, SHORTEST_RETRY_S), LONGEST_RETRY_S)
        return error
