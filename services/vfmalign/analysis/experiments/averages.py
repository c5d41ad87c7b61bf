"""Averages over seeds for one model and task, with intervals and a verdict.

With several seeds, intervals cover seeds and patients (ADR 0081). With one seed, the intervals of the check are used,
which cover only patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import get_args

import numpy as np
from pydantic import Field

from vfmalign.analysis.checks.seed_variation import summarise_estimates
from vfmalign.analysis.checks.verdict import SCRATCH, SPECIALISED, Verdict, decide_verdict
from vfmalign.analysis.experiments.cells import Cell, ControlName, Flags
from vfmalign.analysis.experiments.points import (
    RATIO,
    SHIFT,
    GetNumber,
    Point,
    get_gain,
    get_step_share,
)
from vfmalign.analysis.gains.crossed_gain import estimate_crossed_gain
from vfmalign.analysis.gains.paired_scores import pair_seeds
from vfmalign.client.messages.checks import Gain
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.core.domain.jobs import Network
from vfmalign.core.domain.models import Objective
from vfmalign.core.domain.record import Record

_QUANTITIES: Mapping[str, GetNumber] = {
    "mmd2_std": SHIFT.get,
    "shift_ratio": RATIO.get,
    "gain": get_gain,
    "convergence": get_step_share,
}


class SeedAverage(Record):
    """Results of one model and task, averaged over seeds.

    Attributes:
        seeds: number of seeds.
        patients: number of patients in the test split.
        flags: flags that are set for at least one seed.
        shift: MMD² with its interval.
        shift_ratio: shift divided by the shift to random weights; has no interval.
        gain: relative gain over the specialised network, averaged over the seeds, in per cent, with its interval.
        gain_difference: gain over the specialised network in the metric's unit, with its interval; positive if the
            fine-tuned model is better.
        verdict: verdict on `gain_difference`, formed as in a check.
        scratch_difference: gain over the same architecture from random weights, in the metric's unit.
        pretraining: verdict on `scratch_difference`, formed as in a check; None if it was not assessed.
        smallest_difference: smallest relevant difference δ of the metric, in its unit; 0 if none was set.
        frozen_score: test score of the model with a frozen encoder; None if a seed has none.
        frozen_difference: difference of this score to the score after fine-tuning, in the metric's unit, with its
            interval; positive if the frozen encoder is better. None without such a score, or with one seed.
        controls: maps the name of each control to its MMD², averaged over the seeds that have this control.
        score: test score of the fine-tuned model.
        baseline: test score of the specialised network.
        convergence: steps until the model reached 95 % of its own rise, divided by all steps; None if absent or
            censored.
        censored: whether the training budget ended before 95 % of the rise was reached.
        seeds_without_value: maps the name of each number to the number of seeds that lack it.
    """

    model_id: str
    task: str
    architecture: str
    objective: Objective
    seeds: int
    patients: int
    flags: Flags
    shift: Estimate
    shift_ratio: Estimate
    gain: Estimate
    gain_difference: Estimate
    verdict: Verdict
    scratch_difference: Estimate | None = None
    pretraining: Verdict | None = None
    smallest_difference: float = 0.0
    frozen_score: float | None = Field(default=None, exclude_if=lambda score: score is None)
    frozen_difference: Estimate | None = Field(default=None, exclude_if=lambda difference: difference is None)
    controls: dict[ControlName, float] = Field(default_factory=dict)
    score: float | None
    baseline: float | None
    convergence: float | None
    convergence_reason: str
    censored: bool
    seeds_without_value: dict[str, int]


def average_seeds(point: Point, level: float) -> SeedAverage:
    """Averages the cells of a point.

    Args:
        point: cells of one model and task.
        level: nominal coverage of the intervals, in (0, 1).
    """
    first = point.cells[0]
    share = point.mean(get_step_share)
    reasons = dict.fromkeys(c.steps_to_95.absent_reason for c in point.cells if c.steps_to_95.absent_reason)
    gain, difference, verdict = _average_gain(point, level)
    scratch_difference, pretraining = _average_scratch(point, level)
    frozen_score, frozen_difference = _average_frozen(point, level)
    return SeedAverage(
        model_id=point.model_id,
        task=point.task,
        architecture=first.architecture,
        objective=first.objective,
        seeds=len(point.cells),
        patients=first.patients,
        flags=point.flags,
        shift=_average_shift(point),
        shift_ratio=_average([cell.shift_ratio for cell in point.cells], "no interval is formed for this ratio"),
        gain=gain,
        gain_difference=difference,
        verdict=verdict,
        scratch_difference=scratch_difference,
        pretraining=pretraining,
        smallest_difference=first.metric.smallest_difference,
        frozen_score=frozen_score,
        frozen_difference=frozen_difference,
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


def _average_gain(point: Point, level: float) -> tuple[Estimate, Estimate, Verdict]:
    """Relative gain, difference of the scores, and verdict.

    Correlations rank the mean of the seeds' relative gains. The crossed analysis divides the means instead. The two
    only differ in the second order, so the interval of the latter, moved to the former, is valid for both.
    """
    first, *others = point.cells
    if not others:
        return first.gain, first.gain_difference, first.verdict
    gain, verdict = _compare(point, level, "specialised")
    return _average_relative([cell.gain for cell in point.cells], gain), gain.absolute, verdict


def _average_scratch(point: Point, level: float) -> tuple[Estimate | None, Verdict | None]:
    """Difference to the network from random weights, and whether pretraining helps; None if a cell has no scores."""
    first, *others = point.cells
    if not others:
        return first.scratch_difference, first.pretraining
    if any("scratch" not in cell.scores for cell in point.cells):
        return None, None
    gain, pretraining = _compare(point, level, "scratch")
    return gain.absolute, pretraining


def _average_frozen(point: Point, level: float) -> tuple[float | None, Estimate | None]:
    """Score of the model with a frozen encoder, and its difference to fine-tuning; None if a seed has no such score."""
    first, *others = point.cells
    frozen = [cell.frozen_scores for cell in point.cells]
    if not all(frozen) or not others:
        return first.frozen_score if not others else None, None
    pairs = pair_seeds(frozen, [cell.scores["pretrained"] for cell in point.cells], first.metric)
    gain = estimate_crossed_gain(pairs, first.metric, level=level)
    return gain.score, gain.absolute


def _compare(point: Point, level: float, baseline: Network) -> tuple[Gain, Verdict]:
    """Gain over a baseline with several seeds, and its verdict."""
    first = point.cells[0]
    scores, baselines = ([cell.scores[network] for cell in point.cells] for network in ("pretrained", baseline))
    of_scratch = baseline == "scratch"
    gain = estimate_crossed_gain(
        pair_seeds(scores, baselines, first.metric), first.metric, level=level, another_draw=of_scratch
    )
    if first.verdict.label == "insufficient_training":  # all seeds have the same recipe
        return gain, first.verdict
    return gain, decide_verdict(
        gain,
        first.metric,
        held_out=not point.flags.not_held_out,
        seeds=len(point.cells),
        baseline=SCRATCH if of_scratch else SPECIALISED,
    )


def _average_relative(gains: Sequence[Estimate], crossed: Gain) -> Estimate:
    relative = crossed.relative_percent
    average = _average(gains, relative.absent_reason)
    interval, value = relative.interval, average.value
    if interval is None or value is None or relative.value is None:
        return average
    offset = value - relative.value
    interval = interval.model_copy(update={"lower": interval.lower + offset, "upper": interval.upper + offset})
    return Estimate(value=value, interval=interval)


def _average_shift(point: Point) -> Estimate:
    shifts = [cell.shift for cell in point.cells]
    missing = sum(shift.value is None for shift in shifts)
    if missing or len(shifts) == 1:
        return shifts[0] if len(shifts) == 1 else _average(shifts, f"{missing} of {len(shifts)} seeds have no shift")
    return summarise_estimates(shifts).mean


def _average(estimates: Sequence[Estimate], without_interval: str) -> Estimate:
    """Mean of the estimates that have a value, with the reason for the missing interval; absent if there are none."""
    values = [estimate.value for estimate in estimates if estimate.value is not None]
    if not values:
        return absent("; ".join(dict.fromkeys(estimate.absent_reason for estimate in estimates)))
    return Estimate(value=fmean(values), absent_reason=without_interval)
