"""Coverage of an experiment's intervals over few seeds, beside the percentile bootstrap that they replace.

The bootstrap resamples seeds, and patients or the jackknife error of each seed. The truth is 0.
Legend: S seeds, G patients, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bench.tables import Section, Table
from vfmalign.analysis.checks.seed_variation import summarise_estimates
from vfmalign.analysis.gains.crossed import analyse_crossed
from vfmalign.client.messages.common import Estimate, Interval

SEEDS = (2, 3, 5)
SEED_SHARES = (0.0, 0.5, 0.98)
"""Share of the variance of the mean that is due to the seeds."""
PATIENTS = 64
RESIDUAL_SHARE = 0.2  # of the rest, the variance that a patient has with each seed anew
RESAMPLES = 500
LEVEL = 0.95
LEAST_COVERAGE = 0.93

Array = NDArray[np.float64]
Covers = tuple[bool, bool]
"""Whether the bootstrap and the product's interval contain the truth."""


def simulate_averages(datasets: int, seed: int) -> Section:
    """Measures how often both kinds of interval cover.

    Args:
        datasets: per cell of the tables.
        seed: of all of them.
    """
    title = f"Coverage of the 95 % intervals of an experiment's averages: {datasets} datasets each, {PATIENTS} patients"
    section = Section("averages", title)
    columns = ("S", *(f"{100 * share:g} % of the variance from seeds" for share in SEED_SHARES))
    for quantity, covers in (("Gain", _covers_gain), ("Shift", _covers_shift)):
        rows = []
        for seeds in SEEDS:
            counts = [_count(covers, seed, datasets, seeds, share) for share in SEED_SHARES]
            texts = [f"{before / datasets:.1%} → {after / datasets:.1%}" for before, after in counts]
            rows.append((str(seeds), *texts))
            section.records += [
                {"quantity": quantity, "seeds": seeds, "share": share, "bootstrap": before, "interval": after}
                for share, (before, after) in zip(SEED_SHARES, counts, strict=True)
            ]
        section.tables.append(Table(f"{quantity}: percentile bootstrap → interval of the report", columns, rows))
    lowest = min(record["interval"] for record in section.records) / datasets
    section.sentences.append(
        f"The lowest coverage of the report's intervals is {lowest:.1%}; aim: {LEAST_COVERAGE:.0%}."
    )
    return section


def _count(
    covers: Callable[[np.random.Generator, int, float], Covers], seed: int, datasets: int, seeds: int, share: float
) -> tuple[int, int]:
    rng = np.random.default_rng([seed, seeds, SEED_SHARES.index(share)])
    before, after = np.array([covers(rng, seeds, share) for _ in range(datasets)]).sum(axis=0)
    return int(before), int(after)


def _draw(rng: np.random.Generator, seeds: int, share: float, networks: int) -> list[Array]:
    """Draws values [S, G] of each network around 0, such that the sum of their means has the variance 1."""
    rest = 1.0 - share
    seed_sd = np.sqrt(share * seeds / networks)
    patient_sd = np.sqrt((1.0 - RESIDUAL_SHARE) * rest * PATIENTS / networks)
    residual_sd = np.sqrt(RESIDUAL_SHARE * rest * seeds * PATIENTS / networks)
    shape = (seeds, PATIENTS)
    return [
        rng.normal(0.0, patient_sd, PATIENTS)
        + rng.normal(0.0, seed_sd, (seeds, 1))
        + rng.normal(0.0, residual_sd, shape)
        for _ in range(networks)
    ]


def _covers_gain(rng: np.random.Generator, seeds: int, share: float) -> Covers:
    """Whether the intervals of the difference of two networks contain 0."""
    score_SG, baseline_SG = _draw(rng, seeds, share, 2)
    difference_SG = score_SG - baseline_SG
    weight_RG = rng.multinomial(PATIENTS, np.full(PATIENTS, 1 / PATIENTS), RESAMPLES) / PATIENTS
    mean_RS = weight_RG @ difference_SG.T
    interval = analyse_crossed([score_SG, -baseline_SG], correct_skewness=True).get_interval(
        float(difference_SG.mean()), LEVEL
    )
    return _bootstrap_covers(mean_RS, rng), interval.lower <= 0.0 <= interval.upper


def _covers_shift(rng: np.random.Generator, seeds: int, share: float) -> Covers:
    """Whether the intervals contain 0 where values stand for what patients contribute to each seed's MMD²."""
    (value_SG,) = _draw(rng, seeds, share, 1)
    error_S = value_SG.std(axis=1, ddof=1) / np.sqrt(PATIENTS)
    mean_RS = value_SG.mean(axis=1) + error_S * rng.standard_normal((RESAMPLES, seeds))
    half_S = stdtrit(PATIENTS - 1, 0.5 + LEVEL / 2.0) * error_S
    summary = summarise_estimates(
        [
            Estimate(value=mean, interval=Interval(lower=mean - half, upper=mean + half, level=LEVEL, method="t"))
            for mean, half in zip(value_SG.mean(axis=1), half_S, strict=True)
        ]
    )
    interval = summary.mean.interval
    return _bootstrap_covers(mean_RS, rng), interval is not None and interval.lower <= 0.0 <= interval.upper


def _bootstrap_covers(mean_RS: Array, rng: np.random.Generator) -> bool:
    """Whether percentiles of means over drawn seeds contain 0."""
    pick_RS = rng.integers(mean_RS.shape[1], size=mean_RS.shape)
    lower, upper = np.quantile(np.take_along_axis(mean_RS, pick_RS, axis=1).mean(axis=1), [0.025, 0.975])
    return bool(lower <= 0.0 <= upper)
