"""A worker thread behind a bounded queue. The thread runs one heavy call at a time. Calls beyond the bound are refused.

(gRPC's `maximum_concurrent_rpcs` cannot replace the queue, because it would also refuse health checks.)
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from vfmalign.core.domain.errors import Cancelled, Exhausted, Unavailable
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.runtime.work_context import current_work

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ShutdownRequest:
    """Records SIGTERM and SIGINT as a request to stop. The work checks for this request at points where it can stop."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def listen(self) -> None:
        """Handles SIGTERM and SIGINT from now on. Call this method in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.request())

    def request(self) -> None:
        """Requests a shutdown from within the process."""
        self._requested.set()

    def is_requested(self) -> bool:
        """Returns whether a shutdown was requested."""
        return self._requested.is_set()

    def wait(self, timeout_s: float) -> None:
        """Sleeps until a shutdown is requested, but at most `timeout_s` seconds."""
        self._requested.wait(timeout_s)

    def check(self) -> None:
        """Raises Cancelled if a shutdown was requested."""
        if self.is_requested():
            raise Cancelled("the process was asked to stop", remedy="start it again: it goes on where it stopped")


class WorkQueue:
    """Runs functions in a separate thread, one after another, in the order of arrival.

    Args:
        size: maximum number of waiting calls, besides the running call.
        name: name of the queue in its metric and its thread.
    """

    def __init__(self, size: int, name: str) -> None:
        self._limit = size + 1
        self._name = name
        self._depth = 0
        self._lock = threading.Lock()
        self._thread = Threads(1, name)
        self._gauge = metrics.queue_depth.labels(name)
        self._gauge.set(0)

    @property
    def depth(self) -> int:
        """Calls that run or wait."""
        with self._lock:
            return self._depth

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs a function in the worker thread, with the caller's context variables.

        If a waiting caller is cancelled, its call leaves the queue. Running work is not interrupted, and keeps its
        place until it returns. To cancel long functions, pass them a `WorkContext`.

        Raises:
            Exhausted: the queue is full.
            Unavailable: the queue was closed.
        """
        self._enter()
        try:
            future = self._thread.submit(function, *args, **kwargs)
        except RuntimeError:
            self._leave()
            raise Unavailable(
                "it accepts no more work because the process is stopping",
                subject=f"queue {self._name}",
                remedy="send the call to another replica",
                reason="DRAINING",
            ) from None
        future.add_done_callback(self._leave)
        with current_work.get().waiting_for(f"queue: {self._name}"):
            return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Refuses new work, drops waiting work, and lets a running function finish."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _enter(self) -> None:
        with self._lock:
            if self._depth >= self._limit:
                raise Exhausted(
                    f"{self._depth} calls run or wait already",
                    subject=f"queue {self._name}",
                    remedy="try again later, or add a replica",
                    reason="QUEUE_FULL",
                )
            self._depth += 1
            self._gauge.set(self._depth)

    def _leave(self, _: object = None) -> None:
        """Accounts for a call that ended, or was given up by its caller while it waited."""
        with self._lock:
            self._depth -= 1
            self._gauge.set(self._depth)
