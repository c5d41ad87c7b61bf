"""Threads that run comparisons: one for long and one for short comparisons. Each thread has its own queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from vfmalign.core.runtime.fair_gate import FairGate
from vfmalign.core.runtime.threads import Threads

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Pipeline:
    """Runs functions one after another in its own thread.

    Alternates between tenants, and between the callers of a tenant.

    Args:
        size: maximum number of waiting calls, in addition to the running one.
        name: name of the queue.
    """

    def __init__(self, size: int, name: str) -> None:
        # A second call inside would wait for the thread ahead of callers whose turn comes earlier.
        self._gate, self._thread = FairGate(1, size + 1, name), Threads(1, name)

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs a function in the thread. See `FairGate.enter` for errors."""
        async with self._gate.enter():
            return await self._thread.run(function, *args, **kwargs)

    def close(self) -> None:
        """Rejects new and waiting calls. The running function still finishes."""
        self._gate.close()
        self._thread.shutdown(wait=False, cancel_futures=True)


class Pipelines:
    """The pipelines of a service: one for long and one for short comparisons.

    Args:
        size: maximum number of waiting calls of each pipeline.
    """

    def __init__(self, size: int) -> None:
        self.long, self.short = Pipeline(size, "mmd"), Pipeline(size, "mmd-short")

    def close(self) -> None:
        """See `Pipeline`."""
        self.long.close()
        self.short.close()
