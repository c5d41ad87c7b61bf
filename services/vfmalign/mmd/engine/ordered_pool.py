"""Thread pool that computes tasks in parallel and reduces their results in task order.

The fixed order makes sums independent of scheduling. Each thread computes its own tile, which is faster than sharing
one tile: threads that share a tile wait for each other after every step, so one preempted thread delays all of them. A
thread's own tile also stays in the cache of its core.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

import torch

from vfmalign.core.runtime.threads import Threads
from vfmalign.core.runtime.work_context import WorkContext

Task = TypeVar("Task")
Result = TypeVar("Result")

# More threads than this contend for the GIL. If torch has more, each thread of the pool uses several of them.
_MAX_THREADS = 8
# With fewer tasks per thread, too many threads would be idle while the last tasks run.
_MIN_TASKS_PER_THREAD = 10
# Number of tasks per thread that may start before the oldest task is reduced. This bounds the results in memory.
_MAX_AHEAD_PER_THREAD = 8
_POLL_AHEAD_S = 0.001
_POLL_CONTEXT_S = 0.01  # largest delay before a cancellation or deadline takes effect

_pool_time = threading.local()


def choose_threads(device: torch.device, tasks: int) -> int:
    """Returns the number of threads to use: torch's number of threads, up to a limit; 1 on a GPU or for few tasks."""
    threads = min(torch.get_num_threads(), _MAX_THREADS) if device.type == "cpu" else 1
    return threads if tasks >= threads * _MIN_TASKS_PER_THREAD else 1


def cpu_seconds() -> float:
    """Returns the CPU time of this thread and of the thread pools that it ran."""
    return time.thread_time() + float(getattr(_pool_time, "seconds", 0.0))


def wait_for_all(futures: Iterable[Future[Result]], context: WorkContext) -> None:
    """Waits until all futures are done. Checks `context` before each future and every few milliseconds."""
    for future in futures:
        context.checkpoint()
        while wait([future], timeout=_POLL_CONTEXT_S).not_done:
            context.checkpoint()
        future.result()


def reduce_in_order(
    compute: Callable[[Task], Result],
    reduce: Callable[[Task, Result], None],
    tasks: Iterable[Task],
    *,
    context: WorkContext,
    threads: int,
) -> None:
    """Computes every task and reduces the results in the order of the tasks.

    Args:
        compute: computes a task; several threads call it concurrently.
        reduce: receives a task and its result; only one thread at a time calls it.
        tasks: iterable of tasks; only one thread at a time calls its iterator.
        context: checked by the calling thread before each task if `threads` is 1, otherwise every few milliseconds. If
            a check fails, no task is left running.
        threads: number of threads; if 1, the calling thread computes the tasks.
    """
    if threads == 1:
        for task in tasks:
            context.checkpoint()
            reduce(task, compute(task))
        return
    queue = _ReductionQueue(compute, reduce, tasks, threads * _MAX_AHEAD_PER_THREAD)
    try:
        with _pool(threads) as pool:
            working = [pool.submit(queue.work) for _ in range(threads)]
            try:
                wait_for_all(working, context)
            finally:
                queue.stop()
    finally:
        _pool_time.seconds = float(getattr(_pool_time, "seconds", 0.0)) + queue.cpu_seconds


class _ReductionQueue(Generic[Task, Result]):
    """Tasks that no thread has started yet, and results that cannot be reduced before earlier results arrive."""

    def __init__(
        self,
        compute: Callable[[Task], Result],
        reduce: Callable[[Task, Result], None],
        tasks: Iterable[Task],
        max_ahead: int,
    ) -> None:
        self._compute, self._reduce, self._tasks, self._max_ahead = compute, reduce, enumerate(tasks), max_ahead
        # Guards the iterator, the results and the reduction. A thread that holds it never waits for another task.
        self._lock = threading.Lock()
        self._results: dict[int, tuple[Task, Result]] = {}
        self._next_to_reduce, self._stopped = 0, False
        self.cpu_seconds = 0.0

    def work(self) -> None:
        """Computes tasks until there are none left. Each thread runs this method."""
        started = time.thread_time()
        try:
            # The caller may have created the sums in inference mode; then only code in this mode may modify them.
            with torch.inference_mode():
                upcoming = self._advance()
                while upcoming is not None:
                    number, task = upcoming
                    upcoming = self._advance(number, (task, self._compute(task)))
        except BaseException:
            self.stop()
            raise
        finally:
            with self._lock:
                self.cpu_seconds += time.thread_time() - started

    def stop(self) -> None:
        """Prevents all threads from starting another task."""
        self._stopped = True

    def _advance(self, number: int = 0, result: tuple[Task, Result] | None = None) -> tuple[int, Task] | None:
        """Stores a result and reduces all results that are next in order. Returns the next task."""
        with self._lock:
            if result is not None:
                self._results[number] = result
            while not self._stopped and self._next_to_reduce in self._results:
                self._reduce(*self._results.pop(self._next_to_reduce))
                self._next_to_reduce += 1
            upcoming = next(self._tasks, None)
        # Wait outside the lock: the thread with the oldest task needs it to reduce its result.
        while upcoming is not None and not self._stopped and upcoming[0] >= self._next_to_reduce + self._max_ahead:
            time.sleep(_POLL_AHEAD_S)
        return None if self._stopped else upcoming


@contextmanager
def _pool(threads: int) -> Iterator[Threads]:
    """Starts worker threads and divides the number of torch's threads among them."""
    all_threads = torch.get_num_threads()
    started = threading.Barrier(threads + 1)

    def begin() -> None:
        # The first query in a thread adopts the number that any thread set last, so query before setting it.
        torch.get_num_threads()
        torch.set_num_threads(max(1, all_threads // threads))
        with suppress(threading.BrokenBarrierError):
            started.wait()

    with Threads(threads, "mmd-tile", begin) as pool:
        try:
            for _ in range(threads):
                pool.submit(int)
            started.wait()
        except BaseException:  # no further thread could be started, or Ctrl-C: end the threads that wait at the barrier
            started.abort()
            raise
        torch.set_num_threads(all_threads)  # for threads that start later: they adopt the number that was set last
        yield pool
