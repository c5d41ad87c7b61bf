"""Verdicts `gain` and coverage of the difference's interval with few test patients, before and now.

The true difference of skewed scores is 0: 2.5 % of the datasets may be called `gain`. Few patients of a class, and
patients without any variation, have no interval now. Legend: S seeds, N patients with one case each, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from bench.statistics.equivalence import AUROC, BALANCED_ACCURACY, DICE
from bench.tables import Section, Table
from vfmalign.analysis.checks.verdict import decide_verdict
from vfmalign.analysis.gains.crossed import analyse_crossed
from vfmalign.analysis.gains.crossed_gain import estimate_crossed_gain
from vfmalign.analysis.gains.gain import estimate_gain
from vfmalign.analysis.gains.paired_scores import CrossedScores, PairedScores
from vfmalign.client.messages.checks import Gain
from vfmalign.core.domain import patients as patient_limits
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.patients import MIN_FOR_CLAIM, MIN_PER_CLASS, MIN_SEEDS

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]

LEVEL = 0.95
RESAMPLES = 400
PATIENTS = (8, 12, 16, 17, 35, 64)
SEEDS = 3
LOSS = 0.15
NOISE = 0.01
"""SD of the differences of patients who do not lose."""


def _lose_one_in(share: float) -> Draw:
    """Differences of mean 0: a loss of 0.15 in a share of the patients, and a gain in all others."""

    def draw(rng: np.random.Generator, patients: int) -> Array:
        loses_N = rng.random(patients) < share
        return np.where(loses_N, -LOSS, LOSS * share / (1.0 - share)) + rng.normal(0.0, NOISE, patients)

    return draw


DIFFERENCES: Mapping[str, Draw] = {
    "normal": lambda rng, n: 0.05 * rng.standard_normal(n),
    "loss of 0.15 in one of ten": _lose_one_in(0.1),
    "loss of 0.15 in one of five": _lose_one_in(0.2),
    "exponential losses": lambda rng, n: 0.05 * (1.0 - rng.exponential(1.0, n)),
    "log-normal losses": lambda rng, n: 0.05 * (np.exp(0.5) - rng.lognormal(0.0, 1.0, n)),
}
"""Differences of mean 0 between two networks; losses make the long tail."""


class Networks(NamedTuple):
    """Two networks with normal scores in either class, whose distance between the classes is given in SDs."""

    metric: MetricSpec
    distances: tuple[float, float]
    title: str


NETWORKS = (
    Networks(AUROC, (2.0, 2.0), "AUROC 0.92 and 0.92"),
    Networks(AUROC, (3.0, 1.0), "AUROC 0.98 and 0.76"),
    Networks(BALANCED_ACCURACY, (2.0, 2.0), "balanced accuracy 0.84 and 0.84"),
    Networks(BALANCED_ACCURACY, (3.0, 1.0), "balanced accuracy 0.93 and 0.69"),
)
CLASSES = ((4, 4), (4, 40), (8, 8), (10, 10), (10, 40), (20, 20))
"""Positive and negative patients."""


def simulate_skewness(datasets: int, seed: int) -> Section:
    """Measures how often methods, and the verdict, find a gain where the mean difference is 0.

    Args:
        datasets: per cell of the tables.
        seed: of all of them.
    """
    section = Section("skewness", f"False gains of skewed differences, 2.5 % allowed: {datasets} datasets each")
    rows = []
    for title, draw in DIFFERENCES.items():
        for patients in PATIENTS:
            shares = count_false_gains(draw, patients, datasets, [seed, list(DIFFERENCES).index(title), patients])
            rows.append((title, str(patients), f"{0.9**patients:.1%}", *(f"{x:.1%}" for x in shares.values())))
            section.records.append({"differences": title, "patients": patients, **shares})
    section.tables.append(Table("", ("differences", "patients", "0.9ⁿ", *shares), rows))
    section.sentences.append(
        "One-sided tests at 2.5 %. Before, the verdict was the expanded percentile's, and with several seeds "
        f"that of Student's t. Now it is that of Hall's interval, with no gain below {MIN_FOR_CLAIM} patients."
    )
    return section


def count_false_gains(draw: Draw, patients: int, datasets: int, seed: Sequence[int]) -> dict[str, float]:
    """Returns the share of datasets with a lower end above 0, by method, and with the verdict `gain`."""
    rng = np.random.default_rng(seed)
    counts: dict[str, int] = {}
    for _ in range(datasets):
        difference_N = draw(rng, patients)
        found = {name: lower > 0.0 for name, lower in get_lower_ends(difference_N, rng).items()}
        found["verdict, 1 seed"] = _has_gain(_estimate(rng, difference_N, 1))
        found[f"verdict, {SEEDS} seeds"] = _has_gain(_estimate(rng, difference_N, SEEDS))
        for name, is_gain in found.items():
            counts[name] = counts.get(name, 0) + is_gain
    return {name: count / datasets for name, count in counts.items()}


def get_lower_ends(difference_N: Array, rng: np.random.Generator) -> dict[str, float]:
    """Returns the lower end of the interval of a mean by each method; that of a test is 1 where it rejects, else −1."""
    n = len(difference_N)
    mean, error = float(difference_N.mean()), float(difference_N.std(ddof=1) / np.sqrt(n))
    quantile = float(stdtrit(n - 1, 0.5 + LEVEL / 2.0))
    mean_R = difference_N[rng.integers(n, size=(RESAMPLES, n))].mean(axis=1)
    flipped_R = (rng.choice([-1.0, 1.0], (RESAMPLES, n)) * difference_N).mean(axis=1)
    hall = analyse_crossed([difference_N[None]], correct_skewness=True).get_interval(mean, LEVEL)
    # Hesterberg's widening of percentiles, as for metrics of two classes.
    tail = float(ndtr(-np.sqrt(n / (n - 1)) * quantile))
    return {
        "expanded percentile": float(np.quantile(mean_R, tail)),
        "Student's t": mean - quantile * error,
        "sign flips": 1.0 if (1 + np.sum(flipped_R >= mean)) / (RESAMPLES + 1) <= 0.5 - LEVEL / 2.0 else -1.0,
        "Hall": hall.lower,
    }


def _estimate(rng: np.random.Generator, difference_N: Array, seeds: int) -> Gain:
    """Estimates the gain of networks with these differences; further seeds add the noise of trainings."""
    base_N = rng.uniform(0.4, 0.8, difference_N.size)
    noise_SN = rng.normal(0.0, NOISE if seeds > 1 else 0.0, (seeds, difference_N.size))
    groups = tuple(f"{place:04d}" for place in range(difference_N.size))
    no_class_N = np.zeros(difference_N.size, dtype=np.bool_)
    score_SN, base_SN = base_N + difference_N + noise_SN, np.tile(base_N, (seeds, 1))
    return estimate_crossed_gain(CrossedScores(score_SN, base_SN, groups, 0, no_class_N), DICE, level=LEVEL)


def _has_gain(gain: Gain) -> bool:
    """Whether the verdict is `gain` with enough trainings: here, few patients alone are to limit it."""
    return decide_verdict(gain, DICE, held_out=True, seeds=MIN_SEEDS).label == "gain"


def simulate_classes(datasets: int, seed: int) -> Section:
    """Measures coverage of the difference of two networks, and how often its interval would have no width.

    Args:
        datasets: per cell of the table.
        seed: of all of them.
    """
    section = Section("classes", f"Coverage of 95 % intervals with few patients of a class: {datasets} datasets each")
    rows = []
    for place, networks in enumerate(NETWORKS):
        for positive, negative in CLASSES:
            rng = np.random.default_rng([seed, place, positive, negative])
            cover = measure_coverage(networks, positive, negative, datasets, rng)
            now = "no interval" if min(positive, negative) < MIN_PER_CLASS else "interval"
            record = {"networks": networks.title, "positive": positive, "negative": negative, **cover, "now": now}
            section.records.append(record)
            rows.append((networks.title, f"{positive} + {negative}", *(f"{x:.1%}" for x in cover.values()), now))
    section.tables.append(Table("", ("networks", "patients", *cover, "now"), rows))
    section.sentences.append(
        "The scores of the two networks have a correlation of 0.5. Before, there were intervals from 4 patients of a "
        "class on, and such without width."
    )
    return section


def measure_coverage(
    networks: Networks, positive: int, negative: int, datasets: int, rng: np.random.Generator
) -> dict[str, float]:
    """Returns how often the difference's interval covers with 1 seed and with several, and how often its width is 0."""
    positive_N = np.arange(positive + negative) < positive
    groups = tuple(f"{place:04d}" for place in range(positive_N.size))
    # Below this floor, no relative gain is estimated, which would be bootstrapped as well.
    metric = networks.metric.model_copy(update={"floor": 2.0})
    first, second = (_get_score(metric, distance) for distance in networks.distances)
    counts = {"1 seed": 0, f"{SEEDS} seeds": 0, "1 seed without width": 0}
    # Intervals as they were before, whatever the number of patients of a class.
    with patch.object(patient_limits, "MIN_PER_CLASS", 1):
        for number in range(datasets):
            score_SN, base_SN = _draw_scores(rng, networks.distances, positive_N, SEEDS)
            one = PairedScores(score_SN[0], base_SN[0], groups, 0, positive_N)
            several = CrossedScores(score_SN, base_SN, groups, 0, positive_N)
            gain = estimate_gain(one, metric, seed=number, level=LEVEL, resamples=RESAMPLES)
            counts["1 seed"] += _covers(gain, first - second)
            counts["1 seed without width"] += gain.absolute.interval is None
            crossed = estimate_crossed_gain(several, metric, level=LEVEL)
            counts[f"{SEEDS} seeds"] += _covers(crossed, first - second)
    return {name: count / datasets for name, count in counts.items()}


