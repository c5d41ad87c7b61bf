"""Polling of the watching calls (`WatchJob`, `WatchCheck`, `WatchExperiment`)."""

from __future__ import annotations

import asyncio
import contextlib

from vfmalign.core.domain.errors import Unavailable


class Watching:
    """The pause between two looks of a watcher, and the end of all watching when the service drains."""

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._ended = asyncio.Event()

    async def pause(self) -> None:
        """Waits until it is time to look again.

        Raises:
            Unavailable: the service is ending.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), self._poll_s)
            raise Unavailable("the service is ending", subject="finetuning", remedy="watch again when it is back")

    async def end(self) -> None:
        """Ends every watcher."""
        self._ended.set()
