"""Verdicts `equivalent` where the true difference is the smallest relevant one: at most 5 % of them should be.

The hardest networks are those whose scores hardly ever differ: a test set may show none of the differences.
Legend: S seeds, N patients with one case each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bench.tables import Section, Table
from vfmalign.analysis.checks.verdict import decide_verdict
from vfmalign.analysis.gains.crossed_gain import estimate_crossed_gain
from vfmalign.analysis.gains.gain import estimate_gain
from vfmalign.analysis.gains.paired_scores import CrossedScores, PairedScores
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.patients import MIN_SEEDS

Array = NDArray[np.float64]
Networks = tuple[Array, Array]
"""Scores [S, N] of the better and of the worse network."""

SEEDS = (1, 3)
LEVEL = 0.95
DICE = MetricSpec(name="dice", unit="", higher_is_better=True, floor=0.05, smallest_difference=0.01)
BALANCED_ACCURACY = MetricSpec(
    name="balanced_accuracy",
    unit="",
    higher_is_better=True,
    floor=0.05,
    of_set="balanced_accuracy",
    smallest_difference=0.05,
)
AUROC = BALANCED_ACCURACY.model_copy(update={"name": "auroc", "of_set": "auroc"})


class Scenario(NamedTuple):
    """Two networks whose true difference is given.

    Attributes:
        draw: draws scores from the generator, the class of every patient, the number of seeds and the true difference.
        patients: numbers of patients, in all or of each class.
    """

    title: str
    metric: MetricSpec
    draw: Callable[[np.random.Generator, NDArray[np.bool_], int, float], Networks]
    patients: tuple[int, ...]


def _draw_normal(rng: np.random.Generator, positive_N: NDArray[np.bool_], seeds: int, difference: float) -> Networks:
    """Dice whose differences have an SD of 0.03 between patients, and a hundredth for each training of a patient."""
    base_N = rng.uniform(0.4, 0.8, positive_N.size)
    own_N = rng.normal(difference, 0.03, positive_N.size)
    noise_SN = rng.normal(0.0, 0.01 if seeds > 1 else 0.0, (seeds, positive_N.size))
    return base_N + own_N + noise_SN, np.tile(base_N, (seeds, 1))


def _draw_mostly_equal(
    rng: np.random.Generator, positive_N: NDArray[np.bool_], seeds: int, difference: float
) -> Networks:
    """Dice of 1 for both networks, but of every tenth patient on average, where the worse one loses."""
    loses_N = rng.random(positive_N.size) < 0.1
    loss_N = loses_N * rng.uniform(0.0, 20.0 * difference, positive_N.size)
    return np.ones((seeds, positive_N.size)), np.tile(1.0 - loss_N, (seeds, 1))


def _draw_lost_subgroup(
    rng: np.random.Generator, positive_N: NDArray[np.bool_], seeds: int, difference: float
) -> Networks:
    """Dice that differs by an SD of 0.003, but for every tenth patient on average, where the worse one loses."""
    base_N = rng.uniform(0.4, 0.8, positive_N.size)
    loss_N = (rng.random(positive_N.size) < 0.1) * 10.0 * difference
    noise_SN = rng.normal(0.0, 0.003, (seeds, positive_N.size))
    return np.tile(base_N, (seeds, 1)), base_N - loss_N + noise_SN


def _draw_rare_errors(
    rng: np.random.Generator, positive_N: NDArray[np.bool_], seeds: int, difference: float
) -> Networks:
    """One network is always right; the other errs in either class with a probability of the difference."""
    right_N = np.where(positive_N, 0.9, 0.1)
    errs_SN = rng.random((seeds, positive_N.size)) < difference
    return np.tile(right_N, (seeds, 1)), np.where(errs_SN, 1.0 - right_N, right_N)


def _draw_errors(rng: np.random.Generator, positive_N: NDArray[np.bool_], seeds: int, difference: float) -> Networks:
    """Both networks err, independently of each other: one in 5 % of the patients, the other more often."""
    right_N = np.where(positive_N, 0.9, 0.1)
    rate_2SN = np.array([0.05, 0.05 + difference])[:, None, None]
    better_SN, worse_SN = np.where(rng.random((2, seeds, positive_N.size)) < rate_2SN, 1.0 - right_N, right_N)
    return better_SN, worse_SN


def _draw_overlap(rng: np.random.Generator, positive_N: NDArray[np.bool_], seeds: int, difference: float) -> Networks:
    """One network separates the classes; those of the other overlap as two normal distributions."""
    distance = float(np.sqrt(2.0) * ndtri(1.0 - difference))
    worse_SN = rng.normal(distance * (positive_N - 0.5), 1.0, (seeds, positive_N.size))
    return np.tile(np.where(positive_N, 0.9, 0.1), (seeds, 1)), 1.0 / (1.0 + np.exp(-worse_SN))


def _draw_outliers(rng: np.random.Generator, positive_N: NDArray[np.bool_], seeds: int, difference: float) -> Networks:
    """One network separates the classes; the other ranks some positive patients below all others."""
    right_N = np.where(positive_N, 0.9, 0.1)
    errs_SN = positive_N & (rng.random((seeds, positive_N.size)) < difference)
    return np.tile(right_N, (seeds, 1)), np.where(errs_SN, 0.05, right_N)


SCENARIOS = (
    Scenario("Dice, normal differences", DICE, _draw_normal, (8, 20, 70, 200)),
    Scenario("Dice, equal in nine of ten patients", DICE, _draw_mostly_equal, (8, 20, 70, 200)),
    Scenario("Dice, loss in one of ten patients", DICE, _draw_lost_subgroup, (8, 16, 17, 35, 64)),
    Scenario("balanced accuracy, rare errors", BALANCED_ACCURACY, _draw_rare_errors, (4, 10, 40, 100, 300)),
    Scenario("balanced accuracy, errors of both", BALANCED_ACCURACY, _draw_errors, (4, 10, 40, 100, 300)),
    Scenario("AUROC, overlapping classes", AUROC, _draw_overlap, (4, 10, 40, 100)),
    Scenario("AUROC, outliers", AUROC, _draw_outliers, (4, 10, 40, 100)),
)


def simulate_equivalence(datasets: int, seed: int) -> Section:
    """Measures how often networks are called equivalent whose difference is the smallest relevant one.

    Args:
        datasets: per cell of the table.
        seed: of all of them.
    """
    section = Section("equivalence", f"Equivalent at the smallest relevant difference: {datasets} datasets each")
    rows = []
    for place, scenario in enumerate(SCENARIOS):
        for patients in scenario.patients:
            shares = [
                get_equivalent_share(
                    scenario, patients, seeds, datasets, np.random.default_rng([seed, place, patients])
                )
                for seeds in SEEDS
            ]
            rows.append((scenario.title, str(patients), *(f"{share:.1%}" for share in shares)))
            for seeds, share in zip(SEEDS, shares, strict=True):
                record = {"scenario": scenario.title, "patients": patients, "seeds": seeds, "equivalent": share}
                section.records.append(record)
    columns = ("networks", "patients", *(f"S = {seeds}" for seeds in SEEDS))
    section.tables.append(Table("", columns, rows))
    section.sentences.append("Patients are those of each class for balanced accuracy and AUROC.")
    return section


def get_equivalent_share(
    scenario: Scenario, patients: int, seeds: int, datasets: int, seed: Sequence[int], *, times: float = 1.0
) -> float:
    """Returns the share of datasets that are called equivalent.

    Args:
        scenario: the networks.
        patients: number of patients, of each class where there are two.
        seeds: number of trainings of each network.
        datasets: number of datasets.
        seed: of all of them.
        times: true difference in smallest relevant differences.
    """
    metric = scenario.metric
    rng = np.random.default_rng(seed)
    two_classes = metric.of_set != "mean"
    positive_N = np.arange(2 * patients) < patients if two_classes else np.zeros(patients, dtype=np.bool_)
    groups = tuple(f"{place:04d}" for place in range(positive_N.size))
    count = 0
    for number in range(datasets):
        score_SN, worse_SN = scenario.draw(rng, positive_N, seeds, times * metric.smallest_difference)
        if seeds == 1:
            pairs = PairedScores(score_SN[0], worse_SN[0], groups, 0, positive_N)
            gain = estimate_gain(pairs, metric, seed=number, level=LEVEL, resamples=50)  # none enters
        else:
            gain = estimate_crossed_gain(CrossedScores(score_SN, worse_SN, groups, 0, positive_N), metric, level=LEVEL)
        # With few trainings nothing is equivalent; here, the intervals of one are to be seen as well.
        count += decide_verdict(gain, metric, held_out=True, seeds=MIN_SEEDS).label == "equivalent"
    return count / datasets
