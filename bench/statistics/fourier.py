"""Coverage of the 99 % bound of random Fourier features: how often it contains the estimate over all pairs of rows.

Legend: N rows, C channels, R frequencies, D draws, S settings, O outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from scipy.special import stdtrit

from bench.statistics.simulations import Array, Population, map_seeds
from bench.tables import Section, Table

LEVEL = 0.99
ROWS = 30
CHANNELS = (1, 5, 200)
FREQUENCIES = (256, 1024)
FREQUENCIES_BEFORE = (32, *FREQUENCIES)
KERNELS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "gaussian": lambda rng, count: np.ones(count),
    "gaussian_mixture": lambda rng, count: np.resize([4.0, 2.0, 1.0, 0.5, 0.25], count),
    "laplacian": lambda rng, count: 1.0 / np.abs(rng.standard_normal(count)),
    "rational_quadratic": lambda rng, count: np.sqrt(rng.standard_exponential(count)),
    "inverse_multiquadric": lambda rng, count: np.abs(rng.standard_normal(count)),
}
"""Kernels, with the factor of a frequency as it was drawn before, independently."""
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
    """Measures how often the bound holds, beside the one before.

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
        shares, width = outcomes_DO[:, :-1].mean(axis=0).tolist(), float(np.median(outcomes_DO[:, -1]))
        before, after = shares[: len(FREQUENCIES_BEFORE)], shares[len(FREQUENCIES_BEFORE) :]
        names = (setting.kernel, str(setting.channels), setting.change)
        low = "**yes**" if min(after) < least else "no"
        rows.append((*names, *(f"{share:.1%}" for share in shares), f"{width:.2f}", low))
        record = {"kernel": setting.kernel, "channels": setting.channels, "change": setting.change, "width": width}
        section.records.append({**record, "before": before, "after": after})
    columns = (
        "kernel",
        "d",
        "change",
        *(f"before, R = {count:,}" for count in FREQUENCIES_BEFORE),
        *(f"R = {count:,}" for count in FREQUENCIES),
        "width, R = 1,024",
        f"under {least:.1%}",
    )
    section.tables.append(Table("", columns, rows))
    worst = min(min(record["after"]) for record in section.records)
    section.sentences.append(
        "Before: independent frequencies and least squares with equal variances. The width is the median of the bound "
        f"divided by the one before. The lowest coverage is {worst:.1%}; {least:.1%} is two standard errors below 99 %."
    )
    return section


def measure_all(settings: Sequence[Setting], seed: int) -> list[list[float]]:
    """Returns the outcomes of one draw of every setting."""
    return [measure(setting, seed) for setting in settings]


def measure(setting: Setting, seed: int) -> list[float]:
    """Returns whether each bound contains the exact estimate, first those before, and the ratio of the last widths."""
    from vfmalign.mmd import mmd2, mmd_test

    x, y = setting.population.draw(seed)
    pairing = "paired" if setting.paired else "independent"
    options = {"pairing": pairing, "kernel": setting.kernel, "sigma": setting.sigma, "precision": "exact"}
    exact = mmd2(x, y, **options)
    before = measure_before(setting, x, y, seed)
    outcomes = [float(abs(value - exact) <= half) for value, half in before]
    half_before, half = before[-1][1], 0.0
    for frequencies in FREQUENCIES:
        fourier = {"estimator": "random_fourier", "frequencies": frequencies, "permutations": 0}
        # The generator of the frequencies would repeat that of the dataset with the same seed.
        result = mmd_test(x, y, **options, **fourier, seed=seed + 2**40)
        half = result.approximation_error
        outcomes.append(float(abs(result.mmd2 - exact) <= half + result.error_bound))
    return [*outcomes, half / half_before]


def measure_before(setting: Setting, x: Array, y: Array, seed: int) -> list[tuple[float, float]]:
    """Returns estimate and bound as before, from the first frequencies of one independent draw."""
    from vfmalign.mmd.single_pass.spectra import draw_spectrum

    rng = np.random.default_rng([seed, 86])
    count = max(FREQUENCIES_BEFORE)
    factor_R = KERNELS[setting.kernel](rng, count)
    omega_RC = rng.standard_normal((count, setting.channels)) * (factor_R[:, None] / setting.sigma)
    wave_NR, other_NR = np.exp(1j * x @ omega_RC.T), np.exp(1j * y @ omega_RC.T)
    if setting.paired:
        difference_NR = wave_NR - other_NR
        diagonal_R = np.square(np.abs(difference_NR)).sum(axis=0)
        term_R = (np.square(np.abs(difference_NR.sum(axis=0))) - diagonal_R) / (ROWS * (ROWS - 1.0))
    else:
        mean_R, other_R = wave_NR.mean(axis=0), other_NR.mean(axis=0)
        excess_R = (2.0 - np.square(np.abs(mean_R)) - np.square(np.abs(other_R))) / (ROWS - 1.0)
        term_R = np.square(np.abs(mean_R - other_R)) - excess_R
    shift_C = x.mean(axis=0) - y.mean(axis=0)
    expected = draw_spectrum(setting.kernel, setting.sigma, setting.channels, 0, 0).one_minus_kernel(shift_C)
    control_R = 1.0 - np.cos(omega_RC @ shift_C)
    return [_fit_before(term_R[:count], control_R[:count], expected) for count in FREQUENCIES_BEFORE]


def _fit_before(term_R: Array, control_R: Array, expected: float) -> tuple[float, float]:
    """Returns the regression line at the control's expectation, and Student's t with R − 2 degrees of freedom."""
    count, excess = term_R.size, control_R.mean() - expected
    deviation_R = control_R - control_R.mean()
    squares = float(deviation_R @ deviation_R)
    slope = float(deviation_R @ term_R) / squares
    residual_R = term_R - term_R.mean() - slope * deviation_R
    variance = float(residual_R @ residual_R) / (count - 2.0) * (1.0 / count + excess**2 / squares)
    half = float(stdtrit(count - 2.0, 0.5 + LEVEL / 2.0)) * math.sqrt(variance)
    return float(term_R.mean() - slope * excess), half
