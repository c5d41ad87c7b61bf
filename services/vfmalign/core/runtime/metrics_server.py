"""HTTP server from which Prometheus reads the metrics.

The server has few connections, and needs no thread for each connection. A time limit closes the connections of silent
clients after a few seconds. If there are too many connections, a new connection replaces the oldest one.
"""

from __future__ import annotations

import asyncio
import contextlib

from prometheus_client import generate_latest

from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.threads import Threads

MAX_CONNECTIONS = 64
TIMEOUT_S = 5.0
"""Time for a request and its answer."""
_REQUEST_BYTES = 8 * 2**10
_END_OF_REQUEST = b"\r\n\r\n"
_RESPONSE = (
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
    "Content-Length: {}\r\nConnection: close\r\n\r\n"
)


class MetricsServer:
    """Answers every request with the metrics of this process. The path of the request does not matter."""

    def __init__(self) -> None:
        self._open: dict[asyncio.StreamWriter, None] = {}
        self._thread = Threads(1, "metrics")

    async def start(self, host: str, port: int) -> int:
        """Starts to listen and returns the port.

        Raises:
            OSError: the port cannot be bound.
        """
        self._server = await asyncio.start_server(self._handle, host, port, limit=_REQUEST_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Closes every connection."""
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await self._server.wait_closed()
        self._thread.shutdown(wait=False)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        self._open[writer] = None
        try:
            # The client may be silent, send something else or leave.
            with contextlib.suppress(TimeoutError, OSError, EOFError, asyncio.LimitOverrunError):
                async with asyncio.timeout(TIMEOUT_S):
                    await reader.readuntil(_END_OF_REQUEST)
                    page = await self._thread.run(generate_latest, metrics.REGISTRY)
                    writer.write(_RESPONSE.format(len(page)).encode() + page)
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()
