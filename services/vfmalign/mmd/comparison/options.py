"""Options of a comparison, with every default resolved, and where to compute it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from vfmalign.client.messages.base import to_bad_option
from vfmalign.client.messages.mmd import BandwidthRule, Estimator, KernelFamily, Measure, Pairing, Precision, TestMethod
from vfmalign.core.domain.bounds import get_range
from vfmalign.core.domain.record import Record
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.distributed import SINGLE_PROCESS, Communicator
from vfmalign.mmd.engine.lru_cache import NO_CACHE, SizedLruCache
from vfmalign.v1 import mmd_pb2

Backend = Literal["torch", "triton"]
BackendChoice = Literal["auto", "torch", "triton"]

MIN_FREQUENCIES = 256  # of fewer, the bound of the error covers less than it states (`bench.statistics`)
MAX_FREQUENCIES = 2**20
_API_FIELDS = {
    "fixed_sigma": "kernel.fixed_sigma",
    "permutations": "test.permutations",
    "seed": "test.seed",
    "method": "test.method",
}
"""Fields that a `ComputeRequest` holds in a message of their own."""


def _check_sigma(sigma: float | None) -> float | None:
    # The square of σ and its inverse must be finite in float64.
    if sigma is None or 1e-100 <= sigma <= 1e100:
        return sigma
    raise PydanticCustomError(
        "bandwidth",
        "expected σ from 1e-100 to 1e100, got {sigma}",
        {"sigma": sigma, "remedy": "give σ in units of the features, such as their median distance"},
    )


def _check_frequencies(count: int) -> int:
    if count == 0 or MIN_FREQUENCIES <= count <= MAX_FREQUENCIES:
        return count
    raise PydanticCustomError(
        "frequencies",
        "expected {lowest} to {highest} frequencies, got {count}",
        {
            "lowest": MIN_FREQUENCIES,
            "highest": MAX_FREQUENCIES,
            "count": count,
            "remedy": "start with 1,024; the error decreases with the square root of their number",
        },
    )


class ComparisonOptions(Record):
    """What to compare and how. Each option is checked here, their combination in `compare`.

    Attributes:
        pairing: `paired` (row i of x and y is one case) or `independent`.
        estimator: None for the unbiased one that fits the pairing.
        kernel: a name in `KERNELS`.
        fixed_sigma: σ in units of the (scaled) features; None for a median distance.
        layers: layers to compare; empty for all that the samples have in common.
        primary_layer: layer that is reported first; empty for the first one.
        permutations: number of permutations; 0 for no test.
        seed: of the permutations, from 0 to 2⁶⁴ − 1.
        interval_level: coverage of intervals, in (0, 1).
        projection: whether to project the primary layer.
        bandwidth: None for `fixed` where σ is given, else `reference_median`.
        precision: minimum precision; None for that of the engine.
        method: method of the test's null distribution.
        aggregated: whether to test over a grid of bandwidths as well.
        frequencies: of random Fourier features, from 256 to 2²⁰; 0 for 1,024.
        measures: names in `MEASURES`, computed in addition to MMD².
        standardise: whether to compare standardised features too, where there is a reference.
        measure_channels: whether to measure what the channels that move most contribute to standardised features, and
            how far those move that standardisation excludes.

    Raises:
        BadOption: an option is out of range or unknown; the error names it as the API does.
    """

    pairing: Pairing
    estimator: Estimator | None = None
    kernel: KernelFamily = "gaussian"
    fixed_sigma: Annotated[float | None, AfterValidator(_check_sigma)] = None
    layers: tuple[str, ...] = ()
    primary_layer: str = ""
    permutations: Annotated[int, get_range(mmd_pb2.TestOptions, "permutations")] = 0
    seed: Annotated[int, get_range(mmd_pb2.TestOptions, "seed")] = 0
    interval_level: float = Field(default=0.95, gt=0.0, lt=1.0)
    projection: bool = False
    bandwidth: BandwidthRule | None = None
    precision: Precision | None = None
    method: TestMethod = "permutation"
    aggregated: bool = False
    frequencies: Annotated[int, AfterValidator(_check_frequencies)] = 0
    measures: tuple[Measure, ...] = ()
    standardise: bool = True
    measure_channels: bool = True

    def __init__(self, pairing: Pairing, **fields: Any) -> None:
        try:
            super().__init__(**{"pairing": pairing, **fields})
        except ValidationError as error:
            raise to_bad_option(error, names=_API_FIELDS) from error


@dataclass(frozen=True)
class ComputeConfig:
    """Device, precision and resources of a computation.

    Attributes:
        precision: minimum precision: `fast` rounds rows to bfloat16 on CUDA and equals `high` on a CPU, `high` is
            float32, `exact` float64. Small comparisons, and those that would lose digits, always use float64.
        backend: backend that sums kernel matrices; `auto`: triton on CUDA if available, else torch.
        memory_bytes: memory limit of one comparison, checked before it starts.
        tile_shape: largest tile, rows × columns; None for the default of the device.
        context: checked before every tile, or every few milliseconds where several threads form tiles; raises
            Cancelled or DeadlineExceeded to stop.
        cache: prepared rows that several comparisons share. By default none.
        communicator: processes that share the work of one comparison. By default this one alone.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "high"
    backend: BackendChoice = "auto"
    memory_bytes: int = 4 * 2**30
    tile_shape: tuple[int, int] | None = None
    context: WorkContext = UNLIMITED
    cache: SizedLruCache = NO_CACHE
    communicator: Communicator = SINGLE_PROCESS
