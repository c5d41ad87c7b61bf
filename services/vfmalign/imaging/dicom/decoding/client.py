"""Pool of processes that decode frames. Each process serves one thread at a time and is replaced if it fails."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from io import BufferedReader, BufferedWriter
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from vfmalign.core.domain.errors import BadVolume, Unavailable
from vfmalign.imaging.dicom.decoding.messages import read_header, write_message

TIMEOUT_S = 60.0
"""Time limit for a frame. A frame of 4,096 × 4,096 random pixels in JPEG 2000 takes 15 s on a busy machine."""
MAX_PROCESSES = 4
"""Maximum number of processes; each takes about 70 MiB, and another one starts only if all are busy."""
_START_TIMEOUT_S = 60.0
_REMEDY = "try again; if that does not help, export the series uncompressed"
_INHERITED = ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
"""Environment variables that locate the interpreter's libraries. A decoder gets no others, and thus no secrets."""
COMMAND = (sys.executable, "-P", "-m", f"{__package__}.process")
"""Command that starts a process; modules in the current folder are not imported."""


class Request(NamedTuple):
    """A frame to decode.

    Attributes:
        frame: stored bytes, without encapsulation.
        syntax: transfer syntax.
        plugin: pydicom plugin that decodes the frame.
        options: image properties for pydicom; see `as_pixel_options`.
        shape: rows and columns.
        dtype: type of a pixel.
    """

    frame: bytes
    syntax: str
    plugin: str
    options: Mapping[str, Any]
    shape: tuple[int, int]
    dtype: np.dtype[Any]


class Decoders:
    """Processes that decode frames. The processes start on demand and are reused for further frames.

    Args:
        count: maximum number of processes. If all processes are busy, a thread waits until a process is free.
        timeout_s: time limit for decoding one frame.
        command: command that starts a process.
    """

    def __init__(
        self, count: int = MAX_PROCESSES, timeout_s: float = TIMEOUT_S, command: Sequence[str] = COMMAND
    ) -> None:
        self._timeout_s = timeout_s
        self._command = command
        self._turns = threading.BoundedSemaphore(count)
        self._idle: deque[_Decoder] = deque()

    def decode(self, request: Request, name: str) -> NDArray[Any]:
        """Decodes a frame.

        Args:
            request: the frame.
            name: name of the frame's volume in error messages.

        Raises:
            BadVolume: the frame is damaged, or its decoder crashes or takes too long.
            Unavailable: no process can be started.
        """
        with self._turns:
            decoder = self._take()
            try:
                pixels_YX = decoder.decode(request, self._timeout_s, name)
            except BaseException:
                decoder.end()
                raise
            self._idle.append(decoder)
        return pixels_YX

    def _take(self) -> _Decoder:
        """Returns the idle process that was used last, or a new one."""
        with contextlib.suppress(IndexError):
            while True:
                decoder = self._idle.pop()
                if decoder.is_running():
                    return decoder
                decoder.end()
        return _Decoder(self._command)

    def close(self) -> None:
        """Ends the idle processes."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().end()


@cache
def get_decoders() -> Decoders:
    """Returns the decoder pool of the current process."""
    decoders = Decoders()
    atexit.register(decoders.close)
    os.register_at_fork(after_in_child=get_decoders.cache_clear)  # two processes cannot share the pipes
    return decoders


class _Decoder:
    """One process.

    Args:
        command: command that starts it.

    Raises:
        Unavailable: it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # what decoders print may quote a header
                env=environment | {"OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C ends this process, which then ends its decoders
            )
        except OSError as error:
            raise _fail_to_start(error.strerror or "unknown reason") from None
        self._requests = cast(BufferedWriter, self._process.stdin)
        self._answers = cast(BufferedReader, self._process.stdout)
        try:
            with self._kill_after(_START_TIMEOUT_S):
                read_header(self._answers)
        except (EOFError, ValueError):
            self.end()
            raise _fail_to_start("it ended before it was ready") from None

    def decode(self, request: Request, timeout_s: float, name: str) -> NDArray[Any]:
        """Decodes a frame; see `Decoders.decode`. After an error, the process cannot be reused."""
        header = {
            "syntax": request.syntax,
            "plugin": request.plugin,
            "options": dict(request.options),
            "size": len(request.frame),
            "timeout_s": timeout_s,
        }
        pixels_YX = np.empty(request.shape, request.dtype)
        start_s = time.monotonic()
        try:
            with self._kill_after(timeout_s):
                write_message(self._requests, header, request.frame)
                is_decoded = read_header(self._answers).get("size") == pixels_YX.nbytes
                if is_decoded and self._answers.readinto(pixels_YX.data.cast("B")) < pixels_YX.nbytes:
                    raise EOFError
        except (OSError, EOFError, ValueError):
            is_late = time.monotonic() - start_s >= timeout_s
            cause = f"takes more than {timeout_s:g} s to decode" if is_late else "crashes its decoder"
            raise BadVolume(f"an image {cause}", subject=name, remedy=_REMEDY) from None
        if not is_decoded:
            raise BadVolume(
                "damaged or truncated DICOM: an image cannot be decoded, or its size differs from its header",
                subject=name,
                remedy="copy the files or export the series again",
            )
        return pixels_YX

    @contextlib.contextmanager
    def _kill_after(self, seconds: float) -> Iterator[None]:
        """Kills the process if the block takes longer, so that reading from it ends."""
        timer = threading.Timer(seconds, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def is_running(self) -> bool:
        """Returns whether the process still runs. The process may have ended, for example because memory ran out."""
        return self._process.poll() is None

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._answers):
            with contextlib.suppress(OSError):  # bytes that were not written yet
                pipe.close()


def _fail_to_start(reason: str) -> Unavailable:
    return Unavailable(
        f"the process that decodes images could not be started ({reason})",
        subject="DICOM",
        remedy="check the free memory and processes of this machine",
    )
