"""Pairs of models that differ only in their pretraining objective, to isolate the effect of the objective."""

from __future__ import annotations

import math
from collections.abc import Sequence

import scipy

from vfmalign.analysis.experiments.points import (
    SHIFT,
    GetNumber,
    Point,
    flag_symbols,
    get_gain,
    get_step_share,
    list_tasks,
)
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.core.domain.record import Record

MIN_TASKS = 6
"""Minimum number of tasks for a sign test to reach p < 0.05: 2 · 0.5⁶ = 0.031."""


class ObjectiveDifference(Record):
    """Difference of a number in one task: masked model minus contrastive model.

    The difference is None if either number is absent.

    Attributes:
        flags: symbols of the flags that either model has.
    """

    task: str
    shift: float | None
    gain: float | None
    convergence: float | None
    flags: str


class SignTest(Record):
    """Exact sign test: the numbers of positive, negative and zero differences, and the p-value."""

    above: int
    below: int
    ties: int
    p_value: Estimate


class ObjectivePair(Record):
    """Comparison of two models that differ in their pretraining objective.

    Attributes:
        masked: model pretrained by masked reconstruction.
        contrastive: model pretrained by contrastive learning.
        rows: differences by task.
        less_moved_gained_more: number of tasks in which the model with the smaller shift has the larger gain.
        both_known: number of tasks in which both models have a shift and a gain.
    """

    architecture: str
    masked: str
    contrastive: str
    rows: tuple[ObjectiveDifference, ...]
    shift: SignTest
    gain: SignTest
    convergence: SignTest
    less_moved_gained_more: int
    both_known: int


def compare_objectives(points: Sequence[Point]) -> tuple[ObjectivePair, ...]:
    """Compares all pairs of models that share an architecture and differ in their objective."""
    kinds = {point.model_id: (point.cells[0].architecture, point.cells[0].objective) for point in points}
    return tuple(
        _compare_pair(points, masked, contrastive, architecture)
        for masked, (architecture, objective) in sorted(kinds.items())
        if objective == "masked_reconstruction"
        for contrastive, kind in sorted(kinds.items())
        if kind == (architecture, "contrastive")
    )


def _compare_pair(points: Sequence[Point], masked: str, contrastive: str, architecture: str) -> ObjectivePair:
    by_key = {(point.model_id, point.task): point for point in points}
    rows = []
    for task in list_tasks(points):
        minuend, subtrahend = by_key.get((masked, task)), by_key.get((contrastive, task))
        if minuend is None or subtrahend is None:
            continue
        rows.append(
            ObjectiveDifference(
                task=task,
                shift=_subtract(minuend, subtrahend, SHIFT.get),
                gain=_subtract(minuend, subtrahend, get_gain),
                convergence=_subtract(minuend, subtrahend, get_step_share),
                flags="".join(dict.fromkeys(flag_symbols(minuend.flags) + flag_symbols(subtrahend.flags))),
            )
        )
    known = [(row.shift, row.gain) for row in rows if row.shift is not None and row.gain is not None]
    return ObjectivePair(
        architecture=architecture,
        masked=masked,
        contrastive=contrastive,
        rows=tuple(rows),
        shift=run_sign_test([row.shift for row in rows]),
        gain=run_sign_test([row.gain for row in rows]),
        convergence=run_sign_test([row.convergence for row in rows]),
        less_moved_gained_more=sum(shift * gain < 0 for shift, gain in known),
        both_known=len(known),
    )


def run_sign_test(differences: Sequence[float | None]) -> SignTest:
    """Runs an exact two-sided sign test over the differences that are not zero."""
    known = [difference for difference in differences if difference is not None]
    above, below = sum(value > 0 for value in known), sum(value < 0 for value in known)
    if above + below < MIN_TASKS:
        p_value = absent(f"{above + below} tasks differ: a sign test needs at least {MIN_TASKS}")
    else:
        p_value = Estimate(value=float(scipy.stats.binomtest(above, above + below).pvalue))
    return SignTest(above=above, below=below, ties=len(known) - above - below, p_value=p_value)


def _subtract(minuend: Point, subtrahend: Point, get: GetNumber) -> float | None:
    """Difference of the means; None if either is absent, or censored and therefore unknown."""
    first, second = minuend.mean(get), subtrahend.mean(get)
    if first is None or second is None or not (math.isfinite(first) and math.isfinite(second)):
        return None
    return first - second