def _draw_scores(
    rng: np.random.Generator, distances: tuple[float, float], positive_N: NDArray[np.bool_], seeds: int
) -> tuple[Array, Array]:
    """Draws probabilities [S, N] of two networks; the variance within a class is 1, half of it common to both."""
    patient_N = rng.normal(0.0, np.sqrt(0.5), positive_N.size)
    own_2N = rng.normal(0.0, np.sqrt(0.46), (2, positive_N.size))
    noise_2SN = rng.normal(0.0, 0.2, (2, seeds, positive_N.size))
    score_SN, base_SN = (
        np.asarray(ndtr(distance * (positive_N - 0.5) + patient_N + own_N + noise_SN))
        for distance, own_N, noise_SN in zip(distances, own_2N, noise_2SN, strict=True)
    )
    return score_SN, base_SN


def _get_score(metric: MetricSpec, distance: float) -> float:
    """Returns the metric of the population."""
    return float(ndtr(distance / np.sqrt(2.0)) if metric.of_set == "auroc" else ndtr(distance / 2.0))


def _covers(gain: Gain, truth: float) -> bool:
    """Whether the interval, a point where the patients show no variation, contains the true difference."""
    interval, value = gain.absolute.interval, gain.absolute.value
    lower, upper = (value, value) if interval is None else (interval.lower, interval.upper)
    return lower is not None and upper is not None and lower - 1e-12 <= truth <= upper + 1e-12
