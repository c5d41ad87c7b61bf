"""Coverage of the 99 % bound of random Fourier features: how often it contains the estimate over all pairs of rows.

Legend: N rows, C channels, R frequencies, D draws, S settings, O outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from bench.statistics.simulations import Population, map_seeds
from bench.tables import Section, Table

LEVEL = 0.99
ROWS = 30
CHANNELS = (1, 5, 200)
FREQUENCIES = (256, 1024)
KERNELS = ("gaussian", "gaussian_mixture", "laplacian", "rational_quadratic", "inverse_multiquadric")
CHANGES: dict[str, dict[str, float]] = {
    "none": {},
    "shift 0.5": {"shift": 0.5},
    "variance × 1.25²": {"spread": 1.25},
    "pairs, correlation 0.9975": {"pair": 0.9975},
}


@dataclass(frozen=True)
class Setting:
    """A kernel and a population."""

    kernel: str
    channels: int
    change: str
    population: Population = field(init=False)

    def __post_init__(self) -> None:
        population = Population(ROWS, ROWS, self.channels, **CHANGES[self.change])
        object.__setattr__(self, "population", population)

    @property
    def sigma(self) -> float:
        """About the median distance of two rows."""
        return math.sqrt(2.0 * self.channels)

    @property
    def paired(self) -> bool:
        """Whether rows of x and y are pairs."""
        return self.population.pair > 0.0


def simulate_fourier(draws: int, seed: int, processes: int) -> Section:
    """Measures how often the bound holds.

    Args:
        draws: of a dataset and of frequencies, per row of the table.
        seed: of the first draw; the others follow.
        processes: to share the draws among.
    """
    section = Section("fourier", f"Coverage of the 99 % bound of random Fourier features: {draws} draws each, n = 30")
    least = LEVEL - 2.0 * math.sqrt(LEVEL * (1.0 - LEVEL) / draws)
    settings = [Setting(*names) for names in product(KERNELS, CHANNELS, CHANGES)]
    outcomes_DSO = np.array(map_seeds(measure_all, settings, range(seed, seed + draws), processes))
    rows = []
    for setting, outcomes_DO in zip(settings, outcomes_DSO.transpose(1, 0, 2), strict=True):
        shares = outcomes_DO.mean(axis=0).tolist()
        names = (setting.kernel, str(setting.channels), setting.change)
        low = "**yes**" if min(shares) < least else "no"
        rows.append((*names, *(f"{share:.1%}" for share in shares), low))
        record = {"kernel": setting.kernel, "channels": setting.channels, "change": setting.change}
        section.records.append({**record, "covered": shares})
    columns = ("kernel", "d", "change", *(f"R = {count:,}" for count in FREQUENCIES), f"under {least:.1%}")
    section.tables.append(Table("", columns, rows))
    worst = min(min(record["covered"]) for record in section.records)
    section.sentences.append(
        f"The lowest coverage is {worst:.1%}; {least:.1%} is two standard errors below {LEVEL:.0%}."
    )
    return section


def measure_all(settings: Sequence[Setting], seed: int) -> list[list[float]]:
    """Returns the outcomes of one draw of every setting."""
    return [measure(setting, seed) for setting in settings]


def measure(setting: Setting, seed: int) -> list[float]:
    """Returns whether the bound of each number of frequencies contains the exact estimate."""
    from vfmalign.mmd import mmd2, mmd_test

    x, y = setting.population.draw(seed)
    pairing = "paired" if setting.paired else "independent"
    options = {"pairing": pairing, "kernel": setting.kernel, "sigma": setting.sigma, "precision": "exact"}
    exact = mmd2(x, y, **options)
    outcomes = []
    for frequencies in FREQUENCIES:
        fourier = {"estimator": "random_fourier", "frequencies": frequencies, "permutations": 0}
        # The generator of the frequencies would repeat that of the dataset with the same seed.
        result = mmd_test(x, y, **options, **fourier, seed=seed + 2**40)
        outcomes.append(float(abs(result.mmd2 - exact) <= result.approximation_error + result.error_bound))
    return outcomes
