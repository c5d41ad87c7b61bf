"""Tiles formed side by side, each by a thread of its own, and added in the order of the tiles.

Threads that share one tile wait for each other after each of its steps: one that others on the machine hold up for a
moment holds up all of them. A thread with a tile of its own waits for nobody, and keeps it in its core's cache. Knows
threads and processors; nothing of matrices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

from vfmalign.core.runtime.work_context import WorkContext

Task = TypeVar("Task")
Found = TypeVar("Found")

# More threads than this wait for Python's lock; torch's threads are shared out among them.
_MOST_THREADS = 8
# With fewer tasks for each thread, the last of them leave too many threads without work.
_FEWEST_PER_THREAD = 10
# Tasks a thread may be ahead of the one whose turn it is to be added, so that few results wait.
_AHEAD_PER_THREAD = 8
_AHEAD_S = 0.001
_WAITING_S = 0.01  # how long other work waits for its turn at the most

_helped = threading.local()


def threads_for(device: torch.device, tasks: int) -> int:
    """How many threads share tasks: on a CPU as many as torch has, up to a limit; elsewhere, and of few tasks, one."""
    most = min(torch.get_num_threads(), _MOST_THREADS) if device.type == "cpu" else 1
    return most if tasks >= most * _FEWEST_PER_THREAD else 1


def cpu_seconds() -> float:
    """CPU time of this thread and of those that formed tiles for it."""
    return time.thread_time() + float(getattr(_helped, "seconds", 0.0))


def finish(futures: Iterable[Future[Any]], context: WorkContext) -> None:
    """Waits until all are done; `context` is checked before each and every few milliseconds."""
    for future in futures:
        context.checkpoint()
        while wait([future], timeout=_WAITING_S).not_done:
            context.checkpoint()
        future.result()


def in_order(
    form: Callable[[Task], Found],
    add: Callable[[Task, Found], None],
    tasks: Iterable[Task],
    *,
    context: WorkContext,
    threads: int,
) -> None:
    """Forms each task, and adds what was formed in the order of the tasks, so that sums do not depend on threads.

    Args:
        form: called by any of the threads, by several at once.
        add: called by any of the threads, by one at once.
        tasks: taken one by one.
        context: checked by this thread: before each task where there is one thread, else every few milliseconds.
            Where it raises, nothing is left running.
        threads: that work beside this one; of one, this one does the work.
    """
    if threads == 1:
        for task in tasks:
            context.checkpoint()
            add(task, form(task))
        return
    line = _Line(form, add, tasks, threads * _AHEAD_PER_THREAD)

    try:
        with _pool(threads) as pool:
            working = [pool.submit(line.work) for _ in range(threads)]
            try:
                finish(working, context)
            finally:
                line.stop()
    finally:
        _helped.seconds = float(getattr(_helped, "seconds", 0.0)) + line.cpu_seconds


class _Line(Generic[Task, Found]):
    """Tasks that stand in line, and what was formed and waits for its turn to be added."""

    def __init__(
        self, form: Callable[[Task], Found], add: Callable[[Task, Found], None], tasks: Iterable[Task], ahead: int
    ) -> None:
        self._form, self._add, self._tasks, self._ahead = form, add, enumerate(tasks), ahead
        self.moving = threading.Lock()
        self._formed: dict[int, tuple[Task, Found]] = {}
        self._turn, self._stopped = 0, False
        self.cpu_seconds = 0.0

    def work(self) -> None:
        """What each thread does: takes tasks until there are no more."""
        started = time.thread_time()
        try:
            with torch.inference_mode():  # sums of a caller in that mode can be added to in it alone
                taken = self._next()
                while taken is not None:
                    number, task = taken
                    taken = self._next(number, (task, self._form(task)))
        except BaseException:
            self.stop()
            raise
        finally:
            with self.moving:
                self.cpu_seconds += time.thread_time() - started

    def stop(self) -> None:
        """Lets no thread take another task."""
        self._stopped = True

    def _next(self, number: int = 0, formed: tuple[Task, Found] | None = None) -> tuple[int, Task] | None:
        """Hands in what was formed, adds what has its turn, and takes the next task."""
        with self.moving:
            if formed is not None:
                self._formed[number] = formed
            while not self._stopped and self._turn in self._formed:
                self._add(*self._formed.pop(self._turn))
                self._turn += 1
            taken = next(self._tasks, None)
        while taken is not None and not self._stopped and taken[0] >= self._turn + self._ahead:
            time.sleep(_AHEAD_S)
        return None if self._stopped else taken


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads among which torch's own are shared out."""
    all_threads = torch.get_num_threads()
    started = threading.Barrier(threads + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes the number that was set last when it first asks; not after its own
        torch.set_num_threads(max(1, all_threads // threads))
        started.wait()

    with ThreadPoolExecutor(threads, thread_name_prefix="mmd-tile", initializer=begin) as pool:
        try:
            for _ in range(threads):
                pool.submit(int)
        except RuntimeError:  # the system has no thread to give
            started.abort()
            raise
        started.wait()
        torch.set_num_threads(all_threads)  # threads that begin later take the number that was set last
        yield pool
