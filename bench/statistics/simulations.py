"""Datasets from known populations, and vfmalign's tests of them.

Every dataset has a seed of its own, so that it can be reproduced alone. Legend: N rows, G groups, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.05
PERMUTATIONS = 199  # (1 + 9)/(1 + 199) = 5 %: the level is attainable
CHANNELS = 5


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
        """Draws one dataset."""
        # Permutations are keyed by the seed alone; without a second key the data would depend on the same numbers.
        rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
        x, y = self._normal(rng, self.rows_x), self._normal(rng, self.rows_y)
        if self.pair:
            shared = self._normal(rng, self.rows_x)
            x, y = (np.sqrt(self.pair) * shared + np.sqrt(1.0 - self.pair) * own for own in (x, y))
        y = self.spread * y
        y[:, 0] += self.shift
        return x, y

    def groups(self, rows: int, prefix: str) -> list[str]:
        """Returns the group of each row; empty where every row is a group of its own."""
        return [f"{prefix}{row // self.rows_per_group}" for row in range(rows)] if self.rows_per_group > 1 else []

    def mmd2(self, sigma: float) -> float:
        """Returns MMD² of the populations with a Gaussian kernel, in closed form.

        E exp(−‖z‖²/2σ²) = (σ²/(σ² + v))^{D/2}·exp(−‖μ‖²/(2(σ² + v))) for z ~ N(μ, v·I), the difference of two rows.
        """
        square = sigma**2

        def expected(variance: float, mean: float) -> float:
            total = square + variance
            return float((square / total) ** (self.channels / 2.0) * np.exp(-(mean**2) / (2.0 * total)))

        between = expected(1.0 + self.spread**2, self.shift)
        return expected(2.0, 0.0) + expected(2.0 * self.spread**2, 0.0) - 2.0 * between

    def _normal(self, rng: np.random.Generator, rows: int) -> Array:
        """Draws standard normal rows that are correlated within their groups."""
        own = rng.standard_normal((rows, self.channels))
        if not self.within:
            return own
        groups = rng.standard_normal((-(-rows // self.rows_per_group), self.channels))
        shared = np.repeat(groups, self.rows_per_group, axis=0)[:rows]
        return np.asarray(np.sqrt(self.within) * shared + np.sqrt(1.0 - self.within) * own)


@dataclass(frozen=True)
class Scenario:
    """A population and the options of `mmd_test` for its datasets."""

    title: str
    population: Population
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def paired(self) -> bool:
        """Whether rows of x and y are pairs."""
        return self.options.get("pairing") == "paired"


@dataclass(frozen=True)
class Outcome:
    """Result of testing one dataset; NaN where a number is absent.

    Attributes:
        lower, upper: of the interval, also where the engine withholds it.
        withheld: whether the engine shows no interval.
    """

    mmd2: float
    p: float
    aggregated_p: float
    sigma: float
    lower: float
    upper: float
    withheld: bool


def run_test(scenario: Scenario, seed: int) -> Outcome:
    """Draws and tests one dataset."""
    from vfmalign.mmd import mmd_test
    from vfmalign.mmd.statistics import uncertainty

    x, y = scenario.population.draw(seed)
    groups_x = scenario.population.groups(len(x), "x")
    groups_y = [] if scenario.paired else scenario.population.groups(len(y), "y")
    options = {"pairing": "independent", "groups_x": groups_x, "groups_y": groups_y, "seed": seed, **scenario.options}
    result = mmd_test(x, y, **options)
    interval = result.interval
    if interval is None:  # compute it all the same, to report how often it would cover
        limit, uncertainty.LARGEST_BIAS = uncertainty.LARGEST_BIAS, float("inf")
        interval = mmd_test(x, y, **{**options, "permutations": 0}).interval
        uncertainty.LARGEST_BIAS = limit
    return Outcome(
        result.mmd2,
        _or_nan(result.p_value),
        _or_nan(result.aggregated_p_value),
        result.sigma,
        interval.lower if interval else np.nan,
        interval.upper if interval else np.nan,
        result.interval is None,
    )


def run_tests(scenario: Scenario, first_seed: int, datasets: int, processes: int) -> list[Outcome]:
    """Draws and tests many datasets, shared among processes of one thread each."""
    return map_seeds(run_test, scenario, range(first_seed, first_seed + datasets), processes)


def map_seeds(
    function: Callable[[Any, int], Any],
    scenario: Any,
    seeds: Sequence[int],
    processes: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Any]:
    """Calls a function for every seed and returns the results in order.

    Args:
        function: takes the scenario and a seed.
        scenario: what is simulated.
        seeds: one per call.
        processes: to share the calls among.
        report: called with the number of finished calls and of all.
    """
    if processes <= 1:
        use_one_thread()
        return _collect((function(scenario, seed) for seed in seeds), len(seeds), report)
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Spawned processes start without the parent's thread pools, which do not survive a fork.
    with ProcessPoolExecutor(processes, get_context("spawn"), use_one_thread) as pool:
        chunksize = max(1, len(seeds) // (32 * processes))
        results = pool.map(function, [scenario] * len(seeds), seeds, chunksize=chunksize)
        return _collect(results, len(seeds), report)


def _collect(results: Iterable[Any], total: int, report: Callable[[int, int], None]) -> list[Any]:
    """Returns the results, and reports each."""
    collected = []
    for result in results:
        collected.append(result)
        report(len(collected), total)
    return collected


def use_one_thread() -> None:
    """Limits torch to one thread: small matrices gain nothing from more."""
    import torch

    torch.set_num_threads(1)


def _or_nan(value: float | None) -> float:
    """Returns a number, or NaN where it is absent."""
    return np.nan if value is None else value
