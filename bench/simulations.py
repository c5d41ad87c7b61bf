"""Datasets whose truth is known, and what the engine says of one of them. Uses vfmalign.mmd as a library.

Every dataset has a seed of its own, so that any of them can be looked at again. Legend: N rows, G groups, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """x ~ N(0, I), y ~ N(shift·e₁, spread²·I), in groups of rows.

    Attributes:
        pair: correlation of row i of x with row i of y; 0 for independent samples.
        within: correlation of two rows of one group.
    """

    rows_x: int
    rows_y: int
    channels: int
    shift: float = 0.0
    spread: float = 1.0
    pair: float = 0.0
    within: float = 0.0
    rows_per_group: int = 1

    def draw(self, seed: int) -> tuple[Array, Array]:
        """One dataset."""
        # Permutations are keyed by the seed alone: data from the same numbers would not be independent of them.
        rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
        x, y = self._normal(rng, self.rows_x), self._normal(rng, self.rows_y)
        if self.pair:
            shared = self._normal(rng, self.rows_x)
            x, y = (np.sqrt(self.pair) * shared + np.sqrt(1.0 - self.pair) * own for own in (x, y))
        y = self.spread * y
        y[:, 0] += self.shift
        return x, y

    def groups(self, rows: int, prefix: str) -> list[str]:
        """The group of each row; empty where every row is its own."""
        return [f"{prefix}{row // self.rows_per_group}" for row in range(rows)] if self.rows_per_group > 1 else []

    def mmd2(self, sigma: float) -> float:
        """MMD² of the populations with a Gaussian kernel, in closed form.

        E exp(−‖z‖²/2σ²) = (σ²/(σ² + v))^{D/2}·exp(−‖μ‖²/(2(σ² + v))) for z ~ N(μ, v·I), the difference of two rows.
        """
        square = sigma**2

        def expected(variance: float, mean: float) -> float:
            total = square + variance
            return float((square / total) ** (self.channels / 2.0) * np.exp(-(mean**2) / (2.0 * total)))

        between = expected(1.0 + self.spread**2, self.shift)
        return expected(2.0, 0.0) + expected(2.0 * self.spread**2, 0.0) - 2.0 * between

    def _normal(self, rng: np.random.Generator, rows: int) -> Array:
        """Standard normal rows, correlated within their groups."""
        own = rng.standard_normal((rows, self.channels))
        if not self.within:
            return own
        groups = rng.standard_normal((-(-rows // self.rows_per_group), self.channels))
        shared = np.repeat(groups, self.rows_per_group, axis=0)[:rows]
        return np.asarray(np.sqrt(self.within) * shared + np.sqrt(1.0 - self.within) * own)


@dataclass(frozen=True)
class Case:
    """A population, and what `mmd_test` is asked of its datasets."""

    title: str
    population: Population
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def paired(self) -> bool:
        """Whether rows of x and y are of the same cases."""
        return self.options.get("pairing") == "paired"


@dataclass(frozen=True)
class Answer:
    """What one dataset gave; NaN where there is none.

    Attributes:
        lower, upper: of the interval, also where it is withheld.
        withheld: whether the engine shows no interval.
    """

    mmd2: float
    p: float
    aggregated_p: float
    sigma: float
    lower: float
    upper: float
    withheld: bool


def answer(case: Case, seed: int) -> Answer:
    """Tests one dataset."""
    from vfmalign.mmd import mmd_test
    from vfmalign.mmd.statistics import uncertainty

    x, y = case.population.draw(seed)
    groups_x = case.population.groups(len(x), "x")
    groups_y = [] if case.paired else case.population.groups(len(y), "y")
    options = {"pairing": "independent", "groups_x": groups_x, "groups_y": groups_y, "seed": seed, **case.options}
    result = mmd_test(x, y, **options)
    interval = result.interval
    if interval is None:
        withholding, uncertainty.LARGEST_BIAS = uncertainty.LARGEST_BIAS, float("inf")
        interval = mmd_test(x, y, **{**options, "permutations": 0}).interval
        uncertainty.LARGEST_BIAS = withholding
    return Answer(
        result.mmd2,
        _or_nan(result.p_value),
        _or_nan(result.aggregated_p_value),
        result.sigma,
        interval.lower if interval else np.nan,
        interval.upper if interval else np.nan,
        result.interval is None,
    )


def answers(case: Case, first_seed: int, datasets: int, processes: int) -> list[Answer]:
    """Tests many datasets, in as many processes of one thread each."""
    return each(answer, case, range(first_seed, first_seed + datasets), processes)


def each(function: Callable[[Case, int], Any], case: Case, seeds: Sequence[int], processes: int) -> list[Any]:
    """A function of every seed, in order."""
    if processes <= 1:
        one_thread()
        return [function(case, seed) for seed in seeds]
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(processes, get_context("spawn"), one_thread) as pool:
        return list(pool.map(function, [case] * len(seeds), seeds, chunksize=max(1, len(seeds) // (8 * processes))))


def one_thread() -> None:
    """Small matrices gain nothing from threads."""
    import torch

    torch.set_num_threads(1)


def _or_nan(value: float | None) -> float:
    """A number that says that there is none."""
    return np.nan if value is None else value
