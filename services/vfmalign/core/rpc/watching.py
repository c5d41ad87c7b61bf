"""Helpers for streaming calls: pauses between polls, and reports in parts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from vfmalign.core.domain.errors import Unavailable

_PART_BYTES = 2**20


class Watching:
    """Pauses watch calls between two polls. When the service drains, ends all watch calls.

    Args:
        service: its name, for errors.
        poll_s: seconds between two polls.
    """

    def __init__(self, service: str, poll_s: float) -> None:
        self._service = service
        self._poll_s = poll_s
        self._ended = asyncio.Event()

    async def pause(self) -> None:
        """Waits for one polling interval.

        Raises:
            Unavailable: the service is shutting down.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s):
                await self._ended.wait()
            raise Unavailable("the service is shutting down", subject=self._service, remedy="watch again later")

    async def end(self) -> None:
        """Ends every watching call."""
        self._ended.set()


def split_content(content: bytes) -> Iterator[bytes]:
    """Yields a file in parts of at most 1 MiB, for streams of reports."""
    for start in range(0, len(content), _PART_BYTES):
        yield content[start : start + _PART_BYTES]
