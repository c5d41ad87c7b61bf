"""The threads that compare, one for long and one for short comparisons, each behind a gate of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from vfmalign.core.runtime.fair_gate import FairGate
from vfmalign.core.runtime.threads import Threads

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Pipeline:
    """Runs functions one after another in a thread of its own, by tenant and caller in turn.

    Args:
        size: calls that may wait beside the one that runs.
        name: of the queue.
    """

    def __init__(self, size: int, name: str) -> None:
        self._gate, self._thread = FairGate(2, size + 1, name), Threads(1, name)

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs a function in the thread. See `FairGate.enter` for errors."""
        async with self._gate.enter():
            return await self._thread.run(function, *args, **kwargs)

    def close(self) -> None:
        """Refuses new and waiting work, and lets the running function finish."""
        self._gate.close()
        self._thread.shutdown(wait=False, cancel_futures=True)


class Pipelines:
    """The pipelines of a service.

    Args:
        size: calls that may wait, for each of them.
    """

    def __init__(self, size: int) -> None:
        self.long, self.short = Pipeline(size, "mmd"), Pipeline(size, "mmd-short")

    def close(self) -> None:
        """See `Pipeline`."""
        self.long.close()
        self.short.close()
