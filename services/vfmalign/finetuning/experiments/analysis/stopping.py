"""A go/no-go rule at an early step, tried on tasks that it was not fitted on.

The rule stops a training whose early number is worse than that of every training that gained in the other tasks. A
number is compared as its distance from the mean of the task's models in SDs, which is known without any gain.
Legend: M models of one task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.core.domain.record import Record
from vfmalign.finetuning.experiments.analysis.cells import Cell
from vfmalign.finetuning.experiments.analysis.points import Point, get_gain_difference, list_tasks

EarlyNumber = Literal["shift", "validation_score"]

RULES: Mapping[EarlyNumber, str] = {
    "shift": "stop where MMD² is larger",
    "validation_score": "stop where the validation score is lower",
}
"""The two rules, which differ in the number that they look at."""
_LEVEL = 0.95
_METHOD = "Clopper-Pearson"
_TIE = 1e-9
"""A number that exceeds the threshold by less is equal to it, apart from rounding."""


class HeldOutTask(Record):
    """Decisions of the rule in a task that it was not fitted on.

    Attributes:
        threshold: largest number that goes on, in SDs from the mean of the task's models, and worse if larger; None
            where no model gained in the other tasks, so that nothing is stopped.
        models: models with all numbers.
        gained: those whose score exceeds the specialised network's by more than the smallest relevant difference.
        stopped: those that the rule stops.
        best: the model with the largest gain.
    """

    task: str
    threshold: float | None
    models: tuple[str, ...]
    gained: tuple[str, ...]
    stopped: tuple[str, ...]
    best: str

    @property
    def missed(self) -> tuple[str, ...]:
        """Models that gained and are stopped."""
        return tuple(model for model in self.stopped if model in self.gained)


class StoppingRule(Record):
    """Outcome of the rule for one number and one step, over all tasks held out in turn.

    Attributes:
        trainings: number of models, counted in every task.
        gained: number of trainings that gained.
        stopped: number that the rule stops.
        missed: number that gained and are stopped.
        miss_rate: missed of gained.
        best_stopped: number of tasks whose best model is stopped.
        best_stopped_rate: of all tasks.
        missed_by_chance: expected number of missed, if as many models of each task were stopped at random.
    """

    number: EarlyNumber
    step: int
    tasks: tuple[HeldOutTask, ...]
    trainings: int
    gained: int
    stopped: int
    missed: int
    miss_rate: Estimate
    best_stopped: int
    best_stopped_rate: Estimate
    missed_by_chance: float
    sentence: str


def evaluate_stopping(points: Sequence[Point]) -> tuple[StoppingRule, ...]:
    """Evaluates both rules at every probed step; empty without two tasks of at least two probed models."""
    steps = sorted({probe.step for point in points for cell in point.cells for probe in cell.probes})
    rules = []
    for step in steps:
        for number in RULES:
            numbers = {task: read for task in list_tasks(points) if len(read := _read(points, task, step, number)) > 1}
            if len(numbers) > 1:
                rules.append(_evaluate(numbers, number, step))
    return tuple(rules)


@dataclass(frozen=True)
class _Training:
    """Early badness of one training in SDs, and its final gain minus the smallest relevant difference."""

    badness: float
    excess: float

    @property
    def gained(self) -> bool:
        return self.excess > 0


def _read(points: Sequence[Point], task: str, step: int, number: EarlyNumber) -> dict[str, _Training]:
    """Trainings of a task whose numbers all exist, by model."""

    def get_badness(cell: Cell) -> float | None:
        probe = next((probe for probe in cell.probes if probe.step == step), None)
        if probe is None:
            return None
        if number == "shift":
            return probe.shift.value
        return -probe.validation_score if cell.metric.higher_is_better else probe.validation_score

    values = {
        point.model: (badness, gain - point.cells[0].metric.smallest_difference)
        for point in points
        if point.task == task
        and (badness := point.mean(get_badness)) is not None
        and (gain := point.mean(get_gain_difference)) is not None
    }
    badness_M = np.array([badness for badness, _ in values.values()])
    sd = float(badness_M.std()) if values else 0.0
    return {
        model: _Training(badness=(badness - float(badness_M.mean())) / sd if sd > 0 else 0.0, excess=excess)
        for model, (badness, excess) in values.items()
    }


def _evaluate(numbers: Mapping[str, Mapping[str, _Training]], number: EarlyNumber, step: int) -> StoppingRule:
    tasks = tuple(_hold_out(numbers, task) for task in numbers)
    trainings, gained, stopped, missed = (
        sum(len(getattr(task, name)) for task in tasks) for name in ("models", "gained", "stopped", "missed")
    )
    best_stopped = sum(task.best in task.stopped for task in tasks)
    by_chance = math.fsum(len(task.stopped) * len(task.gained) / len(task.models) for task in tasks)
    sentence = (
        f"{RULES[number]}: stops {stopped} of {trainings} trainings; {missed} of the {gained} that gained are among "
        f"them ({by_chance:.1f} expected at random), and the best model in {best_stopped} of {len(tasks)} tasks"
    )
    return StoppingRule(
        number=number,
        step=step,
        tasks=tasks,
        trainings=trainings,
        gained=gained,
        stopped=stopped,
        missed=missed,
        miss_rate=estimate_share(missed, gained),
        best_stopped=best_stopped,
        best_stopped_rate=estimate_share(best_stopped, len(tasks)),
        missed_by_chance=by_chance,
        sentence=sentence,
    )


def _hold_out(numbers: Mapping[str, Mapping[str, _Training]], held_out: str) -> HeldOutTask:
    """Fits the threshold on all other tasks and applies it to one."""
    threshold = max(
        (
            training.badness
            for task, others in numbers.items()
            if task != held_out
            for training in others.values()
            if training.gained
        ),
        default=None,
    )
    trainings = numbers[held_out]
    return HeldOutTask(
        task=held_out,
        threshold=threshold,
        models=tuple(trainings),
        gained=tuple(model for model, training in trainings.items() if training.gained),
        stopped=tuple(
            model
            for model, training in trainings.items()
            if threshold is not None and training.badness > threshold + _TIE
        ),
        best=max(trainings, key=lambda model: trainings[model].excess),
    )


def estimate_share(count: int, total: int) -> Estimate:
    """A share with its exact 95 % interval (Clopper and Pearson, Biometrika 26, 1934); absent if the total is 0."""
    if not total:
        return absent("no training gained")
    tail = (1 - _LEVEL) / 2
    lower = float(scipy.special.betaincinv(count, total - count + 1, tail)) if count else 0.0
    upper = float(scipy.special.betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return Estimate(
        value=count / total,
        interval=Interval(lower=lower, upper=upper, level=_LEVEL, method=_METHOD),
    )
