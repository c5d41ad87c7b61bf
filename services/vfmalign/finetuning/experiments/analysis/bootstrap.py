"""Bootstrap of an experiment, nested over seeds and cases: every point's numbers, once for each resample.

Patients are drawn in common for the networks of a cell and for the models of a task, which share their test cases;
seeds are drawn within each model and task. Knows cells and `core.scores`; knows nothing of correlations.
Axes: R resamples, S seeds, N cases, G patients.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vfmalign.core.domain.scores import levels
from vfmalign.finetuning.analysis.estimates import MIN_GROUPS
from vfmalign.finetuning.analysis.gain import MIN_PER_CLASS, pair_scores
from vfmalign.finetuning.experiments.analysis.cells import Cell
from vfmalign.finetuning.experiments.analysis.points import Point, names, share_of_steps

Array = npt.NDArray[np.float64]
Key = tuple[str, str]


@dataclass(frozen=True)
class Resampled:
    """One point's numbers in every resample; NaN where it has none.

    Attributes:
        weak: why an interval of these draws is not to be relied on; empty where it is.
    """

    shift_R: Array
    ratio_R: Array
    gain_R: Array
    steps_R: Array
    weak: str = ""

    def of(self, quantity: str) -> Array:
        """The draws of one quantity, by the name that the claims use."""
        return {
            "mmd2_std": self.shift_R,
            "shift_ratio": self.ratio_R,
            "gain": self.gain_R,
            "convergence": self.steps_R,
        }[quantity]


def resample(points: Sequence[Point], *, seed: int, resamples: int) -> Mapping[Key, Resampled]:
    """Draws every point's numbers anew; equal points and seeds give equal draws, in whatever order the points come.

    The gain is formed anew of the drawn cases' scores. The shift would need its features: it is drawn from a normal
    distribution with its jackknife standard error instead, independently of the cases, which is an approximation. So is
    the ratio, whose denominator is held. Steps vary with the seeds alone.
    """
    found: dict[Key, Resampled] = {}
    for place, task in enumerate(names(points, "task")):
        mine = sorted((point for point in points if point.task == task), key=lambda point: point.model)
        rng = np.random.default_rng([seed, place])
        patients, weight_RG, weak = _draw_patients([cell for point in mine for cell in point.cells], rng, resamples)
        for point in mine:
            found[point.model, task] = _draw_point(point, patients, weight_RG, weak, rng)
    return found


def _draw_patients(
    cells: Sequence[Cell], rng: np.random.Generator, resamples: int
) -> tuple[dict[str, int], Array, str]:
    """Patients of a task with their place, how often each is drawn, and what makes that unreliable."""
    positive: dict[str, bool] = {}
    for cell in cells:
        for score in cell.scores["pretrained"]:
            positive[score.group] = positive.get(score.group, False) or bool(score.positive)
    patients = {name: place for place, name in enumerate(sorted(positive))}
    class_G = np.array([positive[name] for name in patients], dtype=np.bool_)
    two_classes = any(cell.metric.of_set != "mean" for cell in cells)
    parts = [np.flatnonzero(class_G), np.flatnonzero(~class_G)] if two_classes else [np.arange(len(patients))]
    weight_RG = np.zeros((resamples, len(patients)))
    for part in parts:
        if part.size:
            weight_RG[:, part] = rng.multinomial(part.size, np.full(part.size, 1 / part.size), size=resamples)
    task = cells[0].task
    if len(patients) < MIN_GROUPS:
        return patients, weight_RG, f"{task} has {len(patients)} test patients"
    fewest = min(part.size for part in parts)
    if two_classes and fewest < MIN_PER_CLASS:
        return patients, weight_RG, f"{task} has {fewest} test patients of one class"
    return patients, weight_RG, ""


def _draw_point(
    point: Point, patients: Mapping[str, int], weight_RG: Array, weak: str, rng: np.random.Generator
) -> Resampled:
    resamples, seeds = len(weight_RG), len(point.cells)
    pick_RS = rng.integers(seeds, size=(resamples, seeds))
    shift_SR = np.full((seeds, resamples), np.nan)
    ratio_SR, gain_SR, steps_SR = shift_SR.copy(), shift_SR.copy(), shift_SR.copy()
    for place, cell in enumerate(point.cells):
        noise_R = rng.standard_normal(resamples)
        if cell.shift.value is not None:
            shift_SR[place] = cell.shift.value + (cell.shift_se or 0.0) * noise_R
            if cell.shift_ratio.value is not None and cell.shift.value:
                ratio_SR[place] = shift_SR[place] * (cell.shift_ratio.value / cell.shift.value)
            elif cell.shift_ratio.value is not None:
                ratio_SR[place] = cell.shift_ratio.value
        if cell.gain.value is not None:
            gain_SR[place] = _gains(cell, patients, weight_RG)
        share = share_of_steps(cell)
        steps_SR[place] = np.nan if share is None else share
        if cell.shift.value is not None and cell.shift_se is None:
            weak = weak or "a shift without a standard error is held"
    return Resampled(
        shift_R=_mean(shift_SR, pick_RS),
        ratio_R=_mean(ratio_SR, pick_RS),
        gain_R=_mean(gain_SR, pick_RS),
        steps_R=_mean(steps_SR, pick_RS),
        weak=weak,
    )


def _gains(cell: Cell, patients: Mapping[str, int], weight_RG: Array) -> Array:
    """The relative gain of every resample; NaN where the baseline falls under the metric's floor."""
    metric = cell.metric
    pairs = pair_scores(cell.scores["pretrained"], cell.scores["specialised"], metric.name)
    weight_RN = weight_RG[:, [patients[group] for group in pairs.groups]]
    score_R, baseline_R = (
        levels(metric, value_N, pairs.positive_N, weight_RN) for value_N in (pairs.score_N, pairs.baseline_N)
    )
    level_R = np.abs(baseline_R)
    safe_R = np.where((level_R < metric.floor) | (level_R == 0.0), np.nan, level_R)
    sign = 1.0 if metric.higher_is_better else -1.0
    gain_R: Array = 100.0 * sign * (score_R - baseline_R) / safe_R
    return gain_R


def _mean(value_SR: Array, pick_RS: npt.NDArray[np.int64]) -> Array:
    """Mean over the drawn seeds that have a value."""
    drawn_RS = value_SR[pick_RS, np.arange(len(pick_RS))[:, None]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no drawn seed has a value: NaN, as it should be
        mean_R: Array = np.nanmean(drawn_RS, axis=1)
    return mean_R
