"""Variance of a mean score over crossed training seeds and patients, and intervals that cover both.

A network is trained with S seeds, and each training is scored on the same G patients. A network's value for seed s and
patient g is modelled as x_sg = μ + a_s + b_g + e_sg, with variances σ²_seed, σ²_patient and σ²_residual. The network's
mean therefore has the variance

    σ²_seed / S + σ²_patient / G + σ²_residual / (S·G).

The three variances are estimated from the mean squares of the two-way crossed analysis of variance without replication.
The expectations of these mean squares are σ²_residual + G·σ²_seed, σ²_residual + S·σ²_patient and σ²_residual (Searle,
Casella and McCulloch, Variance Components, 1992, chapter 4). A negative estimate is set to 0. The result names each
variance that was set to 0. The interval uses Student's t with Satterthwaite's degrees of freedom (Biometrics Bulletin 2
(1946), 110–114), because a bootstrap over few seeds would be far too narrow.

Two networks share their patients but not their seeds. For the difference of their means, the seed variances of both
networks are added, and so are the residual variances. σ²_patient is the variance of the patients' differences.
Trainings with the same seed draw their cases in the same order. If this order made the scores similar, the interval
would be wider than necessary.

Networks may have different numbers of seeds. You may want to know whether a network beats a baseline with newly drawn
random weights, and not only the mean of the trained baselines. For this question, the variance between the scores of
the trained baselines is added once more (a prediction interval).

Metrics of a set of patients, such as the area under the ROC curve, are not defined for a single patient. Jackknife
pseudo-values replace the patients' values: G·θ − (G − 1)·θ₍₋g₎, as in the analysis of several readers of the same cases
(Dorfman, Berbaum and Metz, Investigative Radiology 27 (1992), 723–731). For a mean with one case per patient, the
pseudo-values equal the patients' values.

If a few patients have large losses (or gains), Student's t interval is too narrow on that side and too wide on the
other side. Hall's transformation of the studentised mean T corrects the skewness (J. R. Stat. Soc. B 54 (1992),
221–228): h(T) = ((1 + λT/3)³ − 1)/λ + λ/6 replaces T, where λ = Σ (x_g − x̄)³ / (G³ · SE³) is the skewness of the mean
of the patients' values x_g. Pseudo-values of a set have few distinct values, so their skewness is meaningless and their
intervals are not corrected.

Legend: the axes of arrays are S seeds, G groups (patients) and N cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from vfmalign.client.messages.checks import VarianceComponents
from vfmalign.client.messages.common import Interval
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.scores import Truth, aggregate_resamples

METHOD = "crossed analysis of variance of seeds and patients, Satterthwaite's t"
SKEWED_METHOD = f"{METHOD}, Hall's transformation of skewness"
MIN_SKEWNESS = 1e-6
"""Smallest skewness to correct. Below it, the transformation would lose digits and change no displayed digit."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of one network's values."""

    seed: float
    patient: float
    residual: float


@dataclass(frozen=True)
class CrossedVariance:
    """Variance of a mean over crossed seeds and patients, or variance of a sum of such means.

    Attributes:
        components: σ²_seed, σ²_patient and σ²_residual. For several networks, these variances belong to the sum.
        variance: variance of the mean.
        degrees: Satterthwaite's degrees of freedom.
        skewness: λ of the mean; None if the interval is not corrected for it.
        another_draw: part of the variance that is due to a new draw of the baseline's random weights.
    """

    components: VarianceComponents
    variance: float
    degrees: float
    skewness: float | None = None
    another_draw: float = 0.0

    @property
    def standard_error(self) -> float:
        """Square root of the variance."""
        return float(self.variance**0.5)

    def get_interval(self, value: float, level: float) -> Interval:
        """Returns the interval around a mean."""
        quantile = float(stdtrit(self.degrees, 0.5 + level / 2.0))
        above, below = (_invert_hall(sign * quantile, self.skewness or 0.0) for sign in (1.0, -1.0))
        return Interval(
            lower=value - above * self.standard_error,
            upper=value - below * self.standard_error,
            level=level,
            method=METHOD if self.skewness is None else SKEWED_METHOD,
        )


def get_pseudo_values(metric: MetricSpec, value_SN: Array, truth_N: Truth, index_N: npt.NDArray[np.intp]) -> Array:
    """Returns the jackknife pseudo-values [S, G] of a metric.

    Args:
        metric: specifies the aggregate of the cases.
        value_SN: value of each case with each seed.
        truth_N: true class, grade or number of each case. A metric that is a mean does not use it.
        index_N: patient of each case, 0 to G − 1.
    """
    n_groups = int(index_N.max()) + 1
    without_one_GN = (index_N[None, :] != np.arange(n_groups)[:, None]).astype(np.float64)
    weight_WN = np.vstack([np.ones((1, len(index_N))), without_one_GN])
    theta_SW = np.array([aggregate_resamples(metric, value_N, truth_N, weight_WN) for value_N in value_SN])
    pseudo_SG: Array = n_groups * theta_SW[:, :1] - (n_groups - 1) * theta_SW[:, 1:]
    return pseudo_SG


