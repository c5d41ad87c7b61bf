"""A gate in front of threads that all tenants share. The tenants take turns, whatever the order of arrival.

Threads serve calls in the order of arrival. Without a gate, a caller with many calls would therefore delay all other
callers. The gate admits only enough calls to keep the threads busy. The other calls wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from vfmalign.core.domain.errors import Exhausted, Unavailable, VfmalignError
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.work_context import current_work

SHORTEST_RETRY_S, LONGEST_RETRY_S = 0.1, 60.0
_READ_PAUSE_S = 0.25
"""Seconds between two calls of a tenant that are read although they come too early: they may be for another queue."""
_WEIGHT = 0.2
"""Weight of the last call in the mean duration."""


class Caller(NamedTuple):
    """Who makes a call.

    Attributes:
        tenant: tenant for which the call acts; empty for no tenant.
        key: identifies the caller.
    """

    tenant: str
    key: str


class QueueFull(Exhausted):
    """A queue is full, or a call lost its place in the queue.

    Attributes:
        gate: gate in front of the queue.
        is_early: whether the caller repeated a refused call before the stated delay had passed.
    """

    def __init__(self, gate: FairGate, calls: int, retry_after_s: float, *, subject: str, is_early: bool) -> None:
        remedy = "repeat the call after the delay of this error, send fewer at once, or add a replica"
        super().__init__(f"{calls} calls run or wait already", subject=subject, remedy=remedy, reason="QUEUE_FULL")
        self.gate, self.retry_after_s, self.is_early = gate, retry_after_s, is_early


_NOBODY = Caller("", "")
current_caller: ContextVar[Caller] = ContextVar("vfmalign_caller", default=_NOBODY)
"""Caller of the call that the running context serves."""


@dataclass(eq=False)
class _Call:
    """A call that has a place. `turn` is set when the call's wait ends: True if the call may enter."""

    caller: Caller
    turn: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def keys(self) -> tuple[str, Caller]:
        """Keys that take turns: the tenant and the caller."""
        return self.caller.tenant, self.caller


