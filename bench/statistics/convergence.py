"""Convergence of simulated learning curves: false rises, power, and the errors of both numbers of steps.

Curves have a known shape plus stationary normal AR(1) noise, whose SD is the unit of noise.
Legend: C curves, T validations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.statistics.size import binomial_range
from bench.tables import Section, Table
from vfmalign.analysis.convergence.learning_curves import is_rise
from vfmalign.analysis.convergence.steps import measure_convergence
from vfmalign.client.messages.checks import Convergence, Steps
from vfmalign.core.domain.jobs import JobProgress

Array = NDArray[np.float64]

AUTOCORRELATIONS = (0.0, 0.6, 0.9)
NULL_VALIDATIONS = (5, 9, 17, 33, 65)
VALIDATIONS = (9, 17, 41)
LEVEL = 0.05
RISE_IN_NOISE_SD = 20.0
NOISE_OF_RISE = 0.03
SHAPES: dict[str, Callable[[Array], Array]] = {
    "saturating, τ = 0.05": lambda time: 1.0 - np.exp(-time / 0.05),
    "saturating, τ = 0.1": lambda time: 1.0 - np.exp(-time / 0.1),
    "saturating, τ = 0.15": lambda time: 1.0 - np.exp(-time / 0.15),
    "saturating, τ = 0.33": lambda time: 1.0 - np.exp(-time / 0.33),
    "logistic": lambda time: 1.0 / (1.0 + np.exp(-(time - 0.33) / 0.06)),
    "step at 1/3": lambda time: (time > 1.0 / 3.0).astype(np.float64),
    "step at 0.9": lambda time: (time > 0.9).astype(np.float64),
    "peak, then 30 % decline": lambda time: (1.0 - np.exp(-time / 0.1)) * (1.0 - 0.3 * time),
}
"""Noise-free score over time; the training takes one unit of time."""
BASELINE_LEVELS = (0.8, 0.9, 0.95, 1.1)
"""Best score of the baseline, as a share of the rise of the curve that has to reach it."""


def simulate_convergence(curves: int, seed: int) -> Section:
    """Counts false and missed rises, and compares both numbers of steps with those of the noise-free curves.

    Args:
        curves: per cell of a table; an eighth of them for the errors of the steps.
        seed: of all curves.
    """
    section = Section("convergence", f"Convergence: {curves} simulated learning curves each")
    fewer = max(1, curves // 8)
    section.tables += [
        _tabulate_false_rises(curves, np.random.default_rng([seed, 0]), section),
        _tabulate_power(curves, np.random.default_rng([seed, 1]), section),
        _tabulate_steps_to_95(fewer, np.random.default_rng([seed, 2]), section),
        _tabulate_steps_to_baseline(fewer, np.random.default_rng([seed, 3]), section),
    ]
    section.sentences.append(
        "Errors are in validations: median [10 %, 90 % quantile], and the share within one validation. τ and "
        "times are shares of the training."
    )
    return section


def draw_noise(curves: int, validations: int, autocorrelation: float, rng: np.random.Generator) -> Array:
    """Draws stationary AR(1) noise of variance 1, [C, T]."""
    noise_CT = rng.standard_normal((curves, validations))
    noise_CT[:, 1:] *= np.sqrt(1.0 - autocorrelation**2)
    for index in range(1, validations):
        noise_CT[:, index] += autocorrelation * noise_CT[:, index - 1]
    return noise_CT


def get_curve(shape: str, validations: int) -> Array:
    """Returns the noise-free scores of a shape, from 0 to a best score of 1, [T]."""
    score_T = SHAPES[shape](np.linspace(0.0, 1.0, validations))
    return (score_T - score_T[0]) / (score_T.max() - score_T[0])


def measure(scores_T: Array, baseline_T: Array | None = None) -> Convergence:
    """Measures one curve with vfmalign; its steps are validations."""
    baseline = [] if baseline_T is None else _to_progress(baseline_T)
    return measure_convergence(_to_progress(scores_T), baseline, higher_is_better=True)


def _tabulate_false_rises(curves: int, rng: np.random.Generator, section: Section) -> Table:
    """Counts rises of flat curves beside the upper end of the binomial range of 5 %."""
    rows, limit = [], binomial_range(curves, LEVEL)[1]
    for validations in NULL_VALIDATIONS:
        for autocorrelation in AUTOCORRELATIONS:
            noise_CT = draw_noise(curves, validations, autocorrelation, rng)
            rises = float(np.mean([is_rise(scores_T) for scores_T in noise_CT]))
            rows.append(
                (
                    str(validations),
                    f"{autocorrelation:g}",
                    f"{rises:.1%}",
                    "yes" if round(rises * curves) <= limit else "**no**",
                )
            )
            section.records.append(
                {
                    "case": "false rises",
                    "validations": validations,
                    "autocorrelation": autocorrelation,
                    "vfmalign": rises,
                }
            )
    columns = ("validations", "AR(1)", "false rises", f"at most {limit / curves:.1%}")
    return Table("False rises of flat curves", columns, rows)


def _tabulate_power(curves: int, rng: np.random.Generator, section: Section) -> Table:
    """Counts the rises of 20 noise SDs that are detected."""
    rows = []
    for validations in NULL_VALIDATIONS:
        noises = [draw_noise(curves, validations, rho, rng) for rho in AUTOCORRELATIONS]
        for shape in SHAPES:
            curve_T = RISE_IN_NOISE_SD * get_curve(shape, validations)
            shares = [float(np.mean([is_rise(curve_T + noise_T) for noise_T in noise_CT])) for noise_CT in noises]
            rows.append((str(validations), shape, *(f"{share:.1%}" for share in shares)))
            section.records.append({"case": "power", "validations": validations, "shape": shape, "vfmalign": shares})
    columns = ("validations", "shape", *(f"AR(1) {rho:g}" for rho in AUTOCORRELATIONS))
    return Table(f"Detected rises of {RISE_IN_NOISE_SD:g} noise SDs", columns, rows)


def _tabulate_steps_to_95(curves: int, rng: np.random.Generator, section: Section) -> Table:
    """Compares `steps_to_95` with the first validation at which the noise-free curve is at 95 % of its rise."""
    rows = []
    for validations, shape, rho in _iterate_cells():
        curve_T = get_curve(shape, validations)
        true = int(np.argmax(curve_T >= 0.95 - 1e-12))
        scores_CT = curve_T + NOISE_OF_RISE * draw_noise(curves, validations, rho, rng)
        errors = _Errors.of([measure(scores_T).steps_to_95 for scores_T in scores_CT], true)
        rows.append((str(validations), shape, f"{rho:g}", str(true), str(errors)))
        section.records.append(
            {
                "case": "steps_to_95",
                "validations": validations,
                "shape": shape,
                "autocorrelation": rho,
                "true": true,
                "vfmalign": errors._asdict(),
            }
        )
    columns = ("validations", "shape", "AR(1)", "true validation", "error")
    return Table(f"steps_to_95 with noise of {NOISE_OF_RISE:g} of the rise", columns, rows)


def _tabulate_steps_to_baseline(curves: int, rng: np.random.Generator, section: Section) -> Table:
    """Compares `steps_to_baseline` with the noise-free curves: errors where it is reached, else the share censored."""
    rows = []
    for validations in VALIDATIONS:
        curve_T, baseline_T = (get_curve(f"saturating, τ = {tau}", validations) for tau in (0.15, 0.1))
        for level in BASELINE_LEVELS:
            true = int(np.argmax(curve_T >= level)) if level <= 1.0 else validations
            for rho in AUTOCORRELATIONS:
                scores_CT = curve_T + NOISE_OF_RISE * draw_noise(curves, validations, rho, rng)
                others_CT = level * baseline_T + NOISE_OF_RISE * draw_noise(curves, validations, rho, rng)
                pairs = list(zip(scores_CT, others_CT, strict=True))
                errors = _Errors.of([measure(*pair).steps_to_baseline for pair in pairs], true)
                truth = "never" if level > 1.0 else str(true)
                rows.append((str(validations), f"{level:g}", f"{rho:g}", truth, str(errors)))
                section.records.append(
                    {
                        "case": "steps_to_baseline",
                        "validations": validations,
                        "baseline": level,
                        "autocorrelation": rho,
                        "vfmalign": errors._asdict(),
                    }
                )
    columns = ("validations", "baseline's best", "AR(1)", "true validation", "error")
    return Table(f"steps_to_baseline with noise of {NOISE_OF_RISE:g} of the rise", columns, rows)


class _Errors(NamedTuple):
    """Errors of a number of steps, in validations; a censored number counts as one validation after the last."""

    low: float
    median: float
    high: float
    within_one: float

    @classmethod
    def of(cls, steps: list[Steps], true: int) -> _Errors:
        """Summarises numbers of steps, without absent ones."""
        values = [(one.value or 0) + one.censored for one in steps if not one.absent_reason]
        if not values:
            return cls(np.nan, np.nan, np.nan, np.nan)
        errors = np.array(values, dtype=np.float64) - true
        low, median, high = np.quantile(errors, (0.1, 0.5, 0.9))
        return cls(float(low), float(median), float(high), float(np.mean(np.abs(errors) <= 1.0)))

    def __str__(self) -> str:
        return f"{self.median:+.1f} [{self.low:+.1f}, {self.high:+.1f}], {self.within_one:.0%}"


def _iterate_cells() -> Iterator[tuple[int, str, float]]:
    """Iterates over validations, shapes and autocorrelations."""
    return ((validations, shape, rho) for validations in VALIDATIONS for shape in SHAPES for rho in AUTOCORRELATIONS)


def _to_progress(scores_T: Array) -> list[JobProgress]:
    """Returns the progress of a job that validates after every step."""
    last = len(scores_T) - 1
    return [
        JobProgress(
            epoch=index,
            epochs=last,
            step=index,
            steps=last,
            train_loss=None,
            validation_score=float(score),
            elapsed_seconds=0.0,
        )
        for index, score in enumerate(scores_T)
    ]
