"""Calls of clients that misbehave, as bytes of HTTP/2: no gRPC client sends half a message or never reads an answer."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x8
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_INITIAL_WINDOW_SIZE = 4
_WINDOW_BYTES, _FRAME_BYTES = 65_535, 16_384


@dataclass
class RawCalls:
    """Calls over one connection, one begun after the other.

    Attributes:
        method: path of the method, such as `/vfmalign.v1.MmdService/Compute`.
        message: what is sent of the message.
        declared_bytes: size of the message by its prefix; None for that of `message`.
        calls: how many to begin.
        tokens: of the callers, in turn; none for calls without a token.
        answer_bytes: how much of each answer the client takes (its flow-control window); 0 for nothing.
        source: local address to call from.
        status: headers and trailers of the responses so far, still encoded.
        ended: numbers of the calls that the server has ended.
        closed: whether the connection has ended.
    """

    method: str
    message: bytes
    declared_bytes: int | None = None
    calls: int = 1
    tokens: Sequence[str] = ()
    answer_bytes: int = _WINDOW_BYTES
    source: str = "127.0.0.1"
    status: bytes = b""
    ended: set[int] = field(default_factory=set)
    closed: bool = False

    async def run(self, port: int) -> None:
        """Sends what flow control allows, until the server has ended every call or the connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(self.source, 0))
            try:
                await _Connection(self, reader, writer).talk()
            finally:
                writer.close()
        self.closed = True


def stall(method: str, declared_bytes: int, sent_bytes: int, source: str = "127.0.0.1", calls: int = 1) -> RawCalls:
    """Returns calls that send the beginning of a message and then wait."""
    return RawCalls(method, _zeros(sent_bytes), declared_bytes, calls, source=source)


@cache
def _zeros(count: int) -> bytes:
    """Returns zeros, which calls share: making them for each would keep the event loop busy for seconds."""
    return bytes(count)


class _Connection:
    def __init__(self, calls: RawCalls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._calls, self._reader, self._writer = calls, reader, writer
        self._window = self._initial = _WINDOW_BYTES
        self._stream_windows: dict[int, int] = {}

    async def talk(self) -> None:
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, self._calls.answer_bytes)
        self._writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings))
        for number in range(self._calls.calls):
            await self._begin(number)
        while len(self._calls.ended) < self._calls.calls:
            await self._receive()

    async def _begin(self, number: int) -> None:
        calls, stream = self._calls, 2 * number + 1
        token = calls.tokens[number % len(calls.tokens)] if calls.tokens else ""
        self._stream_windows[stream] = self._initial
        self._writer.write(_frame(_HEADERS, _END_HEADERS, stream, _encode_headers(calls.method, token)))
        declared = len(calls.message) if calls.declared_bytes is None else calls.declared_bytes
        ends = _END_STREAM if declared == len(calls.message) else 0
        await self._send(number, b"\0" + struct.pack(">I", declared), 0 if calls.message else ends)
        await self._send(number, calls.message, ends)

    async def _send(self, number: int, content: bytes, flags: int) -> None:
        """Sends data of a call as far as flow control allows; the last frame has the flags."""
        stream, sent = 2 * number + 1, 0
        while sent < len(content) and number not in self._calls.ended:
            size = min(self._window, self._stream_windows[stream], _FRAME_BYTES, len(content) - sent)
            if not size:
                await self._receive()
                continue
            is_last = sent + size == len(content)
            self._writer.write(_frame(_DATA, flags if is_last else 0, stream, content[sent : sent + size]))
            sent, self._window = sent + size, self._window - size
            self._stream_windows[stream] -= size
            await self._writer.drain()

    async def _receive(self) -> None:
        head = await self._reader.readexactly(9)
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
        payload = await self._reader.readexactly(int.from_bytes(head[:3]))
        if kind == _SETTINGS and not flags & _ACK:
            settings = dict(struct.iter_unpack(">HI", payload))
            change = settings.get(_INITIAL_WINDOW_SIZE, self._initial) - self._initial
            self._initial += change
            self._stream_windows = {stream: window + change for stream, window in self._stream_windows.items()}
            self._writer.write(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self._writer.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)
        elif kind == _WINDOW_UPDATE and stream in self._stream_windows:
            self._stream_windows[stream] += int.from_bytes(payload)
        elif kind == _HEADERS:
            self._calls.status += payload
        if kind == _RESET or (kind in {_HEADERS, _DATA} and flags & _END_STREAM):
            self._calls.ended.add((stream - 1) // 2)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _encode_headers(method: str, token: str) -> bytes:
    """Encodes the headers of a call as literals without indexing and without Huffman codes."""
    headers = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "x", "te": "trailers"}
    headers["content-type"] = "application/grpc"
    if token:
        headers["authorization"] = f"Bearer {token}"
    return b"".join(b"\0" + _literal(name) + _literal(value) for name, value in headers.items())


def _literal(text: str) -> bytes:
    """Encodes a text with its length as an integer with a prefix of 7 bits (RFC 7541, sections 5.1 and 5.2)."""
    length, rest = len(text), len(text) - 127
    if rest < 0:
        return bytes([length]) + text.encode()
    encoded = [127]
    while rest >= 128:
        encoded.append(rest % 128 + 128)
        rest //= 128
    return bytes([*encoded, rest]) + text.encode()
