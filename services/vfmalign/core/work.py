"""One worker thread behind a bounded queue: heavy work runs one at a time, and callers beyond the bound are sent away.

Knows threads and asyncio. Knows nothing of what the work is. (grpc's `maximum_concurrent_rpcs` will not do: it turns
health checks away as well.)
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from vfmalign.core import metrics
from vfmalign.core.errors import Exhausted, Unavailable

_P = ParamSpec("_P")
_T = TypeVar("_T")


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
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._gauge = metrics.queue_depth.labels(name)
        self._gauge.set(0)

    @property
    def depth(self) -> int:
        """Calls that run or wait."""
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
        context = contextvars.copy_context()
        self._enter()
        try:
            future = self._executor.submit(context.run, lambda: function(*args, **kwargs))
        except RuntimeError:
            self._leave()
            raise self._unavailable() from None
        future.add_done_callback(self._on_done)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Refuses new work, drops what waits, and lets the running function end by itself."""
        with self._lock:
            self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _enter(self) -> None:
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

    def _leave(self) -> None:
        with self._lock:
            self._depth -= 1
            self._gauge.set(self._depth)

    def _on_done(self, _: Future[_T]) -> None:
        self._leave()

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            "takes no more work", subject=f"queue {self._name}", remedy="ask another replica", reason="DRAINING"
        )
