"""Cache of the states of monitors. The database and the snapshots contain the stored states."""

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
"""Maximum number of states that are read at once: the cache does not count their memory yet."""
_WAIT_S = 0.5
Key = tuple[str, str, str]
"""Tenant, id and `uid` of a monitor."""


@dataclass
class State:
    """The state of a monitor after an observation.

    Attributes:
        monitor: the monitor. Change the monitor only while it is locked.
        epoch: number of its epoch.
        sequence: number of the last observation that the state includes.
        erasures: number of erasures that the state includes; see `snapshots.count_erasures`.
        received_at: time when the last observation that the state includes arrived; None if unknown.
    """

    monitor: Monitor
    epoch: int
    sequence: int
    erasures: int = 0
    received_at: datetime | None = None

    @property
    def size_bytes(self) -> int:
        """Approximate memory in bytes."""
        reference = self.monitor.reference
        own = reference.scorer.scoring_SD.nbytes + reference.calibration_CD.nbytes
        return own + self.monitor.epoch.memory_bytes + 64 * self.sequence


class States:
    """Least-recently-used cache of states, with a lock for each monitor. Thread-safe.

    Args:
        memory_bytes: maximum memory of all cached states together. If a single state is larger than this limit, it is
            read again for each call.
    """

    def __init__(self, memory_bytes: int) -> None:
        size: Callable[[State], int] = lambda state: min(state.size_bytes, memory_bytes)  # noqa: E731
        self._cache: LRUCache[Key, State] = LRUCache(memory_bytes, getsizeof=size)
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[tuple[str, str], threading.Lock] = WeakValueDictionary()
        self._readers = threading.BoundedSemaphore(READERS)

    def get_lock(self, tenant: str, monitor_id: str) -> threading.Lock:
        """Returns the lock of a monitor. The lock exists as long as some object refers to it."""
        with self._guard:
            lock = self._locks.get((tenant, monitor_id))
            if lock is None:
                lock = self._locks[tenant, monitor_id] = threading.Lock()
            return lock

    @contextmanager
    def hold(self, tenant: str, monitor_id: str) -> Iterator[None]:
        """Locks a monitor while the body of a `with` statement runs.

        Raises:
            DeadlineExceeded, Cancelled: the call ended while it waited for the lock.
        """
        with _acquire(self.get_lock(tenant, monitor_id)):
            yield

    @contextmanager
    def limit_reading(self) -> Iterator[None]:
        """Limits the number of threads that run the body of this `with` statement to `READERS`. The body reads a state.

        Raises:
            DeadlineExceeded, Cancelled: the call ended while it waited for other threads.
        """
        with _acquire(self._readers):
            yield

    def get(self, key: Key) -> State | None:
        """Returns the state of a monitor if it is in memory. Returns None if the state is not in memory."""
        with self._guard:
            return self._cache.get(key)

    def put(self, key: Key, state: State) -> None:
        """Caches a state in memory, and updates its recorded size."""
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
