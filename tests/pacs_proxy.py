"""A proxy between a client and a PACS, which counts what passes and does to it what PACS and networks do.

It forwards every request to the server's port on loopback, unless a fault is planted for it.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Handler"], bool]
"""Answers a request in the server's place; returns whether it did."""


@dataclass
class PacsProxy:
    """A running proxy.

    Attributes:
        port: where it listens.
        target: port of the server.
        requests: paths in order, with what was asked for by `GET`.
        sent_bytes: bytes of answers to `GET` by path.
        cut_bytes: those of them that belong to answers of which half was sent.
        fault: what it does with a request; None forwards it.
    """

    target: int
    port: int = 0
    requests: list[str] = field(default_factory=list)
    sent_bytes: Counter[str] = field(default_factory=Counter)
    cut_bytes: Counter[str] = field(default_factory=Counter)
    fault: Fault | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def list_downloads(self) -> list[str]:
        """Paths that instances were asked for."""
        return [path for path in self.requests if "/series/" in path]


class Handler(BaseHTTPRequestHandler):
    """Serves one connection."""

    proxy: PacsProxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with self.proxy.lock:
            self.proxy.requests.append(self.path.partition("?")[0])
        if self.proxy.fault is not None and self.proxy.fault(self):
            return
        with self.fetch() as answer:
            self.start(answer)
            while data := answer.read(2**16):
                self.send(data)

    @contextmanager
    def fetch(self) -> Iterator[http.client.HTTPResponse]:
        """The server's answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.target, timeout=60)
        try:
            connection.request("GET", self.path, headers=dict(self.headers))
            yield connection.getresponse()
        finally:
            connection.close()

    def start(self, answer: http.client.HTTPResponse, **changed: str) -> None:
        """Sends status and headers of the server, some of them changed."""
        self.send_response(answer.status)
        names = {name.lower().replace("_", "-") for name in changed}
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "date", "server", *names}:
                self.send_header(name, value)
        for name, value in changed.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()

    def answer(self, status: int, body: bytes = b"", **headers: str) -> bool:
        """Sends an answer of its own."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return True

    def send_half(self) -> None:
        """Sends the first half of the server's answer."""
        with self.fetch() as answer:
            body = answer.read()
            self.start(answer, Content_Length=str(len(body)))
            half = body[: len(body) // 2]
            self.send(half)
            self.proxy.cut_bytes[self.path.partition("?")[0]] += len(half)

    def send(self, data: bytes) -> None:
        """Sends a part of a body, and counts it."""
        self.wfile.write(data)
        self.wfile.flush()
        self.proxy.sent_bytes[self.path.partition("?")[0]] += len(data)

    def log_message(self, *_: Any) -> None:
        """Keeps quiet."""


@contextmanager
def run_proxy(target: int, tls: ssl.SSLContext | None = None) -> Iterator[PacsProxy]:
    """Runs a proxy on a free port.

    Args:
        target: port of the server.
        tls: makes it speak TLS.
    """
    proxy = PacsProxy(target)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Connections that clients break off are what is tested."""

    server = Server(("127.0.0.1", 0), type("ProxyHandler", (Handler,), {"proxy": proxy}))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def matching(part: str, fault: Fault, times: int | None = None) -> Fault:
    """Limits a fault to requests whose path has a part, and to the first few of them."""
    left = [times]

    def limited(handler: Handler) -> bool:
        if part not in handler.path or left[0] == 0:
            return False
        if left[0] is not None:
            left[0] -= 1
        return fault(handler)

    return limited


def respond(status: int, body: bytes = b"", **headers: str) -> Fault:
    """A fault that answers with a status."""
    return lambda handler: handler.answer(status, body, **headers)


def drop(handler: Handler) -> bool:
    """Ends the connection without an answer."""
    handler.close_connection = True
    handler.connection.close()
    return True


def cut(handler: Handler) -> bool:
    """Sends the first half of the server's answer, and ends the connection."""
    handler.send_half()
    return True


def end_early(handler: Handler) -> bool:
    """Sends the first half of the server's answer as if it were all of it."""
    with handler.fetch() as answer:
        body = answer.read()
        half = body[: len(body) // 2]
        handler.start(answer, Content_Length=str(len(half)))
        handler.wfile.write(half)
    return True


def trickle(handler: Handler) -> bool:
    """Sends the body of the server's answer at one byte a second."""
    with handler.fetch() as answer:
        body = answer.read()
        handler.start(answer, Content_Length=str(len(body)))
    for byte in body:
        handler.wfile.write(bytes([byte]))
        time.sleep(1.0)
    return True


def trickle_chunks(handler: Handler) -> bool:
    """Sends empty lines in chunks of their own at twenty a second, without an end."""
    start_chunks(handler, b"")
    while True:
        handler.wfile.write(b"1\r\n\n\r\n")
        time.sleep(0.05)


def stall(handler: Handler) -> bool:
    """Sends the headers of an answer, and nothing more."""
    start_chunks(handler, b"")
    return say_nothing(handler)


def say_nothing(handler: Handler) -> bool:
    """Sends nothing until the client leaves."""
    handler.close_connection = True
    handler.connection.recv(1)
    return True


def start_chunks(handler: Handler, data: bytes) -> None:
    """Sends the headers of an answer in chunks, of the type that was asked for, and its first bytes."""
    handler.send_response(200)
    handler.send_header("Content-Type", f"{handler.headers['Accept']}; boundary=x")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(data)


def empty_series(handler: Handler) -> bool:
    """Sends a multipart answer without a part."""
    return handler.answer(200, b"--x--\r\n", Content_Type='multipart/related; type="application/dicom"; boundary=x')
