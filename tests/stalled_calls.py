"""Calls whose message is never complete, as bytes of HTTP/2: no gRPC client sends them."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0x0, 0x1, 0x4, 0x6, 0x8
_ACK, _END_HEADERS = 0x1, 0x4
_WINDOW_BYTES, _FRAME_BYTES = 65_535, 16_384


@dataclass
class StalledCall:
    """A call of one connection, which sends the beginning of a message and then waits.

    Attributes:
        method: path of the method, such as `/vfmalign.v1.MmdService/Compute`.
        declared_bytes: size of the message by its prefix.
        sent_bytes: how much of it to send.
        source: local address to call from.
        status: headers and trailers of the response so far, still encoded.
        ended: whether the server has ended the call.
    """

    method: str
    declared_bytes: int
    sent_bytes: int
    source: str = "127.0.0.1"
    status: bytes = b""
    ended: bool = False

    async def run(self, port: int) -> None:
        """Sends what flow control allows, until the server ends the call."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(self.source, 0))
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                await self._talk(reader, writer)
            finally:
                writer.close()
        self.ended = True

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            _PREFACE + _frame(_SETTINGS, 0, 0) + _frame(_HEADERS, _END_HEADERS, 1, _encode_headers(self.method))
        )
        content = b"\0" + struct.pack(">I", self.declared_bytes) + bytes(self.sent_bytes)
        sent, window, stream_window, initial = 0, _WINDOW_BYTES, _WINDOW_BYTES, _WINDOW_BYTES
        while not self.ended:
            while size := min(window, stream_window, _FRAME_BYTES, len(content) - sent):
                writer.write(_frame(_DATA, 0, 1, content[sent : sent + size]))
                sent, window, stream_window = sent + size, window - size, stream_window - size
                await writer.drain()
            head = await reader.readexactly(9)
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
            payload = await reader.readexactly(int.from_bytes(head[:3]))
            if kind == _SETTINGS and not flags & _ACK:
                settings = dict(struct.iter_unpack(">HI", payload))
                stream_window += settings.get(4, initial) - initial
                initial = settings.get(4, initial)
                writer.write(_frame(_SETTINGS, _ACK, 0))
            elif kind == _PING and not flags & _ACK:
                writer.write(_frame(_PING, _ACK, 0, payload))
            elif kind == _WINDOW_UPDATE:
                window += 0 if stream else int.from_bytes(payload)
                stream_window += int.from_bytes(payload) if stream else 0
            elif kind == _HEADERS:
                self.status += payload
                self.ended = bool(flags & 1)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _encode_headers(method: str) -> bytes:
    """Encodes the headers of a call as literals without indexing and without Huffman codes."""
    headers = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "x", "te": "trailers"}
    headers["content-type"] = "application/grpc"
    return b"".join(b"\0" + _literal(name) + _literal(value) for name, value in headers.items())


def _literal(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
