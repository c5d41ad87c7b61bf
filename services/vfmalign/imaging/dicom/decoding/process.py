"""The process that decodes frames: `python -m vfmalign.imaging.dicom.decoding.process`.

The process reads frames from its standard input and writes their pixels to its standard output. The process ends at the
end of its input. The process also ends after a frame that it cannot decode, because such a frame may have damaged its
memory.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder

from vfmalign.imaging.dicom.decoding.messages import read_header, write_message

BASE_BYTES = 64 * 2**20
"""Memory that a decoder may use in addition to `BYTES_PER_PIXEL`, for example for its tables."""
BYTES_PER_PIXEL = 48
"""Memory that a decoder may use for each pixel stated in the header. JPEG needs the most, 25 to 28 bytes."""
_GRACE = 2
"""Multiple of the time limit after which the process ends itself, in case its parent is gone."""


def main() -> None:
    """Decodes frames until standard input ends."""
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # decoders print, which would mix with the answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    write_message(answers, {})
    while serve(requests, answers):
        pass


def serve(requests: BinaryIO, answers: BinaryIO) -> bool:
    """Decodes one frame. Returns whether the process can decode another frame."""
    try:
        request = read_header(requests)
    except EOFError:
        return False
    options = request["options"]
    limit_memory(request["size"] + BASE_BYTES + BYTES_PER_PIXEL * options["rows"] * options["columns"])
    frame = requests.read(request["size"])
    # The default action ends the process, within native code as well.
    signal.setitimer(signal.ITIMER_REAL, _GRACE * request["timeout_s"])
    try:
        pixels_YX = decode(request, frame)
    except Exception:  # decoders raise many types for a damaged frame, and may quote it
        write_message(answers, {"size": None})
        return False
    signal.setitimer(signal.ITIMER_REAL, 0)
    write_message(answers, {"size": pixels_YX.nbytes}, np.ascontiguousarray(pixels_YX).data.cast("B"))
    return True


def limit_memory(size_bytes: int) -> None:
    """Limits the memory that the process allocates from now on. Only Linux enforces this limit."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        soft = pages * resource.getpagesize() + size_bytes
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def decode(request: Mapping[str, Any], frame: bytes) -> NDArray[np.generic]:
    """Decodes a frame. The result is the same as if pydicom decoded the frame inside a file."""
    pixels_YX, _ = get_decoder(request["syntax"]).as_array(
        encapsulate([frame]), index=0, raw=True, decoding_plugin=request["plugin"], **request["options"]
    )
    return pixels_YX


if __name__ == "__main__":
    main()
