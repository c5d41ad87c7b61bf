"""Fixtures of the tests of decoders: frames, and processes with a planted decoder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import as_pixel_options, pixel_dtype
from tests.dicom_files import make_array, make_series

from vfmalign.imaging.dicom.decoding.client import Decoders, Request
from vfmalign.imaging.dicom.pixels import PLUGINS

MakeDecoders = Callable[..., Decoders]


def make_request(array_YX: NDArray[Any] | None = None, syntax: str = uid.JPEGLSLossless, **changes: Any) -> Request:
    """A frame, encoded."""
    array_YX = make_array((40, 34))[...].T if array_YX is None else array_YX
    (dataset,) = make_series(np.ascontiguousarray(array_YX.T)[..., None], syntax=syntax)
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    options = as_pixel_options(dataset, number_of_frames=1, pixel_keyword="PixelData")
    request = Request(frame, syntax, PLUGINS[uid.UID(syntax)], options, array_YX.shape, pixel_dtype(dataset))
    return request._replace(**changes)


def plant(body: str) -> tuple[str, ...]:
    """Starts a process whose function `planted` decodes in place of pydicom."""
    lines = ("import os, time", "from vfmalign.imaging.dicom.decoding import process", body)
    program = "\n".join([*lines, "decode, process.decode = process.decode, planted", "process.main()"])
    return (sys.executable, "-P", "-c", program)


@pytest.fixture
def make_decoders() -> Iterator[MakeDecoders]:
    """Makes decoders, which end with the test."""
    made: list[Decoders] = []

    def make(*args: Any, **options: Any) -> Decoders:
        made.append(Decoders(*args, **options))
        return made[-1]

    yield make
    for decoders in made:
        decoders.close()
