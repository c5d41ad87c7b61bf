"""Admission of calls: limits the concurrent calls of each caller, and the memory for requests and answers.

gRPC reads the message of a unary call before its handler runs. Stalled senders of large messages could therefore fill a
server's memory. Here, a call first reserves memory for a message of the maximum size. After the message was read, the
call keeps only as much memory as the message needs. The answer occupies memory until the caller has read the answer.
Some callers never read it. A call therefore counts as running until gRPC has finished the call.

If too little memory is free, a call waits. The tenant that uses the least memory comes first. Among the tenant's
callers, the caller that uses the least memory comes first. While a call waits, the server cancels the oldest unfinished
message or answer, which is probably stalled.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from vfmalign.core.domain.errors import Exhausted, TooLarge
from vfmalign.core.runtime.fair_gate import Caller

GRACE_S = 2.0
WAIT_S = 5.0

Context = grpc.aio.ServicerContext[bytes, bytes]
"""Context of a handler that reads and writes encoded messages."""


class _Deadline(Protocol):
    """Deadline of an unfinished message or answer, by the clock of the event loop, such as an `asyncio.Timeout`."""

    def when(self) -> float | None:
        """Returns the time of the deadline, or None if the deadline has passed."""

    def reschedule(self, when: float) -> None:
        """Changes the time."""


class _AnswerTimer:
    """Calls `expire` after `period_s`, and again after every further one, until it is cancelled."""

    def __init__(self, period_s: float, expire: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._period_s, self._expire, self._expired = period_s, expire, False
        self._handle = self._loop.call_later(period_s, self._run)

    def when(self) -> float | None:
        return None if self._expired else self._handle.when()

    def reschedule(self, when: float) -> None:
        self._handle.cancel()
        self._handle = self._loop.call_at(when, self._run)

    def cancel(self) -> None:
        self._handle.cancel()

    def _run(self) -> None:
        self._expired = True
        self._handle = self._loop.call_later(self._period_s, self._run)
        self._expire()


class ShareExhausted(Exhausted):
    """A caller or tenant uses its whole share of the memory. This is not the server's fault."""


@dataclass(eq=False)
class Reservation:
    """Memory that one call holds.

    Attributes:
        caller: who calls.
        size_bytes: size of the answer or of the message. While a message is being read, the size is `message_bytes`.
        granted: future that is done once the memory is reserved.
        started: start time of the transfer of the message or answer, by the clock of the event loop.
        deadline: timer that ends transfers that take too long; None while nothing is received or sent.
    """

    caller: Caller
    size_bytes: int
    granted: asyncio.Future[None]
    started: float = 0.0
    deadline: _Deadline | None = None


