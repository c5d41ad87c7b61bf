"""States of monitors in memory: a cache of what the database and the snapshots hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from weakref import WeakValueDictionary

from cachetools import LRUCache

from vfmalign.core.runtime.work_context import current_work
from vfmalign.monitoring.sequential import Monitor

READERS = 2
"""Most states that are brought up to the log at once, each of which takes memory that the cache does not count yet."""
_WAIT_S = 0.5
Key = tuple[str, str, str]
"""Tenant, id and `uid` of a monitor."""


@dataclass
class State:
    """The state of a monitor after an observation.

    Attributes:
        monitor: the monitor; whoever changes it holds the monitor's lock.
        epoch: number of its epoch.
        sequence: number of the last observation that it has taken.
        received_at: when that arrived; None where it is not known.
    """

    monitor: Monitor
    epoch: int
    sequence: int
    received_at: datetime | None = None

    @property
    def size_bytes(self) -> int:
        """Roughly the memory that it takes."""
        reference = self.monitor.reference
        own = reference.scorer.scoring_SD.nbytes + reference.calibration_CD.nbytes
        return own + self.monitor.epoch.memory_bytes + 64 * self.sequence


class States:
    """The states that were used last, and a lock for each monitor. Thread-safe.

    Args:
        memory_bytes: memory of all states together; one that is larger is read again for every call.
    """

    def __init__(self, memory_bytes: int) -> None:
        size: Callable[[State], int] = lambda state: min(state.size_bytes, memory_bytes)  # noqa: E731
        self._cache: LRUCache[Key, State] = LRUCache(memory_bytes, getsizeof=size)
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[tuple[str, str], threading.Lock] = WeakValueDictionary()
        self._readers = threading.BoundedSemaphore(READERS)

    def get_lock(self, tenant: str, monitor_id: str) -> threading.Lock:
        """Returns the lock of a monitor, which exists as long as somebody has it."""
        with self._guard:
            lock = self._locks.get((tenant, monitor_id))
            if lock is None:
                lock = self._locks[tenant, monitor_id] = threading.Lock()
            return lock

    @contextmanager
    def hold(self, tenant: str, monitor_id: str) -> Iterator[None]:
        """Holds the lock of a monitor during a block.

        Raises:
            DeadlineExceeded, Cancelled: the call that waits for the lock has ended.
        """
        with _acquire(self.get_lock(tenant, monitor_id)):
            yield

    @contextmanager
    def limit_reading(self) -> Iterator[None]:
        """Lets at most `READERS` threads be within a block, which reads a state.

        Raises:
            DeadlineExceeded, Cancelled: the call that waits has ended.
        """
        with _acquire(self._readers):
            yield

    def get(self, key: Key) -> State | None:
        """Returns a state that is in memory."""
        with self._guard:
            return self._cache.get(key)

    def put(self, key: Key, state: State) -> None:
        """Keeps a state; its size is taken anew."""
        with self._guard:
            self._cache.pop(key, None)
            self._cache[key] = state

    def drop(self, key: Key) -> None:
        """Forgets a state."""
        with self._guard:
            self._cache.pop(key, None)


@contextmanager
def _acquire(lock: threading.Lock | threading.Semaphore) -> Iterator[None]:
    while not lock.acquire(timeout=_WAIT_S):
        current_work.get().checkpoint()
    try:
        yield
    finally:
        lock.release()
