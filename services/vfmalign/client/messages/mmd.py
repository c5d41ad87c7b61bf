"""Messages of `MmdService` (`mmd.proto`), and the options of a comparison without its samples.

Samples have no records: their tensors are too large for a detour through JSON.
"""

from __future__ import annotations

from typing import ClassVar

from google.protobuf.message import Message

from vfmalign.client.messages.base import ApiMessage
from vfmalign.client.messages.generated.mmd import *
from vfmalign.v1 import mmd_pb2

UNNAMED_LAYER = "features"
"""Name of a layer that the caller does not name, such as that of a sample that is one array."""


class ComputeOptions(ApiMessage):
    """A `ComputeRequest` without its samples.

    Attributes:
        estimator: absent means the unbiased one that fits the pairing.
        layers: empty means all that both samples have.
        primary_layer: its result comes first; empty means the first layer.
        test: absent makes none.
        interval_level: coverage in (0, 1); 0 means 0.95.
        precision: least precision; absent means the service's setting.
        frequencies: of the random Fourier estimator, at least 256; 0 means 1,024.
        measures: measures of shift beside MMD².
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.ComputeRequest
    OMITTED: ClassVar[frozenset[str]] = frozenset({"x", "y", "reference"})

    pairing: Pairing
    estimator: Estimator | None = None
    kernel: Kernel | None = None
    layers: tuple[str, ...] = ()
    primary_layer: str = ""
    test: TestOptions | None = None
    interval_level: float = 0.0
    projection: bool = False
    precision: Precision | None = None
    frequencies: int = 0
    measures: tuple[Measure, ...] = ()
