"""What a comparison is asked and what it answers. Plain records; knows nothing of how numbers come about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.distributed import SINGLE_PROCESS, ProcessGroup
from vfmalign.mmd.engine.lru_cache import NO_CACHE, SizedLruCache
from vfmalign.mmd.engine.precision import LeastPrecision, PrecisionName
from vfmalign.mmd.statistics.estimators import EstimatorName, Pairing, TestMethod
from vfmalign.mmd.statistics.projection import Projection
from vfmalign.mmd.statistics.similarity import MeasureValue
from vfmalign.mmd.statistics.uncertainty import Estimate

Bandwidth = Literal["fixed", "reference_median", "pooled_median"]
Backend = Literal["torch", "triton"]
BackendChoice = Literal["auto", "torch", "triton"]


@dataclass(frozen=True)
class Options:
    """What to compare and how.

    Attributes:
        pairing: `paired` (row i of x and y is one case) or `independent`.
        estimator: None for the unbiased one that fits the pairing.
        kernel: a name in `KERNELS`.
        fixed_sigma: σ in units of the (scaled) features; None for a median distance.
        layers: empty for all common ones.
        primary_layer: declared in advance and reported first; empty for the first layer.
        permutations: B; 0 makes no test.
        seed: of the permutations, from 0 to 2⁶⁴ − 1.
        interval_level: coverage of intervals, in (0, 1).
        projection: whether to project the primary layer.
        bandwidth: None for `fixed` where σ is given, else `reference_median`.
        precision: a floor; None for the engine's own.
        method: how the test's null distribution is made.
        aggregated: whether to test over a grid of bandwidths as well.
        block_rows: of the block estimator; 0 for √n.
        frequencies: of random Fourier features; 0 for 1,024.
        measures: names in `MEASURES`, taken beside MMD².
    """

    pairing: Pairing
    estimator: EstimatorName | None = None
    kernel: str = "gaussian"
    fixed_sigma: float | None = None
    layers: tuple[str, ...] = ()
    primary_layer: str = ""
    permutations: int = 0
    seed: int = 0
    interval_level: float = 0.95
    projection: bool = False
    bandwidth: Bandwidth | None = None
    precision: LeastPrecision | None = None
    method: TestMethod = "permutation"
    aggregated: bool = False
    block_rows: int = 0
    frequencies: int = 0
    measures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Engine:
    """Where and how to compute.

    Attributes:
        precision: a floor: `fast` rounds rows to bfloat16 on CUDA and equals `high` on a CPU, `high` takes float32,
            `exact` float64. Small comparisons, and those that would lose digits, are computed in float64 in any case.
        backend: what sums kernel matrices; `auto` takes triton where it runs and torch elsewhere.
        memory_bytes: memory for one comparison; more is refused before it starts.
        tile_shape: largest tile, rows × columns; None for what suits the device.
        context: checked before every tile, or every few milliseconds where several threads form tiles; raises
            Cancelled or DeadlineExceeded to stop.
        cache: what several comparisons share: rows that were centred, scaled and rounded once. By default nothing.
        process_group: processes that share the work of one comparison. By default this one is alone.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: LeastPrecision = "high"
    backend: BackendChoice = "auto"
    memory_bytes: int = 4 * 2**30
    tile_shape: tuple[int, int] | None = None
    context: WorkContext = UNLIMITED
    cache: SizedLruCache = NO_CACHE
    process_group: ProcessGroup = SINGLE_PROCESS


@dataclass(frozen=True)
class Shift:
    """MMD² in one scaling of the features.

    Attributes:
        mmd2: the estimate with its jackknife interval; unbiased ones may be negative.
        sigma: bandwidth in units of the (scaled) features; 0 where none could be formed.
        p_value, p_value_max_t: of the test, and adjusted over layers.
        permutations: behind the p-value; the identity is one of them where `enumerated`.
        error_bound: absolute, of the estimate, at `precision`.
        below_error_bound: |MMD²| does not exceed the bound.
        aggregated_p_value: of the test over a grid of bandwidths.
        approximation_error: half-width at 99 % around the exact value; 0 where the estimator is exact.
        backend: what summed the kernel matrix.
        backend_note: why not another one that was asked for; empty otherwise.
    """

    mmd2: Estimate
    sigma: float
    p_value: Estimate
    p_value_max_t: Estimate
    permutations: int
    enumerated: bool
    error_bound: float
    below_error_bound: bool
    precision: PrecisionName
    aggregated_p_value: Estimate
    approximation_error: float = 0.0
    backend: Backend = "torch"
    backend_note: str = ""

    def value_or_raise(self) -> float:
        """The estimate.

        Raises:
            BadOption: there is none; the message says why.
        """
        if self.mmd2.value is None:
            raise BadOption(self.mmd2.absent_reason, field="x", remedy="give more rows")
        return self.mmd2.value


@dataclass(frozen=True)
class LayerComparison:
    """One layer on the features as they are, and standardised by the reference (None without one).

    Attributes:
        measures: those asked for by name, on the standardised features where there are any, else on the raw ones.
    """

    layer: str
    channels: int
    channels_excluded: int
    raw: Shift
    standardised: Shift | None
    measures: Mapping[str, MeasureValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All layers, the primary one first; `precision` is the lowest that any value was computed in.

    Attributes:
        backend: what summed the kernel matrix.
        backend_note: why not another one that was asked for; empty otherwise.
    """

    layers: tuple[LayerComparison, ...]
    primary_layer: str
    estimator: EstimatorName
    rows_x: int
    rows_y: int
    groups: int
    precision: PrecisionName
    projection: Projection | None
    backend: Backend = "torch"
    backend_note: str = ""
