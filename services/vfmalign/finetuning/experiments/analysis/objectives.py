"""One architecture pretrained with two objectives: the comparison that isolates the objective from the network.

Knows points. Knows nothing of HTML.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import scipy

from vfmalign.core.domain.artifacts import Record
from vfmalign.finetuning.analysis.estimates import Estimate, absent
from vfmalign.finetuning.experiments.analysis.cells import Cell
from vfmalign.finetuning.experiments.analysis.points import SHIFT, Point, gain_of, names, share_of_steps, signs

MIN_TASKS = 6
"""Tasks from which a sign test can reach p < 0.05: 2 · 0.5⁶ = 0.031."""


class Difference(Record):
    """Masked reconstruction less contrastive, in one task; None where either has no number.

    Attributes:
        marks: signs of what a reader must know of either.
    """

    task: str
    shift: float | None
    gain: float | None
    convergence: float | None
    marks: str


class Signs(Record):
    """In how many tasks a difference is above, below and at zero, and how likely chance gives as lopsided a count."""

    above: int
    below: int
    ties: int
    p_value: Estimate


class ObjectivePair(Record):
    """Two models that differ in how they were pretrained.

    Attributes:
        less_moved_gained_more: tasks in which the model that moved less gained more, of `both_known` tasks.
    """

    architecture: str
    masked: str
    contrastive: str
    rows: tuple[Difference, ...]
    shift: Signs
    gain: Signs
    convergence: Signs
    less_moved_gained_more: int
    both_known: int


def compare_objectives(points: Sequence[Point]) -> tuple[ObjectivePair, ...]:
    """Every pair of one architecture with one model of either objective."""
    kinds = {point.model: (point.cells[0].architecture, point.cells[0].objective) for point in points}
    return tuple(
        _pair(points, masked, contrastive, architecture)
        for masked, (architecture, objective) in sorted(kinds.items())
        if objective == "masked_reconstruction"
        for contrastive, other in sorted(kinds.items())
        if other == (architecture, "contrastive")
    )


def _pair(points: Sequence[Point], masked: str, contrastive: str, architecture: str) -> ObjectivePair:
    at = {(point.model, point.task): point for point in points}
    rows = []
    for task in names(points, "task"):
        one, other = at.get((masked, task)), at.get((contrastive, task))
        if one is None or other is None:
            continue
        rows.append(
            Difference(
                task=task,
                shift=_difference(one, other, SHIFT.of),
                gain=_difference(one, other, gain_of),
                convergence=_difference(one, other, share_of_steps),
                marks="".join(dict.fromkeys(signs(one.marks) + signs(other.marks))),
            )
        )
    known = [(row.shift, row.gain) for row in rows if row.shift is not None and row.gain is not None]
    return ObjectivePair(
        architecture=architecture,
        masked=masked,
        contrastive=contrastive,
        rows=tuple(rows),
        shift=count_signs([row.shift for row in rows]),
        gain=count_signs([row.gain for row in rows]),
        convergence=count_signs([row.convergence for row in rows]),
        less_moved_gained_more=sum(shift * gain < 0 for shift, gain in known),
        both_known=len(known),
    )


def count_signs(values: Sequence[float | None]) -> Signs:
    """The signs, and the exact two-sided sign test over those that are not zero."""
    known = [value for value in values if value is not None]
    above, below = sum(value > 0 for value in known), sum(value < 0 for value in known)
    if above + below < MIN_TASKS:
        p_value = absent(f"{above + below} tasks differ: a sign test needs at least {MIN_TASKS}")
    else:
        p_value = Estimate(value=float(scipy.stats.binomtest(above, above + below).pvalue))
    return Signs(above=above, below=below, ties=len(known) - above - below, p_value=p_value)


def _difference(one: Point, other: Point, of: Callable[[Cell], float | None]) -> float | None:
    """Absent where either is absent or censored: an unknown larger number has no difference."""
    mine, theirs = one.mean(of), other.mean(of)
    if mine is None or theirs is None or not (math.isfinite(mine) and math.isfinite(theirs)):
        return None
    return mine - theirs
