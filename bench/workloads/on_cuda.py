"""One MMD² on a CUDA device from host memory; the upload counts, for vfmalign as for the formulas.

The peak is that of the device's memory, above what was allocated before the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.workloads import formulas
from vfmalign.client.messages.mmd import ComputeOptions, Kernel, Precision
from vfmalign.mmd.comparison.compare import compare, get_value
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import BackendChoice, ComputeConfig

Array = NDArray[np.floating]


def vfmalign_mmd2(x: Array, y: Array, *, sigma: float, precision: Precision, backend: BackendChoice) -> dict[str, Any]:
    """Runs vfmalign with one of its backends and returns which one it used."""

    def run() -> dict[str, Any]:
        options = ComputeOptions(pairing="independent", kernel=Kernel(fixed_sigma=sigma))
        engine = ComputeConfig(torch.device("cuda"), precision=precision, backend=backend, memory_bytes=2**40)
        result = compare(Sample("x", {"features": x}), Sample("y", {"features": y}), None, options, engine)
        return {
            "value": get_value(result.layers[0].raw),
            "backend": result.backend,
            "precision": result.precision,
        }

    return _with_peak_memory(run)


def torch_plain(x: Array, y: Array, *, sigma: float) -> dict[str, Any]:
    """Runs the textbook formula."""
    return _with_peak_memory(lambda: {"value": formulas.torch_formula(x, y, sigma=sigma, device="cuda")})


def torch_cdist(x: Array, y: Array, *, sigma: float) -> dict[str, Any]:
    """Runs the formula with torch.cdist."""
    return _with_peak_memory(lambda: {"value": formulas.torch_cdist(x, y, sigma=sigma, device="cuda")})


def _with_peak_memory(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns the results of `run` and its peak memory on the device."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = run()
    return results | {"above_inputs_bytes": torch.cuda.max_memory_allocated() - before}
