"""Threads that have a number of torch's own threads to themselves.

Knows that torch keeps two numbers: one of each thread, which a thread takes from the other when it first asks, and the
one that was set last anywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def pool_of(count: int, torch_threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool that is left with its work done, or cancelled where nothing has begun it.

    Args:
        count: threads of the pool.
        torch_threads: what each of them has; this thread keeps its own number.
        name: of the threads.

    Raises:
        RuntimeError: the system has no thread to give.
    """
    own = torch.get_num_threads()
    born = threading.Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()
        born.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=begin)
    try:
        torch.set_num_threads(torch_threads)
        try:
            for _ in range(count):
                pool.submit(int)
            born.wait()
        except BaseException:  # the system has no thread to give
            born.abort()
            raise
        finally:
            torch.set_num_threads(own)
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
