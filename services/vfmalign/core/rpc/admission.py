"""Admission of calls: how many a caller has at once, and memory for requests, which is reserved before it is read.

gRPC reads the message of a unary call before its handler runs, so stalled senders of large messages fill a server's
memory. Here a call reserves the largest message first, reads, and keeps the size of what it read until it ends. A call
that finds no room waits. Then the oldest unfinished read has to make room: a message that is still incomplete after
some time is likely to be stalled.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from vfmalign.core.domain.errors import Exhausted

GRACE_S = 2.0
WAIT_S = 5.0

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(eq=False)
class Reservation:
    """Memory that one call holds.

    Attributes:
        caller: who calls: an identity, or an address without its port.
        size_bytes: the largest message while it is read, then its size.
        granted: done once the memory is reserved.
        started: when its read began, by the clock of the event loop.
        read_until: ends a read that takes too long; None while nothing is read.
    """

    caller: str
    size_bytes: int
    granted: asyncio.Future[None]
    started: float = 0.0
    read_until: asyncio.Timeout | None = None


@dataclass(eq=False)
class Admission:
    """Calls of one process, and memory for their requests.

    A caller may have a part of the calls and half of the memory, so that nobody keeps the others out.

    Attributes:
        calls_per_caller: calls of one caller at once.
        message_bytes: largest message.
        total_bytes: for all calls; at least twice the largest message.
        message_timeout_s: seconds within which a message must be complete.
        grace_s: seconds that a message may take even while other calls wait for room.
        wait_s: seconds that a call waits for room before it is rejected.
        used_bytes: reserved so far.
    """

    calls_per_caller: int
    message_bytes: int
    total_bytes: int
    message_timeout_s: float
    grace_s: float = GRACE_S
    wait_s: float = WAIT_S
    used_bytes: int = 0
    _calls_of: Counter[str] = field(default_factory=Counter)
    _used_by: Counter[str] = field(default_factory=Counter)
    _reading: dict[Reservation, None] = field(default_factory=dict)
    _waiting: list[Reservation] = field(default_factory=list)

    @asynccontextmanager
    async def count(self, caller: str) -> AsyncIterator[None]:
        """Counts a call until it ends.

        Args:
            caller: who calls: an identity, or an address without its port.

        Raises:
            Exhausted: the caller has as many calls as it may have at once.
        """
        if self._calls_of[caller] >= self.calls_per_caller:
            raise Exhausted(
                f"you have {self._calls_of[caller]} calls at once, and the limit for one caller is "
                f"{self.calls_per_caller}",
                subject="server",
                remedy="wait until some have ended, or end some, such as those that watch; an operator may raise "
                "VFMALIGN_SERVER__MAX_CALLS_PER_CALLER",
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
    async def reserve(self, caller: str) -> AsyncIterator[Reservation]:
        """Reserves memory for the message of a call until the call ends.

        Args:
            caller: who calls: an identity, or an address without its port.

        Raises:
            Exhausted: there is no room, and none became free in time.
        """
        granted = asyncio.get_running_loop().create_future()
        reservation = Reservation(caller, self.message_bytes, granted)
        self._waiting.append(reservation)
        try:
            self._grant()
            if not granted.done():
                self._make_room(reservation.caller)
                await self._wait(granted)
            yield reservation
        finally:
            self._release(reservation)

    async def read(self, context: Context, reservation: Reservation) -> bytes | None:
        """Reads the next message of a call, which has reserved memory for it; None where there is no further message.

        Raises:
            Exhausted: the message was not complete in time.
        """
        loop = asyncio.get_running_loop()
        reservation.started = loop.time()
        try:
            async with asyncio.timeout(self.message_timeout_s) as reservation.read_until:
                self._reading[reservation] = None
                data = await context.read()
        except TimeoutError:
            raise Exhausted(
                f"the message was not complete after {loop.time() - reservation.started:.0f} s",
                subject="message",
                remedy="send it again over a faster connection, or send large data by reference",
                reason="MESSAGE_STALLED",
            ) from None
        finally:
            self._reading.pop(reservation, None)
            reservation.read_until = None
        if not isinstance(data, bytes):  # grpc.aio.EOF
            return None
        self._resize(reservation, min(len(data), self.message_bytes))
        return data

    @property
    def _share_bytes(self) -> int:
        """Memory for one caller."""
        return max(self.total_bytes // 2, self.message_bytes)

    async def _wait(self, granted: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(self.wait_s):
                await granted
        except TimeoutError:
            raise Exhausted(
                "the memory for incoming requests is in use",
                subject="server",
                remedy="repeat the call later, or send large data by reference",
                reason="REQUESTS_EXHAUSTED",
            ) from None

    def _grant(self) -> None:
        """Grants memory to waiting calls in their order; a caller at its limit does not keep the others waiting."""
        for reservation in list(self._waiting):
            if self.used_bytes + reservation.size_bytes > self.total_bytes:
                return
            if self._used_by[reservation.caller] + reservation.size_bytes <= self._share_bytes:
                self._waiting.remove(reservation)
                self._account(reservation.caller, reservation.size_bytes)
                reservation.granted.set_result(None)

    def _make_room(self, caller: str) -> None:
        """Shortens the oldest unfinished read of a caller that is at its limit, else of the one that holds most."""
        at_limit = self._used_by[caller] + self.message_bytes > self._share_bytes
        heaviest = caller if at_limit else self._used_by.most_common(1)[0][0]
        for reading in self._reading:  # in the order in which they began
            timeout, until = reading.read_until, reading.started + self.grace_s
            if reading.caller == heaviest and timeout is not None and (timeout.when() or 0) > until:
                timeout.reschedule(until)
                return

    def _account(self, caller: str, change_bytes: int) -> None:
        self.used_bytes += change_bytes
        self._used_by[caller] += change_bytes
        if not self._used_by[caller]:
            del self._used_by[caller]

    def _resize(self, reservation: Reservation, size_bytes: int) -> None:
        self._account(reservation.caller, size_bytes - reservation.size_bytes)
        reservation.size_bytes = size_bytes
        self._grant()

    def _release(self, reservation: Reservation) -> None:
        if reservation in self._waiting:
            self._waiting.remove(reservation)
        else:
            self._resize(reservation, 0)
