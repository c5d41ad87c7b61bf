"""Least-recently-used cache bounded by size in bytes. Keys can compare objects by identity."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

from cachetools import LRUCache

_T = TypeVar("_T")


class IdentityKey:
    """Key that compares an object by identity. The key contains only a weak reference to the object.

    A large array can therefore be freed after its comparison. Small values that were computed from the array stay in
    the cache. The key of a freed array equals no other key, even if a new object has the same address.
    """

    def __init__(self, thing: object) -> None:
        self._reference = weakref.ref(thing)
        self._hash = id(thing)

    def __eq__(self, other: object) -> bool:
        """Returns whether both keys refer to the same object."""
        thing = self._reference()
        return thing is not None and isinstance(other, IdentityKey) and other._reference() is thing

    def __hash__(self) -> int:
        """Returns a hash of the object's identity."""
        return self._hash


class SizedLruCache:
    """Thread-safe cache that evicts the least recently used entries.

    Args:
        max_bytes: limit for the total size of all values; 0 disables the cache.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: LRUCache[Hashable, tuple[object, int]] = LRUCache(max_bytes, getsizeof=lambda entry: entry[1])

    @property
    def used_bytes(self) -> int:
        """Total size of all values in bytes."""
        return int(self._entries.currsize)

    def get_or_create(self, key: Hashable, factory: Callable[[], _T], sizeof: Callable[[_T], int]) -> _T:
        """Returns the value of a key. Creates a missing value, and stores it if it is not larger than `max_bytes`.

        Args:
            key: equal keys must have equal values.
            factory: creates the value. The cache calls it without the lock, because it may take long.
            sizeof: returns the size of the value in bytes.
        """
        with self._lock:
            if (entry := self._entries.get(key)) is not None:
                return cast(_T, entry[0])
        value = factory()
        size = sizeof(value)
        if size <= self.max_bytes:
            with self._lock:
                self._entries[key] = (value, size)
        return value


NO_CACHE = SizedLruCache(0)
