"""Bounded thread pools for work that would block the event loop. Each purpose has its own pool.

Calls do not use asyncio's default executor (`asyncio.to_thread`), which all purposes share. In that executor, calls
that wait for an unresponsive store would block all other calls. Only the orchestrator's loops use the default executor
(ADR 0080).
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, ParamSpec, TypeVar

from vfmalign.core.runtime.work_context import current_work

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Call(Generic[_T]):
    """A function to call once, in the context of the caller that submitted it."""

    def __init__(self, function: Callable[[], _T]) -> None:
        self._function: Callable[[], _T] | None = partial(contextvars.copy_context().run, function)

    def run(self) -> _T:
        function, self._function = self._function, None
        if function is None:
            raise RuntimeError("a call runs once, and not after its caller has left")
        return function()

    def release(self, _: Future[_T]) -> None:
        """Drops the function and its arguments.

        The executor keeps a cancelled call in its queue until the call's turn.
        """
        self._function = None


class Threads(ThreadPoolExecutor):
    """A thread pool that runs functions with the context variables of the code that submits them.

    Args:
        count: maximum number of threads. Further calls wait for a free thread.
        name: prefix of the threads' names.
        initialise: function that each thread calls first.
    """

    def __init__(self, count: int, name: str, initialise: Callable[[], None] | None = None) -> None:
        super().__init__(count, name, initialise)

    def submit(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Runs a function in a thread. A call that is cancelled before it runs does not keep its arguments.

        Raises:
            RuntimeError: the pool was shut down.
        """
        call = _Call(partial(function, *args, **kwargs))
        future = super().submit(call.run)
        future.add_done_callback(call.release)
        return future

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs a function in a thread and waits for it as `wait` does."""
        return await self.wait(self.submit(function, *args, **kwargs))

    async def wait(self, submitted: Future[_T]) -> _T:
        """Waits for a submitted function.

        If the caller is cancelled while the function waits for a thread, the function does not run. A running function
        is not interrupted. Functions must check `current_work` at points where they can stop.
        """
        with current_work.get().waiting_for(f"threads: {self._thread_name_prefix}"):
            return await asyncio.wrap_future(submitted)


STORE = Threads(16, "store")
"""Pool for calls that wait for the object store, and perhaps for the database as well."""
DATABASE = Threads(8, "database")
"""Pool for calls that wait only for the database."""
MESSAGES = Threads(1, "messages")
"""Pool for parsing and building large messages, which takes up to seconds. One at a time, because a message of millions
of short texts may take 16 times its size in memory once it is parsed.
"""
