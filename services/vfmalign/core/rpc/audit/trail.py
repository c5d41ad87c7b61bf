"""Writes audit lines, one at a time, from a thread of its own.

Calls only put lines into a queue, so that a slow disk does not slow down their event loop. A line is one `os.write`, so
that lines of processes that share a pipe do not mix.
"""

from __future__ import annotations

import os
import queue
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.runtime import metrics

QUEUE_LINES = 10_000
STUCK_S = 1.0
"""Seconds without progress after which the audit log counts as not writable."""
STRANGERS_PER_MINUTE = 100
"""Lines about calls without a valid token. Without this bound, strangers could fill the disk and so block changes."""
_MINUTE_S = 60.0
_RETRY_S = 0.1
_STDERR = 2


class AuditTrail:
    """The audit log of a process.

    Args:
        file: file to append to; standard error if None. If another program renames or deletes the file, the next line
            goes to a new one.
        required: whether calls that change data are refused while lines cannot be written.
        queue_lines: maximum number of waiting lines.
    """

    def __init__(self, file: Path | None, *, required: bool = True, queue_lines: int = QUEUE_LINES) -> None:
        self._file, self._required = file, required
        self._descriptor = _STDERR if file is None else -1
        self._lines: queue.Queue[bytes | None] = queue.Queue(queue_lines)
        self._busy_since: float | None = None
        self._closing = False
        self._minute_began_s, self._of_strangers, self._left_out = 0.0, 0, 0
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Checks that a call that changes data can be recorded.

        Raises:
            Unavailable: the queue is full, or no line could be written for a second.
        """
        if not self._required:
            return
        since = self._busy_since
        if self._lines.full() or (since is not None and time.monotonic() - since > STUCK_S):
            raise Unavailable(
                "the audit log cannot be written",
                subject="audit log",
                remedy="try again later; if this error persists, ask an operator to check the file's disk and log",
                reason="AUDIT_UNAVAILABLE",
            )

    def admit_stranger(self) -> int | None:
        """Counts a line about a call without a valid token, on the server's event loop.

        Returns:
            The number of such lines that were left out since the last one; None if this line is left out, too.
        """
        if time.monotonic() - self._minute_began_s >= _MINUTE_S:
            self._minute_began_s, self._of_strangers = time.monotonic(), 0
        self._of_strangers += 1
        if self._of_strangers > STRANGERS_PER_MINUTE:
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        return left_out

    def write(self, line: bytes) -> None:
        """Queues a line. If the queue is full, the line is lost and counted."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            metrics.audit_lines_lost.inc()

    def close(self, timeout_s: float = STUCK_S) -> None:
        """Writes the waiting lines, and gives up after the timeout. Lines that are left are counted."""
        self._closing = True
        with suppress(queue.Full):
            self._lines.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)
        metrics.audit_lines_lost.inc(self._lines.qsize())

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._busy_since = time.monotonic()
            while not self._try_to_write(line):
                if self._closing:
                    metrics.audit_lines_lost.inc()
                    break
                time.sleep(_RETRY_S)
            self._busy_since = None

    def _try_to_write(self, line: bytes) -> bool:
        try:
            self._open()
            written = os.write(self._descriptor, line)
            if written == len(line):
                return True
            if stat.S_ISREG(os.fstat(self._descriptor).st_mode):  # the disk is full: take the part back
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
        except OSError:
            self._reopen()
        return False

    def _open(self) -> None:
        """Opens the file if it is not open, or if it was renamed or deleted."""
        if self._file is None:
            return
        if self._descriptor >= 0:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._file), os.fstat(self._descriptor)):
                    return
            self._reopen()
        self._descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _reopen(self) -> None:
        """Closes the file, so that the next line opens it."""
        if self._file is not None and self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
