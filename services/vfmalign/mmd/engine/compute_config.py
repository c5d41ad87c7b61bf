"""Where and how precisely to compute: device, precision, memory, and the processes that share the work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from vfmalign.client.messages.mmd import Precision
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.distributed import SINGLE_PROCESS, Communicator
from vfmalign.mmd.engine.lru_cache import NO_CACHE, SizedLruCache

Backend = Literal["torch", "triton"]
BackendChoice = Literal["auto", "torch", "triton"]


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
