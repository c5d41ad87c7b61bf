"""A fair (first-in, first-out) lock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairLock:
    """A lock that threads acquire in the order of their requests."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._is_held = False

    @contextmanager
    def hold(self, timeout_s: float) -> Iterator[None]:
        """Holds the lock during a block.

        Raises:
            TimeoutError: the lock was not free in time.
        """
        own = threading.Event()
        with self._guard:
            if self._is_held:
                self._waiting.append(own)
            else:
                self._is_held = True
                own.set()
        if not own.wait(timeout_s):
            with self._guard:
                if not own.is_set():
                    self._waiting.remove(own)
                    raise TimeoutError
        try:
            yield
        finally:
            with self._guard:
                if self._waiting:
                    self._waiting.popleft().set()
                else:
                    self._is_held = False