class FairGate:
    """Admits calls of each tenant in turn. The callers of a tenant also take turns. Use a gate only on its event loop.

    The next call comes from the tenant with the fewest calls inside. If several tenants have equally few calls inside,
    the tenant whose last turn was longest ago comes first. If all places are taken, a new call displaces a waiting
    call. The gate selects the tenant with the most places, and then this tenant's caller with the most places. The new
    call is counted, too. If the selected caller made the new call, the gate refuses the new call. If another caller
    made the new call, the gate removes the selected caller's newest waiting call.

    Args:
        inside: maximum number of calls inside the gate: the number of threads, plus one if calls do other work before
            they need a thread.
        places: maximum number of calls inside and waiting.
        name: name of the queue in its metric and errors.
    """

    def __init__(self, inside: int, places: int, name: str) -> None:
        self._most_inside, self._most, self._name = inside, places, name
        self._calls: dict[_Call, None] = {}  # in the order of arrival
        self._inside: dict[_Call, float] = {}  # since when, by the clock of the event loop
        self._places: Counter[str | Caller] = Counter()
        self._turns: dict[str | Caller, int] = {}
        self._turn = 0
        self._mean_s = self._last_end_s = 0.0
        self._expected = 0
        self._next_read_s: dict[str, float] = {}  # by tenant
        self._refused_until: dict[Caller, float] = {}  # in the order of the refusals
        self._closed = False
        self._gauge = metrics.queue_depth.labels(name)
        self._gauge.set(0)

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[Callable[[], None]]:
        """Waits for the current caller's turn. The block runs inside the gate. A cancelled call frees its place.

        Yields:
            A function that admits the next call before the block ends. The call keeps its place until the block ends.

        Raises:
            Exhausted: there is no free place, or another call took this call's place.
            Unavailable: the gate was closed.
        """
        call = self._take_place(current_caller.get())
        try:
            with current_work.get().waiting_for(f"queue: {self._name}"):
                if not await call.turn or self._closed:
                    raise self._create_error(call.caller)
            yield partial(self._leave, call)
        finally:
            self._leave(call)
            self._free_place(call)

    @contextmanager
    def expect(self) -> Iterator[bool]:
        """Refuses the current call if it repeats a refused call too early and would be refused again.

        Enter this block before reading a call's message, because reading takes longer than a refusal. The body reads
        the message. Until the block ends, an early call counts as if it had a place. Only the message of a call states
        its queue. The messages of a few early calls are therefore read.

        Yields:
            Whether the call is early and its message must be read. If an early call succeeds, call `forgive`.

        Raises:
            QueueFull: the delay of the last refusal has not passed, and no place is free.
        """
        caller, now = current_caller.get(), asyncio.get_running_loop().time()
        is_early = self._refused_until.get(caller, 0.0) > now
        is_full = is_early and self._is_full_for(caller, self._expected)
        if is_full:
            if now < self._next_read_s.get(caller.tenant, 0.0):
                raise self._create_error(caller, is_early=True)
            self._next_read_s[caller.tenant] = now + _READ_PAUSE_S
        self._expected += is_early
        try:
            yield is_full
        finally:
            self._expected -= is_early

    def forgive(self) -> None:
        """Forgets earlier refusals of the current caller, because the caller now calls another queue."""
        self._refused_until.pop(current_caller.get(), None)

    def close(self) -> None:
        """Refuses new and waiting calls. Calls inside the gate continue."""
        self._closed = True
        for call in self._get_waiting():
            call.turn.set_result(False)

    def _get_waiting(self) -> list[_Call]:
        return [call for call in self._calls if not call.turn.done()]  # a cancelled call leaves in a moment

    def _take_place(self, caller: Caller) -> _Call:
        if self._closed or self._is_full_for(caller):
            raise self._create_error(caller)
        if len(self._calls) >= self._most:
            self._displace(self._find_heaviest(caller))
        call = _Call(caller)
        for key in call.keys:
            self._places[key] += 1
            self._turns.setdefault(key, self._turn - 1)  # only the last one comes later
        self._calls[call] = None
        self._let_in()
        self._gauge.set(len(self._calls))
        return call

    def _is_full_for(self, newcomer: Caller, expected: int = 0) -> bool:
        return len(self._calls) + expected >= self._most and self._find_heaviest(newcomer) == newcomer

    def _find_heaviest(self, newcomer: Caller) -> Caller:
        """Returns the caller that would hold the most places in the tenant that would hold the most.

        Besides the new caller, only callers with waiting calls are considered: calls inside keep their places.
        """
        keys: list[str | Caller] = [newcomer.tenant, newcomer]
        places = self._places + Counter(keys)

        def weigh(caller: Caller) -> tuple[int, bool, int, bool]:
            return places[caller.tenant], caller.tenant == newcomer.tenant, places[caller], caller == newcomer

        return max([newcomer, *(call.caller for call in self._get_waiting())], key=weigh)

    def _displace(self, caller: Caller) -> None:
        newest = next(call for call in reversed(self._get_waiting()) if call.caller == caller)
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
            # While an earlier call was inside, this one only waited for the thread.
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

    def _create_error(self, caller: Caller, *, is_early: bool = False) -> VfmalignError:
        """Returns the error for a caller that has no place, or lost it."""
        subject = f"queue {self._name}"
        if self._closed:
            return Unavailable(
                "it accepts no more work because the process is stopping",
                subject=subject,
                remedy="send the call to another replica",
                reason="DRAINING",
            )
        calls = len(self._calls)
        delay_s = min(max(calls * self._mean_s, SHORTEST_RETRY_S), LONGEST_RETRY_S)
        self._note_refusal(caller, delay_s)
        return QueueFull(self, calls, delay_s, subject=subject, is_early=is_early)

    def _note_refusal(self, caller: Caller, delay_s: float) -> None:
        now = asyncio.get_running_loop().time()
        refused = self._refused_until
        refused.pop(caller, None)
        refused[caller] = now + delay_s
        while refused[first := next(iter(refused))] <= now:  # the caller itself ends it
            del refused[first]