def get_mean_squares(value_SG: Array) -> MeanSquares:
    """Returns the mean squares of the two-way crossed analysis of variance for at least two patients.

    With a single seed, all mean squares except that of the patients are 0.
    """
    n_seeds, n_groups = value_SG.shape
    if n_seeds == 1:
        return MeanSquares(seed=0.0, patient=float(np.var(value_SG, ddof=1)), residual=0.0)
    mean = value_SG.mean()
    seed_S1, patient_1G = value_SG.mean(axis=1, keepdims=True), value_SG.mean(axis=0, keepdims=True)
    residual_SG = value_SG - seed_S1 - patient_1G + mean
    return MeanSquares(
        seed=n_groups * float(np.square(seed_S1 - mean).sum()) / (n_seeds - 1),
        patient=n_seeds * float(np.square(patient_1G - mean).sum()) / (n_groups - 1),
        residual=float(np.square(residual_SG).sum()) / ((n_seeds - 1) * (n_groups - 1)),
    )


def analyse_crossed(
    networks: Sequence[Array],
    patient_degrees: int | None = None,
    *,
    correct_skewness: bool = False,
    another_draw: bool = False,
) -> CrossedVariance:
    """Analyses the variance of a sum of network means.

    Each network has its own training seeds. All networks have the same patients.

    Args:
        networks: values [S, G] of each network. For the difference of two networks, pass `[x, -b]`. S may differ
            between them.
        patient_degrees: degrees of freedom of the patients, if there are fewer than G − 1.
        correct_skewness: whether to correct intervals for the skewness of the patients' values.
        another_draw: whether to add the variance of a new draw of the last network's random weights. This network needs
            several seeds.
    """
    n_groups = networks[0].shape[1]
    seeds = [len(value_SG) for value_SG in networks]
    squares = [get_mean_squares(value_SG) for value_SG in networks]
    # Mean squares of each network's mean over its seeds.
    residuals = [one.residual / n_seeds for one, n_seeds in zip(squares, seeds, strict=True)]
    residual = sum(residuals)
    seed = sum(one.seed / n_seeds for one, n_seeds in zip(squares, seeds, strict=True))
    # The patient effects of the networks are correlated, so use the mean square of their sum.
    total_G = np.sum([value_SG.mean(axis=0) for value_SG in networks], axis=0)
    patient = float(np.var(total_G, ddof=1))
    has_seed, has_patient = seed > residual, patient > residual or max(seeds) == 1

    # Setting a component to 0 also removes its mean squares from the variance.
    patient_degrees = patient_degrees or n_groups - 1
    weights = [1.0 / n_seeds if has_seed else 0.0 for n_seeds in seeds]
    weights[-1] += float(another_draw)
    terms: list[tuple[float, float]] = [
        (weight * one.seed, n_seeds - 1)
        for weight, one, n_seeds in zip(weights, squares, seeds, strict=True)
        if weight and n_seeds > 1
    ]
    if has_patient:
        terms.append((patient, patient_degrees))
    if has_seed == has_patient:
        sign = -1.0 if has_seed else 1.0
        terms += [
            (sign * mean_square, (n_seeds - 1) * patient_degrees)
            for mean_square, n_seeds in zip(residuals, seeds, strict=True)
            if n_seeds > 1
        ]
    variance = sum(term for term, _ in terms) / n_groups
    return CrossedVariance(
        components=VarianceComponents(
            seed=max(0.0, sum(one.seed - one.residual for one in squares)) / n_groups,
            patient=max(0.0, patient - residual),
            residual=sum(one.residual for one in squares),
            set_to_zero=tuple(name for name, value in (("seed", seed), ("patient", patient)) if value < residual),
        ),
        variance=variance,
        degrees=_get_satterthwaite_degrees(terms),
        skewness=_get_skewness(total_G, variance) if correct_skewness else None,
        another_draw=squares[-1].seed / n_groups if another_draw else 0.0,
    )


def _get_skewness(value_G: Array, variance: float) -> float:
    """Returns λ of the mean of the values. The variance may have other sources, too. λ is 0 if the variance is 0."""
    third = float(np.power(value_G - value_G.mean(), 3).sum()) / len(value_G) ** 3
    return third / variance**1.5 if variance > 0.0 else 0.0


def _invert_hall(quantile: float, skewness: float) -> float:
    """Returns T with h(T) = quantile. Without skewness, T is the quantile itself."""
    if abs(skewness) < MIN_SKEWNESS:
        return quantile
    return float(3.0 / skewness * (np.cbrt(1.0 + skewness * (quantile - skewness / 6.0)) - 1.0))


def _get_satterthwaite_degrees(terms: Sequence[tuple[float, float]]) -> float:
    """Returns (Σ m)² / Σ (m² / ν) for independent mean squares m with ν degrees of freedom; at least the smallest ν.

    Mean squares with a minus sign are subtracted, which may move the approximation below this bound.
    """
    smallest = float(min(degrees for _, degrees in terms))
    total = sum(term for term, _ in terms)
    spread = sum(term**2 / degrees for term, degrees in terms)
    return max(smallest, total**2 / spread) if spread > 0.0 else smallest
