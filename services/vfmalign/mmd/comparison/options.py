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
        communicator: processes that share the work of one comparison. By default this one is alone.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "high"
    backend: BackendChoice = "auto"
    memory_bytes: int = 4 * 2**30
    tile_shape: tuple[int, int] | None = None
    context: WorkContext = UNLIMITED
    cache: SizedLruCache = NO_CACHE
    communicator: Communicator = SINGLE_PROCESS
