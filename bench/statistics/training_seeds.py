"""Coverage of the intervals over crossed training seeds and patients: differences of scores, and shifts.

Legend: S seeds, G patients.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bench.tables import Section, Table
from vfmalign.analysis.checks.seed_variation import summarise_estimates
from vfmalign.analysis.gains.crossed import analyse_crossed
from vfmalign.client.messages.common import Estimate, Interval

SEEDS = (2, 3, 5)
PATIENTS = (8, 20, 60)
SPREADS = ((0.0, 0.5), (0.1, 0.5), (0.3, 0.5), (1.0, 0.5), (0.3, 0.1), (0.3, 1.0))
"""SD over seeds of each network and of its residuals, in units of the SD of the patients' differences."""
LEVEL = 0.95

Array = NDArray[np.float64]


def simulate_seeds(datasets: int, seed: int) -> Section:
    """Measures how often the intervals cover.

    Args:
        datasets: per cell of the tables.
        seed: of all of them.
    """
    section = Section("seeds", f"Coverage of 95 % intervals over training seeds and patients: {datasets} datasets each")
    columns = ("S", "G", *(f"σ_seed {seed_sd:g}, σ_residual {residual_sd:g}" for seed_sd, residual_sd in SPREADS))
    for title, covers in (("Difference of two networks", _covers_difference), ("Mean shift", _covers_shift)):
        rows = []
        for shape in product(SEEDS, PATIENTS):
            shares = [_get_share(covers, seed, datasets, shape, spread) for spread in SPREADS]
            rows.append((*map(str, shape), *(f"{share:.1%}" for share in shares)))
            for (seed_sd, residual_sd), share in zip(SPREADS, shares, strict=True):
                record = {"seeds": shape[0], "patients": shape[1], "seed_sd": seed_sd, "residual_sd": residual_sd}
                section.records.append({"quantity": title, **record, "covered": share})
        section.tables.append(Table(title, columns, rows))
    section.sentences.append(
        "SDs are in units of the SD of the patients' differences; for shifts, of their contributions."
    )
    return section


def _get_share(
    covers: Callable[[np.random.Generator, tuple[int, int], float, float], bool],
    seed: int,
    datasets: int,
    shape: tuple[int, int],
    spread: tuple[float, float],
) -> float:
    rng = np.random.default_rng([seed, *shape, SPREADS.index(spread)])
    return float(np.mean([covers(rng, shape, *spread) for _ in range(datasets)]))


def _covers_difference(rng: np.random.Generator, shape: tuple[int, int], seed_sd: float, residual_sd: float) -> bool:
    """Whether the interval of the difference of two networks with mean 0 contains 0."""
    common_G = rng.normal(0.0, 2.0, shape[1])  # cancels in the difference
    own_2G = rng.normal(0.0, np.sqrt(0.5), (2, shape[1]))  # differences of SD 1
    score_SG, baseline_SG = (common_G + _draw_values(rng, own_G, shape, seed_sd, residual_sd) for own_G in own_2G)
    result = analyse_crossed([score_SG, -baseline_SG], correct_skewness=True)
    interval = result.get_interval(float(score_SG.mean() - baseline_SG.mean()), LEVEL)
    return interval.lower <= 0.0 <= interval.upper


def _draw_values(
    rng: np.random.Generator, patient_G: Array, shape: tuple[int, int], seed_sd: float, residual_sd: float
) -> Array:
    value_SG: Array = patient_G + rng.normal(0.0, seed_sd, (shape[0], 1)) + rng.normal(0.0, residual_sd, shape)
    return value_SG


def _covers_shift(rng: np.random.Generator, shape: tuple[int, int], seed_sd: float, residual_sd: float) -> bool:
    """Whether the interval contains 0 where values of mean 0 stand for what patients contribute to each seed's MMD²."""
    value_SG = _draw_values(rng, rng.normal(0.0, 1.0, shape[1]), shape, seed_sd, residual_sd)
    half_S = stdtrit(shape[1] - 1, 0.5 + LEVEL / 2.0) * value_SG.std(axis=1, ddof=1) / np.sqrt(shape[1])
    estimates = [
        Estimate(value=mean, interval=Interval(lower=mean - half, upper=mean + half, level=LEVEL, method="t"))
        for mean, half in zip(value_SG.mean(axis=1), half_S, strict=True)
    ]
    interval = summarise_estimates(estimates).mean.interval
    return interval is not None and interval.lower <= 0.0 <= interval.upper
