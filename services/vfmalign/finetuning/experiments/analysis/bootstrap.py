"""Bootstrap of an experiment, nested over seeds and cases: the numbers of every point in each resample.

Patients are drawn jointly for the networks of a cell and for the models of a task, because these share their test
cases. Seeds are drawn within each model and task. Axes: R resamples, S seeds, N cases, G patients.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vfmalign.core.domain.scores import aggregate_resamples
from vfmalign.finetuning.analysis.gain import MIN_GROUPS, MIN_PER_CLASS, pair_scores
from vfmalign.finetuning.experiments.analysis.cells import Cell
from vfmalign.finetuning.experiments.analysis.points import Point, get_step_share, list_tasks

Array = npt.NDArray[np.float64]
PointKey = tuple[str, str]
"""Model and task."""


@dataclass(frozen=True)
class ResampledPoint:
    """Numbers of one point in every resample; NaN where absent.

    Attributes:
        patients_caveat: why an interval of any number is unreliable; empty if there is no such reason.
        shift_caveat: why an interval of the shift, or of a number that depends on it, is unreliable.
    """

    shift_R: Array
    ratio_R: Array
    gain_R: Array
    step_share_R: Array
    patients_caveat: str = ""
    shift_caveat: str = ""

    def get(self, quantity: str) -> Array:
        """The resamples of one quantity, by the name that claims use."""
        return {
            "mmd2_std": self.shift_R,
            "shift_ratio": self.ratio_R,
            "gain": self.gain_R,
            "convergence": self.step_share_R,
        }[quantity]

    def get_caveat(self, quantity: str) -> str:
        """Why an interval of a quantity is unreliable; empty if it is reliable."""
        return self.patients_caveat or (self.shift_caveat if quantity in {"mmd2_std", "shift_ratio"} else "")


@dataclass(frozen=True)
class _PatientWeights:
    """How often each patient of a task is drawn.

    Attributes:
        index: column of each patient.
        weight_RG: number of draws of each patient.
        caveat: why intervals are unreliable; empty if they are reliable.
    """

    index: Mapping[str, int]
    weight_RG: Array
    caveat: str


def resample(points: Sequence[Point], *, seed: int, resamples: int) -> Mapping[PointKey, ResampledPoint]:
    """Resamples the numbers of every point. Equal points and seeds give equal draws in any order of the points.

    The gain is recomputed from the scores of the drawn cases. Recomputing the shift would require the features, so it
    is drawn from a normal distribution with its jackknife standard error, independently of the cases. This is an
    approximation, as is the ratio, whose denominator is held constant. Steps vary with the seeds alone.
    """
    resampled: dict[PointKey, ResampledPoint] = {}
    for place, task in enumerate(list_tasks(points)):
        task_points = sorted((point for point in points if point.task == task), key=lambda point: point.model)
        rng = np.random.default_rng([seed, place])
        patients = _draw_patients([cell for point in task_points for cell in point.cells], rng, resamples)
        for point in task_points:
            resampled[point.model, task] = _resample_point(point, patients, rng)
    return resampled


def _draw_patients(cells: Sequence[Cell], rng: np.random.Generator, resamples: int) -> _PatientWeights:
    """Draws the patients of a task; for two-class metrics, separately in each class."""
    positive: dict[str, bool] = {}
    for cell in cells:
        for score in cell.scores["pretrained"]:
            positive[score.group] = positive.get(score.group, False) or bool(score.positive)
    index = {name: place for place, name in enumerate(sorted(positive))}
    class_G = np.array([positive[name] for name in index], dtype=np.bool_)
    two_classes = any(cell.metric.of_set != "mean" for cell in cells)
    strata = [np.flatnonzero(class_G), np.flatnonzero(~class_G)] if two_classes else [np.arange(len(index))]
    weight_RG = np.zeros((resamples, len(index)))
    for stratum in strata:
        if stratum.size:
            weight_RG[:, stratum] = rng.multinomial(stratum.size, np.full(stratum.size, 1 / stratum.size), resamples)
    task = cells[0].task
    caveat = ""
    fewest = min(stratum.size for stratum in strata)
    if len(index) < MIN_GROUPS:
        caveat = f"{task} has {len(index)} test patients"
    elif two_classes and fewest < MIN_PER_CLASS:
        caveat = f"{task} has {fewest} test patients of one class"
    return _PatientWeights(index, weight_RG, caveat)


def _resample_point(point: Point, patients: _PatientWeights, rng: np.random.Generator) -> ResampledPoint:
    resamples, seeds = len(patients.weight_RG), len(point.cells)
    pick_RS = rng.integers(seeds, size=(resamples, seeds))
    shift_SR = np.full((seeds, resamples), np.nan)
    ratio_SR, gain_SR, step_share_SR = shift_SR.copy(), shift_SR.copy(), shift_SR.copy()
    shift_caveat = ""
    for place, cell in enumerate(point.cells):
        # Drawn for every cell, so that an absent shift does not change the draws of the cells that follow.
        noise_R = rng.standard_normal(resamples)
        if cell.shift.value is not None:
            shift_SR[place] = cell.shift.value + (cell.shift_se or 0.0) * noise_R
            if cell.shift_se is None:
                shift_caveat = "the shift has no standard error and is held constant"
            if cell.shift_ratio.value is not None:
                ratio_SR[place] = _scale_ratio(shift_SR[place], cell.shift.value, cell.shift_ratio.value)
        if cell.gain.value is not None:
            gain_SR[place] = _resample_gain(cell, patients)
        share = get_step_share(cell)
        step_share_SR[place] = np.nan if share is None else share
    return ResampledPoint(
        shift_R=_mean_over_seeds(shift_SR, pick_RS),
        ratio_R=_mean_over_seeds(ratio_SR, pick_RS),
        gain_R=_mean_over_seeds(gain_SR, pick_RS),
        step_share_R=_mean_over_seeds(step_share_SR, pick_RS),
        patients_caveat=patients.caveat,
        shift_caveat=shift_caveat,
    )


def _scale_ratio(shift_R: Array, shift: float, ratio: float) -> Array:
    """The ratio of every resample, with the denominator shift / ratio held constant."""
    return shift_R * (ratio / shift) if shift else np.full_like(shift_R, ratio)


def _resample_gain(cell: Cell, patients: _PatientWeights) -> Array:
    """Relative gain of every resample; NaN where the baseline falls below the metric's floor."""
    metric = cell.metric
    pairs = pair_scores(cell.scores["pretrained"], cell.scores["specialised"], metric.name)
    weight_RN = patients.weight_RG[:, [patients.index[group] for group in pairs.groups]]
    score_R, baseline_R = (
        aggregate_resamples(metric, value_N, pairs.positive_N, weight_RN)
        for value_N in (pairs.score_N, pairs.baseline_N)
    )
    level_R = np.abs(baseline_R)
    safe_R = np.where((level_R < metric.floor) | (level_R == 0.0), np.nan, level_R)
    sign = 1.0 if metric.higher_is_better else -1.0
    gain_R: Array = 100.0 * sign * (score_R - baseline_R) / safe_R
    return gain_R


def _mean_over_seeds(value_SR: Array, pick_RS: npt.NDArray[np.int64]) -> Array:
    """Mean over the drawn seeds that have a value; NaN if none has one."""
    drawn_RS = value_SR[pick_RS, np.arange(len(pick_RS))[:, None]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nanmean warns where every drawn seed lacks a value
        mean_R: Array = np.nanmean(drawn_RS, axis=1)
    return mean_R
