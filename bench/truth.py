"""The float64 values that everything is checked against, computed once and kept. Uses nothing of vfmalign."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
STATISTICS = ("biased", "unbiased_independent", "unbiased_paired")


def values(inputs: tuple[Path, Path], sigma: float, *, direct: bool) -> dict[str, float]:
    """MMD² of two samples with a Gaussian kernel, by statistic (Gretton et al., JMLR 2012, eqs. 3 and 5, lemma 6).

    Args:
        inputs: the samples' `.npy` files; the result is kept beside the first.
        sigma: of exp(−‖x−y‖² / 2σ²).
        direct: differences before squares, and the exponential in extended precision: for nearly equal sets, where
            the product form would lose what is asked for. Slow.
    """
    kept = inputs[0].with_name(f"{inputs[0].stem}.truth-{sigma:.9g}.json")
    if not kept.exists():
        x, y = (np.load(path, allow_pickle=False).astype(np.float64) for path in inputs)
        kept.write_text(json.dumps(_values(x, y, _direct(sigma) if direct else _product(x, sigma))))
    found: dict[str, float] = json.loads(kept.read_text())
    return found


def _values(x: Array, y: Array, kernel: Callable[[Array, Array], Array]) -> dict[str, float]:
    """All statistics, from sums over blocks of rows in extended precision."""
    n, m = len(x), len(y)
    step = max(1, 2**24 // max(n, m))
    xx = yy = xy = pairs = np.longdouble(0)
    for start in range(0, max(n, m), step):
        rows = slice(start, start + step)
        k_xy = kernel(x[rows], y)
        xx, yy, xy = xx + _sum(kernel(x[rows], x)), yy + _sum(kernel(y[rows], y)), xy + _sum(k_xy)
        pairs += _sum(2 * (1 - np.diagonal(k_xy, offset=start)))
    result = {
        "biased": xx / n**2 + yy / m**2 - 2 * xy / (n * m),
        "unbiased_independent": (xx - n) / (n * (n - 1)) + (yy - m) / (m * (m - 1)) - 2 * xy / (n * m),
    }
    if n == m:
        result["unbiased_paired"] = (xx + yy - 2 * xy - pairs) / (n * (n - 1))
    return {name: float(value) for name, value in result.items()}


def _sum(values: Array) -> np.longdouble:
    """Pairwise along rows, rows in extended precision."""
    return np.longdouble(values.sum(axis=-1).astype(np.longdouble).sum())


def _product(x: Array, sigma: float) -> Callable[[Array, Array], Array]:
    """The kernel by one matrix product in float64, after centring."""
    centre = x.mean(axis=0)

    def kernel(a: Array, b: Array) -> Array:
        a_centred, b_centred = a - centre, b - centre
        squared = (a_centred**2).sum(1)[:, None] + (b_centred**2).sum(1)[None, :] - 2 * a_centred @ b_centred.T
        for row, same in enumerate(_same_rows(a, b)):
            if same >= 0:
                squared[row, same] = 0.0
        result: Array = np.exp(np.maximum(squared, 0.0) / (-2 * sigma**2))
        return result

    return kernel


def _direct(sigma: float) -> Callable[[Array, Array], Array]:
    """The kernel by sums of squared differences."""

    def kernel(a: Array, b: Array) -> Array:
        from scipy.spatial.distance import cdist

        squared = cdist(a, b, "sqeuclidean").astype(np.longdouble)
        result: Array = np.exp(squared / np.longdouble(-2 * sigma**2))
        return result

    return kernel


def _same_rows(a: Array, b: Array) -> list[int]:
    """Where `a` is a block of rows of `b` (a view into it), the index in `b` of each of its rows; else −1."""
    if not np.shares_memory(a, b):
        return [-1] * len(a)
    offset = (a.__array_interface__["data"][0] - b.__array_interface__["data"][0]) // b.strides[0]
    return [offset + row for row in range(len(a))]
