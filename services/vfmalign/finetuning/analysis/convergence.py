"""Convergence speed: optimiser steps to 95 % of a run's own range, and steps to a baseline's best score.

Everything is computed from validation scores. Axes: T validations, the first at step 0; R simulated curves; S second
differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from vfmalign.client.messages.checks import Convergence, Steps
from vfmalign.core.domain.jobs import JobProgress

MIN_VALIDATIONS = 5
"""Validations below which a rise cannot be told from noise."""
RANGE_FRACTION = 0.95
NOISE_LEVEL = 0.05
"""Share of flat, noisy curves that are taken for a rise."""
_MAD_TO_SD = 0.6744897501960817  # Φ⁻¹(0.75): the median absolute deviation of a standard normal variable
_SIMULATIONS = 20_000
_SIMULATION_SEED = 20_260_115

Array = npt.NDArray[np.float64]


def measure_convergence(
    curve: Sequence[JobProgress], baseline: Sequence[JobProgress] = (), *, higher_is_better: bool
) -> Convergence:
    """Measures how fast a curve reached its own best score, and a baseline's.

    The range best − start is compared with the range of a flat curve with the same noise. The noise is the robust scale
    of second differences (Gasser, Sroka and Jennen-Steinmetz, Biometrika 73 (1986), with the median in place of the
    mean of squares), which is insensitive to a smooth trend. For independent normal noise around a flat line, the
    distribution of range / noise depends on T alone. The threshold is its upper 5 % point, simulated once with a fixed
    seed. The noise describes the curve on fixed validation cases, not the sampling error of those cases.

    Args:
        curve: validations at step 0 and after every epoch, in order.
        baseline: validations of the network whose best score is to be reached; empty leaves `steps_to_baseline` absent.
        higher_is_better: direction of the score.
    """
    scores_T, steps = _oriented(curve, higher_is_better)
    best_index = int(np.argmax(scores_T))
    noise = _noise(scores_T)
    return Convergence(
        best=curve[best_index].val_score,
        start=curve[0].val_score,
        best_step=steps[best_index],
        steps=steps[-1],
        noise=noise,
        steps_to_95=_steps_to_95(scores_T, steps, noise),
        steps_to_baseline=steps_to_baseline(curve, baseline, higher_is_better=higher_is_better)
        if baseline
        else Steps(),
    )


def steps_to_baseline(
    curve: Sequence[JobProgress], baseline: Sequence[JobProgress], *, higher_is_better: bool
) -> Steps:
    """First step at which `curve` is at least as good as the baseline's best validation score; censored if none is."""
    scores_T, steps = _oriented(curve, higher_is_better)
    target = float(np.max(_oriented(baseline, higher_is_better)[0]))
    reached = np.flatnonzero(scores_T >= target)
    if reached.size:
        return Steps(value=steps[int(reached[0])])
    return Steps(value=steps[-1], censored=True)


def _oriented(curve: Sequence[JobProgress], higher_is_better: bool) -> tuple[Array, list[int]]:
    sign = 1.0 if higher_is_better else -1.0
    return np.array([sign * point.val_score for point in curve], dtype=np.float64), [point.step for point in curve]


def _noise(scores_T: Array) -> float | None:
    """Noise SD of one curve; None below `MIN_VALIDATIONS` points."""
    if scores_T.size < MIN_VALIDATIONS:
        return None
    return float(_robust_sd(scores_T[np.newaxis])[0])


def _robust_sd(scores_RT: Array) -> Array:
    """Robust SD from second differences, whose variance is 6σ² for independent noise of variance σ²."""
    second_RS = np.diff(scores_RT, n=2, axis=1)
    sd_R: Array = np.median(np.abs(second_RS), axis=1) / (_MAD_TO_SD * np.sqrt(6.0))
    return sd_R


@lru_cache(maxsize=256)
def _range_threshold(validations: int) -> float:
    """Upper 5 % point of (max − first) / noise for a flat curve with independent normal noise."""
    rng = np.random.default_rng(_SIMULATION_SEED)
    flat_RT = rng.standard_normal((_SIMULATIONS, validations))
    ratio_R = (flat_RT.max(axis=1) - flat_RT[:, 0]) / _robust_sd(flat_RT)
    return float(np.quantile(ratio_R, 1 - NOISE_LEVEL))


def _steps_to_95(scores_T: Array, steps: list[int], noise: float | None) -> Steps:
    start = float(scores_T[0])
    rise = float(scores_T.max()) - start
    if noise is None:
        return Steps(absent_reason=f"{scores_T.size} validations: telling a rise from noise needs {MIN_VALIDATIONS}")
    if rise <= 0.0:
        return Steps(absent_reason="validation never rose above its start")
    if rise <= _range_threshold(scores_T.size) * noise:
        return Steps(absent_reason=f"the rise of {rise:.3g} is within noise (SD {noise:.3g} between validations)")
    reached = np.flatnonzero(scores_T >= start + RANGE_FRACTION * rise)
    return Steps(value=steps[int(reached[0])])
