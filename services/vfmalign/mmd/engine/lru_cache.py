"""Least-recently-used cache bounded by size in bytes, and keys that compare objects by identity."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar, cast

from cachetools import LRUCache

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class IdentityKey:
    """A key that is equal only to a key of the very same object, which it keeps alive."""

    thing: object

    def __eq__(self, other: object) -> bool:
        """Compares by identity of the object."""
        return isinstance(other, IdentityKey) and other.thing is self.thing

    def __hash__(self) -> int:
        """Hashes by identity of the object."""
        return id(self.thing)


class SizedLruCache:
    """A cache that several threads may use; it evicts the entries used least recently.

    Args:
        max_bytes: of all values together; 0 stores nothing.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: LRUCache[Hashable, tuple[object, int]] = LRUCache(max_bytes, getsizeof=lambda entry: entry[1])

    @property
    def used_bytes(self) -> int:
        """Size of all values, in bytes."""
        return int(self._entries.currsize)

    def get_or_create(self, key: Hashable, factory: Callable[[], _T], sizeof: Callable[[_T], int]) -> _T:
        """Returns the value of a key; creates it where it is missing, and stores it unless it exceeds `max_bytes`.

        Args:
            key: equal keys have equal values.
            factory: creates the value. It runs without the lock, because it may take long and run other work meanwhile.
            sizeof: size of the value in bytes.
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
