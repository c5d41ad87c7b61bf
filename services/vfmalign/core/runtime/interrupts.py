"""Handles Ctrl-C in programs with an event loop."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def wake_for_signals() -> Iterator[None]:
    """Lets every signal wake the running event loop during a block. Does nothing outside the main thread.

    `asyncio.run` handles SIGINT in Python code, which the main thread runs between two instructions. A signal that
    arrives at another thread, or just before this thread waits for events, would stay unhandled until the next event.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        loop.add_reader(reader, reader.recv, 4096)
        previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous)
            loop.remove_reader(reader)
