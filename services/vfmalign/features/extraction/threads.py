"""Thread pools in which each thread has its own number of torch threads.

torch has a global number of intra-op threads and a number for each thread. The last `set_num_threads` call of any
thread sets the global number. A thread copies the global number when it first needs its own number.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vfmalign.core.runtime.threads import Threads


@contextmanager
def open_thread_pool(count: int, torch_threads: int, name: str) -> Iterator[Threads]:
    """Opens a thread pool. On exit, running work finishes and waiting work is cancelled.

    Args:
        count: number of threads.
        torch_threads: number of torch threads for each thread of the pool. The calling thread keeps its own number.
        name: prefix of the thread names.

    Raises:
        RuntimeError: the system cannot start another thread.
    """
    own = torch.get_num_threads()
    started = threading.Barrier(count + 1)

    def initialise() -> None:
        torch.get_num_threads()  # copies the global number, which is `torch_threads` until all threads have started
        started.wait()

    pool = Threads(count, name, initialise)
    try:
        torch.set_num_threads(torch_threads)
        try:
            for _ in range(count):
                pool.submit(int)  # a pool starts its threads with the first work
            started.wait()
        except BaseException:  # a thread could not be started: release the threads that wait at the barrier
            started.abort()
            raise
        finally:
            torch.set_num_threads(own)
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