@dataclass(eq=False)
class Admission:
    """Calls of one process, and memory for their requests and answers.

    Each caller may use only a part of the calls and half of the memory. All callers of one tenant together may use
    three quarters of the memory. Therefore, no caller and no tenant can lock out the others.

    Attributes:
        calls_per_caller: maximum number of concurrent calls of one caller.
        message_bytes: maximum size of a message.
        total_bytes: memory for all calls; at least twice `message_bytes`.
        message_timeout_s: seconds within which a message must be complete.
        answer_timeout_s: seconds within which the caller must read a message of an answer.
        grace_s: seconds that a message or answer may take even while other calls wait for memory.
        wait_s: seconds that a call waits for memory before it is rejected.
        accepted_bytes: size above which a message is rejected after it was read; None for `message_bytes`.
        is_shared: whether all calls count as calls of a single caller, because no call has a token.
        used_bytes: currently reserved memory.
    """

    calls_per_caller: int
    message_bytes: int
    total_bytes: int
    message_timeout_s: float
    answer_timeout_s: float
    grace_s: float = GRACE_S
    wait_s: float = WAIT_S
    accepted_bytes: int | None = None
    is_shared: bool = False
    used_bytes: int = 0
    _calls_of: Counter[Caller] = field(default_factory=Counter)
    _used_by: Counter[str | Caller] = field(default_factory=Counter)
    _transfers: dict[Reservation, None] = field(default_factory=dict)
    _waiting: list[Reservation] = field(default_factory=list)

    @contextmanager
    def count(self, caller: Caller) -> Iterator[None]:
        """Counts a call until it is done.

        Args:
            caller: who calls.

        Raises:
            Exhausted: the caller has its maximum number of concurrent calls.
        """
        if self._calls_of[caller] >= self.calls_per_caller:
            who, remedy = "callers without a token", "repeat the call later, or probe the health port"
            if not self.is_shared:
                who = "one caller"
                remedy = (
                    "wait until some have ended, or end some, such as watching calls or calls with unread answers; an "
                    "operator may raise VFMALIGN_SERVER__MAX_CALLS_PER_CALLER"
                )
            raise Exhausted(
                f"{self._calls_of[caller]} calls are open, and the limit for {who} is {self.calls_per_caller}",
                subject="server",
                remedy=remedy,
                reason="TOO_MANY_CALLS",
            )
        self._calls_of[caller] += 1
        try:
            yield
        finally:
            self._calls_of[caller] -= 1
            if not self._calls_of[caller]:
                del self._calls_of[caller]

    @asynccontextmanager
    async def reserve(self, caller: Caller) -> AsyncIterator[Reservation]:
        """Reserves memory for the message of a call while the call works.

        Args:
            caller: who calls.

        Raises:
            Exhausted: not enough memory became free in time.
        """
        reservation = await self._acquire(caller, self.message_bytes)
        try:
            yield reservation
        finally:
            self._release(reservation)

    async def read(self, context: Context, reservation: Reservation) -> bytes | None:
        """Reads the next message of a call, which must have reserved memory. Returns None after the last message.

        Raises:
            Exhausted: the message was not complete in time.
            TooLarge: the message exceeds the limit.
        """
        loop = asyncio.get_running_loop()
        reservation.started = loop.time()
        try:
            async with asyncio.timeout(self.message_timeout_s) as reservation.deadline:
                self._transfers[reservation] = None
                data = await context.read()
        except TimeoutError:
            raise Exhausted(
                f"the message was not complete after {loop.time() - reservation.started:.0f} s",
                subject="message",
                remedy="send it again over a faster connection, or send large data by reference",
                reason="MESSAGE_STALLED",
            ) from None
        finally:
            self._transfers.pop(reservation, None)
            reservation.deadline = None
        if not isinstance(data, bytes):  # grpc.aio.EOF
            return None
        if self.accepted_bytes is not None and len(data) > self.accepted_bytes:
            raise TooLarge(
                f"the message has {len(data):,} bytes, and the limit is {self.accepted_bytes:,}",
                subject="message",
                remedy="send only the name of a service",
            )
        self._resize(reservation, min(len(data), self.message_bytes))
        return data

    async def send(self, caller: Caller, size_bytes: int, give_up: Callable[[], None]) -> Callable[[], None]:
        """Reserves memory for an answer that gRPC is about to send.

        Args:
            caller: who calls.
            size_bytes: size of the answer.
            give_up: function that is called if the caller did not read the answer in time. The function is called again
                after each further `answer_timeout_s`.

        Returns:
            A function to call once, when the caller has read the answer or the call has ended.

        Raises:
            Exhausted: not enough memory became free in time.
        """
        reservation = await self._acquire(caller, min(size_bytes, self._share_bytes))
        timer = _AnswerTimer(self.answer_timeout_s, give_up)
        reservation.started, reservation.deadline = asyncio.get_running_loop().time(), timer
        self._transfers[reservation] = None

        def end() -> None:
            del self._transfers[reservation]
            timer.cancel()
            self._release(reservation)

        return end

    async def _acquire(self, caller: Caller, size_bytes: int) -> Reservation:
        granted = asyncio.get_running_loop().create_future()
        reservation = Reservation(caller, size_bytes, granted)
        self._waiting.append(reservation)
        try:
            self._grant()
            if not granted.done():
                self._make_room(reservation)
                await self._wait(reservation)
        except BaseException:
            self._release(reservation)
            raise
        return reservation

    @property
    def _share_bytes(self) -> int:
        """Memory for one caller."""
        return max(self.total_bytes // 2, self.message_bytes)

    @property
    def _tenant_bytes(self) -> int:
        """Memory for the callers of one tenant."""
        return max(self.total_bytes * 3 // 4, self._share_bytes)

    async def _wait(self, reservation: Reservation) -> None:
        try:
            async with asyncio.timeout(self.wait_s):
                await reservation.granted
        except TimeoutError:
            limited = self._get_limited(reservation)
            raise (Exhausted if limited is None else ShareExhausted)(
                f"{'' if limited is None else 'your share of '}the memory for requests and answers is in use",
                subject="server",
                remedy="read the answers of your other calls, and repeat the call later; send large data by reference",
                reason="REQUESTS_EXHAUSTED",
            ) from None

    def _grant(self) -> None:
        """Grants memory to waiting calls; a caller or tenant at its limit does not keep the others waiting."""
        while waiting := [one for one in self._waiting if not one.granted.done() and self._get_limited(one) is None]:
            reservation = min(waiting, key=lambda one: (self._used_by[one.caller.tenant], self._used_by[one.caller]))
            if self.used_bytes + reservation.size_bytes > self.total_bytes:
                return
            self._waiting.remove(reservation)
            self._account(reservation.caller, reservation.size_bytes)
            reservation.granted.set_result(None)

    def _make_room(self, waiting: Reservation) -> None:
        """Shortens the oldest transfer of the caller that holds the most memory in the tenant that holds the most.

        If the waiting caller or its tenant is at its limit, only its own transfers are considered.
        """
        limited = self._get_limited(waiting)
        callers = [one.caller for one in self._transfers if limited in (None, one.caller, one.caller.tenant)]
        heaviest = max(callers, key=lambda one: (self._used_by[one.tenant], self._used_by[one]), default=None)
        for transfer in self._transfers:  # in the order in which they began
            deadline, until = transfer.deadline, transfer.started + self.grace_s
            if transfer.caller == heaviest and deadline is not None and (deadline.when() or 0) > until:
                deadline.reschedule(until)
                return

    def _get_limited(self, waiting: Reservation) -> Caller | str | None:
        """Returns the caller or tenant if its own calls hold the memory that a reservation waits for."""
        caller = waiting.caller
        if self._used_by[caller] + waiting.size_bytes > self._share_bytes:
            return caller
        return caller.tenant if self._used_by[caller.tenant] + waiting.size_bytes > self._tenant_bytes else None

    def _account(self, caller: Caller, change_bytes: int) -> None:
        self.used_bytes += change_bytes
        for key in (caller.tenant, caller):
            self._used_by[key] += change_bytes
            if not self._used_by[key]:
                del self._used_by[key]

    def _resize(self, reservation: Reservation, size_bytes: int) -> None:
        self._account(reservation.caller, size_bytes - reservation.size_bytes)
        reservation.size_bytes = size_bytes
        self._grant()

    def _release(self, reservation: Reservation) -> None:
        if reservation in self._waiting:
            self._waiting.remove(reservation)
        else:
            self._resize(reservation, 0)
