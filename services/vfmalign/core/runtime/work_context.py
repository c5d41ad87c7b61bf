"""Limits of one piece of work: its deadline and its cancellation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from vfmalign.core.domain.errors import Cancelled, DeadlineExceeded


def _is_never_cancelled() -> bool:
    return False


@dataclass(frozen=True)
class WorkContext:
    """Passed down through long work, which calls `checkpoint` wherever it can stop.

    Attributes:
        deadline: `time.monotonic()` after which the result is of no use; None without a limit.
        is_cancelled: whether nobody waits for the result any more.
    """

    deadline: float | None = None
    is_cancelled: Callable[[], bool] = _is_never_cancelled

    def checkpoint(self) -> None:
        """Stops the work if nobody needs its result.

        Raises:
            DeadlineExceeded: the deadline has passed.
            Cancelled: the work was cancelled.
        """
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlineExceeded("the deadline passed before the work was done", remedy="set a longer timeout")
        if self.is_cancelled():
            raise Cancelled("the work was cancelled before it was done", remedy="send the request again")


UNLIMITED = WorkContext()
"""No deadline and no cancellation."""
