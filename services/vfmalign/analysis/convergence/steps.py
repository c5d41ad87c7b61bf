"""Convergence speed: optimiser steps to 95 % of a run's own rise, and steps to a baseline's best score.

Both numbers of steps are computed from validation scores. Axis: T validations, the first at step 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vfmalign.analysis.convergence.learning_curves import MIN_VALIDATIONS, Array, fit_curve, is_rise, rms_decrease
from vfmalign.client.messages.checks import Convergence, Steps
from vfmalign.core.domain.jobs import JobProgress

RISE_FRACTION = 0.95
_ROUNDING = 1e-9  # share of the scale of the scores: the fit reproduces a plateau up to rounding


def measure_convergence(
    curve: Sequence[JobProgress], baseline: Sequence[JobProgress] = (), *, higher_is_better: bool
) -> Convergence:
    """Measures how fast a curve reached its own best score and a baseline's best score.

    Both numbers of steps are read from fitted curves (`learning_curves.fit_curve`). The highest of many noisy scores
    lies above the underlying curve, so a curve reaches 95 % of that score too late. `steps_to_95` is the first
    validation t with f_t ≥ f_0 + 0.95·(max f − f_0) for the fit f. `steps_to_95` is absent if noise can explain the
    rise (`learning_curves.is_rise`). This noise is the variation of the curve on fixed validation cases, without the
    error from sampling these cases.

    Args:
        curve: validations at step 0 and after every epoch, in order.
        baseline: validations of the baseline. If there are none, `steps_to_baseline` is absent.
        higher_is_better: direction of the score.
    """
    scores_T = _to_oriented_scores(curve, higher_is_better)
    best_index = int(np.argmax(scores_T))
    return Convergence(
        best=curve[best_index].validation_score,
        start=curve[0].validation_score,
        best_step=curve[best_index].step,
        steps=curve[-1].step,
        noise=rms_decrease(scores_T) if scores_T.size >= MIN_VALIDATIONS else None,
        steps_to_95=_steps_to_95(curve, scores_T),
        steps_to_baseline=steps_to_baseline(curve, baseline, higher_is_better=higher_is_better)
        if baseline
        else Steps(),
    )


def steps_to_baseline(
    curve: Sequence[JobProgress], baseline: Sequence[JobProgress], *, higher_is_better: bool
) -> Steps:
    """Finds the first validation at which the fit of `curve` is as good as the best point of the baseline's fit.

    If the curve never becomes as good as this point, the result is censored. Curves with fewer than `MIN_VALIDATIONS`
    validations are not fitted. The raw scores of such curves are compared instead.
    """
    baseline_fit_T = fit_curve(_to_oriented_scores(baseline, higher_is_better))
    fit_T = fit_curve(_to_oriented_scores(curve, higher_is_better))
    # Rounding is relative to the size of the baseline's scores, because the range of a flat curve is 0.
    index = _first_at_least(fit_T, float(baseline_fit_T.max()), float(np.abs(baseline_fit_T).max()))
    return Steps(value=curve[-1].step, censored=True) if index is None else Steps(value=curve[index].step)


def _steps_to_95(curve: Sequence[JobProgress], scores_T: Array) -> Steps:
    if scores_T.size < MIN_VALIDATIONS:
        return Steps(
            absent_reason=f"{scores_T.size} validations: {MIN_VALIDATIONS} are needed to detect an improvement"
        )
    rise = float(scores_T.max() - scores_T[0])
    if rise <= 0.0:
        return Steps(absent_reason="validation was never better than at its start")
    if not is_rise(scores_T):
        noise = rms_decrease(scores_T)
        return Steps(
            absent_reason=f"the improvement of {rise:.3g} is within noise (root mean square deterioration between "
            f"validations {noise:.3g})"
        )
    fit_T = fit_curve(scores_T)
    start = float(fit_T[0])
    index = _first_at_least(fit_T, start + RISE_FRACTION * (float(fit_T.max()) - start), float(np.ptp(fit_T)))
    return Steps(value=curve[index or 0].step)


def _first_at_least(fit_T: Array, target: float, scale: float) -> int | None:
    """Index of the first point at or above a score, up to rounding relative to `scale`; None if all are below."""
    reached = np.flatnonzero(fit_T >= target - _ROUNDING * scale)
    return int(reached[0]) if reached.size else None


def _to_oriented_scores(curve: Sequence[JobProgress], higher_is_better: bool) -> Array:
    """Validation scores [T], negated where lower is better."""
    sign = 1.0 if higher_is_better else -1.0
    return np.array([sign * point.validation_score for point in curve], dtype=np.float64)
