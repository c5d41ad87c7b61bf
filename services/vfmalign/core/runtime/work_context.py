"""Deadline and cancellation of one piece of work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from vfmalign.core.domain.errors import Cancelled, DeadlineExceeded

PACS = "pacs: "
"""Prefix of notes about waiting for a PACS, which has another operator than the service."""


def _is_never_cancelled() -> bool:
    return False


@dataclass(frozen=True)
class WorkContext:
    """Deadline and cancellation of long work. The work calls `checkpoint` at points where it can stop.

    Attributes:
        deadline: value of `time.monotonic()` after which nobody needs the result; None without a limit.
        is_cancelled: True if nobody waits for the result any longer.
        waits: notes about the systems for which the work waits. The log contains these notes if the call ends during a
            wait.
    """

    deadline: float | None = None
    is_cancelled: Callable[[], bool] = _is_never_cancelled
    waits: list[str] = field(default_factory=list, compare=False)

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """Notes the system for which the block waits.

        If the task is cancelled or its deadline passes during the block, the note stays.
        """
        if self is UNLIMITED:  # outside a call, nobody reads the notes
            yield
            return
        self.waits.append(what)
        try:
            yield
        except (asyncio.CancelledError, DeadlineExceeded):
            raise
        except BaseException:
            self.waits.remove(what)
            raise
        self.waits.remove(what)

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

current_work: ContextVar[WorkContext] = ContextVar("vfmalign_work", default=UNLIMITED)
"""Limits of the call that the running context serves; none outside a call. `Threads` and queues pass it on."""


@contextmanager
def work_within(context: WorkContext) -> Iterator[None]:
    """Sets a context as `current_work` within the block."""
    token = current_work.set(context)
    try:
        yield
    finally:
        current_work.reset(token)


@contextmanager
def limit_work(remaining_s: float | None) -> Iterator[None]:
    """Sets `current_work` in the running task. When the block ends, cancels the block's work in other threads.

    Args:
        remaining_s: seconds after which nobody needs the result; None without a limit.
    """
    ended = threading.Event()
    deadline = None if remaining_s is None else time.monotonic() + remaining_s
    current_work.set(WorkContext(deadline, ended.is_set))
    try:
        yield
    finally:
        ended.set()
