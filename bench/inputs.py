"""The samples of each case, made from a seed and kept as `.npy` files, so that every process reads the same ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.environments import HOME


def shifted(n: int, d: int, shift: float, *, seed: int = 0) -> tuple[Path, Path]:
    """X ~ N(0, 1) and Y ~ N(shift, 1), n × d, float32."""

    def make() -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        x, y = (rng.standard_normal((n, d), dtype=np.float32) for _ in range(2))
        return x, y + np.float32(shift)

    return _kept(f"shifted-{n}x{d}-{shift:g}-{seed}", make)


def nearly_equal(n: int, d: int, offset: float, dtype: str, *, seed: int = 0) -> tuple[Path, Path]:
    """X ~ N(offset, 1) and Y = X + 1e-3 noise."""

    def make() -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((n, d)) + offset
        return x.astype(dtype), (x + 1e-3 * rng.standard_normal((n, d))).astype(dtype)

    return _kept(f"nearly-equal-{n}x{d}-{offset:g}-{dtype}-{seed}", make)


def _kept(name: str, make: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[Path, Path]:
    """The two files, made where they are not there yet."""
    folder = HOME / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.x.npy", folder / f"{name}.y.npy"
    if not all(path.exists() for path in paths):
        for path, array in zip(paths, make(), strict=True):
            unfinished = path.with_suffix(".part")
            with unfinished.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            unfinished.replace(path)
    return paths
