"""Stopping in good order: SIGTERM and SIGINT become a question that the work asks where it can stop.

Knows signals alone.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from vfmalign.core.errors import Cancelled


class Stop:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def listen(self) -> None:
        """Takes SIGTERM and SIGINT from now on; main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def ask(self) -> None:
        """Asks for a stop from within the process."""
        self._asked.set()

    def check(self) -> None:
        """Raises Cancelled once a stop was asked for."""
        if self._asked.is_set():
            raise Cancelled("the process was asked to stop", remedy="start it again: it goes on where it stopped")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked.set()
