"""One worker thread behind a bounded queue: heavy work runs one at a time, and callers beyond the bound are sent away.

Work waits in the order in which it came, with one exception: long work may pause between two of its steps (the tiles
of a matrix, say) and let short work that waits run first (`run_pending_short_calls`). While long work runs, short
work with k short calls before it begins after at most 1 + ⌊k / SHORT_PER_STEP⌋ more steps, however much long work
waits; and every step is held up by at most SHORT_PER_STEP short calls, so that the long work always goes on.

Knows threads and asyncio. Knows nothing of what the work is. (grpc's `maximum_concurrent_rpcs` will not do: it turns
health checks away as well.)
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar

from vfmalign.core.domain.errors import Cancelled, Exhausted, Unavailable
from vfmalign.core.runtime import metrics

SHORT_PER_STEP = 4

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(eq=False)
class _Call(Generic[_T]):
    """Work that waits: a function to be called in its caller's context, and the future of its result."""

    function: Callable[[], _T]
    short: bool
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    future: Future[_T] = field(default_factory=Future)


def _run(call: _Call[Any]) -> None:
    """Runs the function, whose errors are the future's; does nothing where the caller has left."""
    if not call.future.set_running_or_notify_cancel():
        return
    try:
        result = call.context.run(call.function)
    except BaseException as error:
        call.future.set_exception(error)
        del call  # else the error's traceback would keep the work's data alive
    else:
        call.future.set_result(result)


class ShutdownRequest:
    """Tells work that it is to stop: records SIGTERM and SIGINT for the work to check where it can stop."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def listen(self) -> None:
        """Handles SIGTERM and SIGINT from now on. Call it in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.request())

    def request(self) -> None:
        """Requests a shutdown from within the process."""
        self._requested.set()

    def is_requested(self) -> bool:
        """Whether a shutdown was requested."""
        return self._requested.is_set()

    def check(self) -> None:
        """Raises Cancelled once a shutdown was requested."""
        if self.is_requested():
            raise Cancelled("the process was asked to stop", remedy="start it again: it goes on where it stopped")


class WorkQueue:
    """Runs functions one after another in a thread of its own.

    Args:
        size: calls that may wait beside the one that runs.
        name: of the queue, for its metric and its thread.
    """

    def __init__(self, size: int, name: str) -> None:
        self._limit = size + 1
        self._name = name
        self._depth = 0
        self._closed = False
        self._lock = threading.Lock()
        self._waiting: deque[_Call[Any]] = deque()
        self._may_pause = False  # of the worker thread alone: long work runs, and no short work within it
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._gauge = metrics.queue_depth.labels(name)
        self._gauge.set(0)

    @property
    def depth(self) -> int:
        """Calls that run, are paused or wait."""
        with self._lock:
            return self._depth

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs a function in the worker thread, with the caller's context variables.

        A caller that is cancelled while it waits leaves the queue. Work that runs is not interrupted and keeps its
        place until it returns: functions that take long watch for a cancellation themselves.

        Raises:
            Exhausted: the queue is full.
            Unavailable: the queue was closed.
        """
        return await self._result_of(_Call(lambda: function(*args, **kwargs), short=False))

    async def run_short(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Like `run`, for a function that takes so little time and memory that it may run within paused long work."""
        return await self._result_of(_Call(lambda: function(*args, **kwargs), short=True))

    def run_pending_short_calls(self) -> int:
        """Runs short work that waits, oldest first; long work calls this between two of its steps, in its own thread.

        What goes wrong in short work is its caller's alone. Short work never pauses: within it this does nothing.

        Returns:
            How many calls ran: at most `SHORT_PER_STEP`.
        """
        ran = 0
        while self._may_pause and ran < SHORT_PER_STEP:
            call = self._take(short_only=True)
            if call is None:
                break
            self._may_pause = False
            try:
                _run(call)
            finally:
                self._may_pause = True
            ran += 1
        return ran

    def close(self) -> None:
        """Refuses new work, drops what waits, and lets the running function end by itself."""
        with self._lock:
            self._closed = True
            dropped = list(self._waiting)
        for call in dropped:
            call.future.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _result_of(self, call: _Call[_T]) -> _T:
        self._enter(call)
        call.future.add_done_callback(self._leave)
        try:
            self._executor.submit(self._run_oldest)
        except RuntimeError:
            call.future.cancel()
            raise self._unavailable() from None
        return await asyncio.wrap_future(call.future)

    def _run_oldest(self) -> None:
        """One turn of the worker thread; short work that ran within long work leaves turns over, which do nothing."""
        call = self._take(short_only=False)
        if call is None:
            return
        self._may_pause = not call.short
        try:
            _run(call)
        finally:
            self._may_pause = False

    def _take(self, *, short_only: bool) -> _Call[Any] | None:
        """Removes the oldest call that waits from the queue."""
        with self._lock:
            call = next((one for one in self._waiting if one.short or not short_only), None)
            if call is not None:
                self._waiting.remove(call)
            return call

    def _enter(self, call: _Call[Any]) -> None:
        with self._lock:
            if self._closed:
                raise self._unavailable()
            if self._depth >= self._limit:
                raise Exhausted(
                    f"{self._depth} calls run or wait already",
                    subject=f"queue {self._name}",
                    remedy="try again later, or add a replica",
                    reason="QUEUE_FULL",
                )
            self._depth += 1
            self._gauge.set(self._depth)
            self._waiting.append(call)

    def _leave(self, future: Future[Any]) -> None:
        """Accounts for a call that ended, or whose caller left while it waited."""
        with self._lock:
            left = next((one for one in self._waiting if one.future is future), None)
            if left is not None:
                self._waiting.remove(left)
            self._depth -= 1
            self._gauge.set(self._depth)

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            "takes no more work", subject=f"queue {self._name}", remedy="ask another replica", reason="DRAINING"
        )
