"""One MMD² on a CUDA device, from host memory: the upload is counted, for ours as for the formulas.

The peak is that of the device's memory, above what was there before the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.peers import plain
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.options import BackendChoice, Engine, Options
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.precision import LeastPrecision

Array = NDArray[np.floating]


def ours(x: Array, y: Array, *, sigma: float, precision: LeastPrecision, backend: BackendChoice) -> dict[str, Any]:
    """Vfmalign with one of its backends; the answer says which one it was."""

    def run() -> dict[str, Any]:
        options = Options("independent", fixed_sigma=sigma)
        engine = Engine(torch.device("cuda"), precision=precision, backend=backend, memory_bytes=2**40)
        result = compare(Sample("x", {"features": x}), Sample("y", {"features": y}), None, options, engine)
        return {
            "value": result.layers[0].raw.value_or_raise(),
            "backend": result.backend,
            "precision": result.precision,
        }

    return _measured(run)


def torch_plain(x: Array, y: Array, *, sigma: float) -> dict[str, Any]:
    """The textbook formula."""
    return _measured(lambda: {"value": plain.torch_formula(x, y, sigma=sigma, device="cuda")})


def torch_cdist(x: Array, y: Array, *, sigma: float) -> dict[str, Any]:
    """The same with torch.cdist."""
    return _measured(lambda: {"value": plain.torch_cdist(x, y, sigma=sigma, device="cuda")})


def _measured(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it gives, and the most memory that it took on the device."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    found = run()
    return found | {"above_inputs_bytes": torch.cuda.max_memory_allocated() - before}
