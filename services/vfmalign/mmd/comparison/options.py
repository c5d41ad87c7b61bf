"""Options of a comparison, with every default resolved, and where to compute it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from vfmalign.client.messages.mmd import BandwidthRule, Estimator, KernelFamily, Measure, Pairing, Precision, TestMethod
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.distributed import SINGLE_PROCESS, Communicator
from vfmalign.mmd.engine.lru_cache import NO_CACHE, SizedLruCache

Backend = Literal["torch", "triton"]
BackendChoice = Literal["auto", "torch", "triton"]


@dataclass(frozen=True)
class ComparisonOptions:
    """What to compare and how.

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
        block_rows: of the block estimator; 0 for √n.
        frequencies: of random Fourier features; 0 for 1,024.
        measures: names in `MEASURES`, computed in addition to MMD².
    """

    pairing: Pairing
    estimator: Estimator | None = None
    kernel: KernelFamily = "gaussian"
    fixed_sigma: float | None = None
    layers: tuple[str, ...] = ()
    primary_layer: str = ""
    permutations: int = 0
    seed: int = 0
    interval_level: float = 0.95
    projection: bool = False
    bandwidth: BandwidthRule | None = None
    precision: Precision | None = None
    method: TestMethod = "permutation"
    aggregated: bool = False
    block_rows: int = 0
    frequencies: int = 0
    measures: tuple[Measure, ...] = ()


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
