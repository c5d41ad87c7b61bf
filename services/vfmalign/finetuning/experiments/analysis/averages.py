"""Averages over seeds: the numbers of one model and task with their bootstrap intervals. Axis: R resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

import numpy as np
from pydantic import Field

from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.core.domain.models import Objective
from vfmalign.core.domain.record import Record
from vfmalign.finetuning.experiments.analysis.bootstrap import ResampledPoint
from vfmalign.finetuning.experiments.analysis.cells import Cell, ControlName, Flags
from vfmalign.finetuning.experiments.analysis.points import (
    RATIO,
    SHIFT,
    GetNumber,
    Point,
    get_gain,
    get_gain_difference,
    get_step_share,
)

METHOD = "bootstrap over seeds and cases"
_QUANTITIES: Mapping[str, GetNumber] = {
    "mmd2_std": SHIFT.get,
    "shift_ratio": RATIO.get,
    "gain": get_gain,
    "convergence": get_step_share,
}
_GET_ESTIMATE: Mapping[str, Callable[[Cell], Estimate]] = {
    "mmd2_std": lambda cell: cell.shift,
    "shift_ratio": lambda cell: cell.shift_ratio,
    "gain": lambda cell: cell.gain,
}


class SeedAverage(Record):
    """Results of one model and task, averaged over seeds.

    Attributes:
        seeds: number of seeds.
        patients: number of patients in the test split.
        flags: flags that are set for any seed.
        shift: MMD² with the interval of the experiment's bootstrap.
        shift_ratio: shift in units of the shift to random weights, with its interval.
        gain: gain over the specialised network in per cent, with its interval.
        gain_difference: gain over the specialised network in the metric's unit; above zero is better.
        smallest_difference: smallest relevant difference δ of the metric, in its unit; 0 where none was set.
        controls: MMD² of the cells' controls, averaged over the seeds that have one, by name.
        score: test score of the fine-tuned model.
        baseline: test score of the specialised network.
        convergence: steps to 95 % of the model's own rise as a share of all steps; None if absent or censored.
        censored: the rise was not reached within the budget.
        seeds_without_value: number of seeds that lack a number, by its name.
    """

    model: str
    task: str
    architecture: str
    objective: Objective
    seeds: int
    patients: int
    flags: Flags
    shift: Estimate
    shift_ratio: Estimate
    gain: Estimate
    gain_difference: float | None = None
    smallest_difference: float = 0.0
    controls: dict[ControlName, float] = Field(default_factory=dict)
    score: float | None
    baseline: float | None
    convergence: float | None
    convergence_reason: str
    censored: bool
    seeds_without_value: dict[str, int]


def average_seeds(point: Point, resampled: ResampledPoint, level: float) -> SeedAverage:
    """Averages the cells of a point.

    Args:
        point: cells of one model and task.
        resampled: resamples of the point.
        level: nominal coverage of the intervals, in (0, 1).
    """
    first = point.cells[0]
    share = point.mean(get_step_share)
    reasons = dict.fromkeys(c.steps_to_95.absent_reason for c in point.cells if c.steps_to_95.absent_reason)
    return SeedAverage(
        model=point.model,
        task=point.task,
        architecture=first.architecture,
        objective=first.objective,
        seeds=len(point.cells),
        patients=first.patients,
        flags=point.flags,
        shift=_estimate(point, "mmd2_std", resampled, level),
        shift_ratio=_estimate(point, "shift_ratio", resampled, level),
        gain=_estimate(point, "gain", resampled, level),
        gain_difference=point.mean(get_gain_difference),
        smallest_difference=first.metric.smallest_difference,
        controls=_average_controls(point),
        score=point.mean(lambda cell: cell.score),
        baseline=point.mean(lambda cell: cell.baseline),
        convergence=None if share is None or np.isinf(share) else share,
        convergence_reason="; ".join(reasons),
        censored=share is not None and bool(np.isinf(share)),
        seeds_without_value={name: count for name, get in _QUANTITIES.items() if (count := point.count_absent(get))},
    )


def _average_controls(point: Point) -> dict[ControlName, float]:
    names: tuple[ControlName, ...] = get_args(ControlName)
    means = {name: point.mean(_control_getter(name)) for name in names}
    return {name: mean for name, mean in means.items() if mean is not None}


def _control_getter(name: ControlName) -> GetNumber:
    def get_control(cell: Cell) -> float | None:
        control = cell.controls.get(name)
        return None if control is None else control.value

    return get_control


def _estimate(point: Point, name: str, resampled: ResampledPoint, level: float) -> Estimate:
    value = point.mean(_QUANTITIES[name])
    if value is None:
        return absent("; ".join(dict.fromkeys(_GET_ESTIMATE[name](cell).absent_reason for cell in point.cells)))
    value_R = resampled.get(name)
    if np.isnan(value_R).any():
        return Estimate(value=value, absent_reason="it has no value in some resamples")
    if not value_R.std():
        return Estimate(value=value, absent_reason="it does not vary between resamples")
    lower, upper = np.quantile(value_R, [(1 - level) / 2, (1 + level) / 2])
    caveat = resampled.get_caveat(name)
    degenerate = bool(caveat) or (name != "gain" and point.flags.degenerate)
    interval = Interval(lower=float(lower), upper=float(upper), level=level, method=METHOD, degenerate=degenerate)
    return Estimate(value=value, interval=interval, absent_reason=caveat)
