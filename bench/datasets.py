"""Samples of each case, generated from a seed and stored as files, and their true MMD² in float64.

The true values are computed without any code of vfmalign.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.environments import HOME

Array = NDArray[np.floating]
STATISTICS = ("biased", "unbiased_independent", "unbiased_paired")


def shifted(n: int, d: int, shift: float, *, seed: int = 0) -> tuple[Path, Path]:
    """Returns the files of X ~ N(0, 1) and Y ~ N(shift, 1), n × d, float32."""

    def generate() -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        x, y = (rng.standard_normal((n, d), dtype=np.float32) for _ in range(2))
        return x, y + np.float32(shift)

    return _stored(f"shifted-{n}x{d}-{shift:g}-{seed}", generate)


def nearly_equal(n: int, d: int, offset: float, dtype: str, *, seed: int = 0) -> tuple[Path, Path]:
    """Returns the files of X ~ N(offset, 1) and Y = X + 1e-3 noise."""

    def generate() -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((n, d)) + offset
        return x.astype(dtype), (x + 1e-3 * rng.standard_normal((n, d))).astype(dtype)

    return _stored(f"nearly-equal-{n}x{d}-{offset:g}-{dtype}-{seed}", generate)


def true_values(inputs: tuple[Path, Path], sigma: float, *, direct: bool) -> dict[str, float]:
    """Returns MMD² of two samples with a Gaussian kernel, by statistic.

    The statistics are those of Gretton et al., JMLR 2012: eq. (5), eq. (3) and lemma 6.

    Args:
        inputs: `.npy` files of the samples; the result is stored beside the first.
        sigma: of exp(−‖x−y‖² / 2σ²).
        direct: whether to form differences before squaring and to evaluate the exponential in extended precision. It
            is slow, and needed for nearly equal samples, whose value the product form loses to cancellation.
    """
    path = inputs[0].with_name(f"{inputs[0].stem}.truth-{sigma:.9g}.json")
    if not path.exists():
        x, y = (np.load(file, allow_pickle=False).astype(np.float64) for file in inputs)
        path.write_text(json.dumps(_values(x, y, _direct_kernel(sigma) if direct else _product_kernel(x, sigma))))
    stored: dict[str, float] = json.loads(path.read_text())
    return stored


def _stored(name: str, generate: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[Path, Path]:
    """Returns the two files, generating them where one is missing."""
    folder = HOME / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.x.npy", folder / f"{name}.y.npy"
    if not all(path.exists() for path in paths):
        for path, array in zip(paths, generate(), strict=True):
            unfinished = path.with_suffix(".part")
            with unfinished.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            unfinished.replace(path)  # an interrupted run leaves no truncated file under the final name
    return paths


def _values(x: Array, y: Array, kernel: Callable[[Array, Array], Array]) -> dict[str, float]:
    """Returns all statistics, from sums over blocks of rows in extended precision."""
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
    """Sums each row pairwise in its own precision, and the rows in extended precision."""
    return np.longdouble(values.sum(axis=-1).astype(np.longdouble).sum())


def _product_kernel(x: Array, sigma: float) -> Callable[[Array, Array], Array]:
    """Returns the kernel that takes distances from a matrix product in float64, after centring."""
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


def _direct_kernel(sigma: float) -> Callable[[Array, Array], Array]:
    """Returns the kernel that takes distances from sums of squared differences."""

    def kernel(a: Array, b: Array) -> Array:
        from scipy.spatial.distance import cdist

        squared = cdist(a, b, "sqeuclidean").astype(np.longdouble)
        result: Array = np.exp(squared / np.longdouble(-2 * sigma**2))
        return result

    return kernel


def _same_rows(a: Array, b: Array) -> list[int]:
    """Returns the index in `b` of each row of `a` where `a` is a view of rows of `b`, and −1 elsewhere."""
    if not np.shares_memory(a, b):
        return [-1] * len(a)
    offset = (a.__array_interface__["data"][0] - b.__array_interface__["data"][0]) // b.strides[0]
    return [offset + row for row in range(len(a))]
