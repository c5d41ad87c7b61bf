"""The numbers of one cell of an experiment: one model, fine-tuned for one task with one seed.

Knows how they are read off a finished check, and keeps the scores of its test cases, which the experiment's bootstrap
resamples. Knows nothing of S3, databases or of how cells are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import scipy

from vfmalign.core.domain.artifacts import CaseScore, MetricSpec, ModelCard, Network, Objective, Record
from vfmalign.core.domain.errors import InvalidInput
from vfmalign.finetuning.analysis.convergence import Steps
from vfmalign.finetuning.analysis.estimates import Estimate, absent
from vfmalign.finetuning.analysis.records import CheckReport, CheckResult, CurvePoint, Probe, is_saturated

RESAMPLED: tuple[Network, ...] = ("pretrained", "specialised")
"""Networks whose test scores form the experiment's gain."""


class Marks(Record):
    """What a reader must know of a cell before its numbers.

    Attributes:
        not_beaten: the fine-tuned model does not beat the naive baseline on the test cases.
        saturated: MMD² is near the most it can be: it tells that features moved far, not how far.
        degenerate: the shift's interval is not to be relied on.
        not_held_out: the same case stands in several splits.
    """

    not_beaten: bool = False
    saturated: bool = False
    degenerate: bool = False
    not_held_out: bool = False


class Curve(Record):
    """One network's learning curve on the validation cases."""

    network: Network
    points: tuple[CurvePoint, ...]
    selected_step: int


class Cell(Record):
    """One model, one task, one seed.

    Attributes:
        check: id of the check that measured it.
        phantom: the cases are generated, not patients.
        leakage_known: the model card says what the model was pretrained on.
        naive_baseline: what is predicted without any network, in words; empty where the check did not say.
        metric: the task's main number.
        layer: the primary layer, which every shift here is of.
        patients: of the test split.
        shift: MMD² of standardised features, with the check's interval.
        shift_se: its jackknife standard error; None where the check formed none.
        shift_ratio: in units of the shift to random weights.
        gain: over the specialised network, in per cent; absent under the metric's floor.
        gain_difference: the same in the metric's unit, above zero is better.
        gain_scratch: over the same architecture with random weights, in per cent.
        score, baseline: test scores of the fine-tuned model and of the specialised network.
        steps_to_95: optimiser steps to 95 % of the own rise.
        budget: optimiser steps of the whole training.
        scores: of the test cases, by network, the main metric alone.
    """

    model: str
    task: str
    seed: int
    check: str
    architecture: str
    objective: Objective
    phantom: bool
    leakage_known: bool
    marks: Marks
    naive_baseline: str = ""
    metric: MetricSpec
    layer: str
    patients: int
    shift: Estimate
    shift_se: float | None
    shift_ratio: Estimate
    gain: Estimate
    gain_difference: Estimate
    gain_scratch: Estimate
    score: float | None
    baseline: float | None
    steps_to_95: Steps
    budget: int
    weight_change: float | None
    measures: dict[str, Estimate]
    probes: tuple[Probe, ...]
    curves: tuple[Curve, ...]
    scores: dict[Network, tuple[CaseScore, ...]]


class Missing(Record):
    """A cell of which the experiment has no numbers, and why."""

    model: str
    task: str
    seed: int
    check: str
    reason: str


def cell_of(
    card: ModelCard,
    report: CheckReport,
    scores: Mapping[Network, Sequence[CaseScore]],
    *,
    check: str,
    task: str,
    seed: int,
) -> Cell:
    """The cell that a finished check measured.

    Args:
        card: of the model that was fine-tuned.
        report: of the check.
        scores: each network's metrics of the test cases.
        check: id of the check.
        task: what the model was fine-tuned for.
        seed: of the training.

    Raises:
        InvalidInput: the scores of a network that forms the gain are not there, or the report is of another task.
    """
    result = report.result
    if result.task != task:
        raise InvalidInput(f"check {check} is of {result.task}, not of {task}", field="task")
    if absent_ones := [network for network in RESAMPLED if network not in scores]:
        raise InvalidInput(f"check {check} has no test scores of {', '.join(absent_ones)}", field="scores")
    metric = next(metric for metric in result.metrics if metric.name == result.primary_metric)
    main = result.network("pretrained")
    shift = shift_of(result)
    layer = result.shift.primary_layer
    return Cell(
        model=card.id,
        task=task,
        seed=seed,
        check=check,
        architecture=card.architecture,
        objective=card.objective,
        phantom=result.phantom,
        leakage_known=result.leakage_known,
        marks=Marks(
            not_beaten=result.naive_baseline is not None and result.naive_baseline.not_beaten,
            saturated=is_saturated(result.get_paired_similarity(layer)),
            degenerate=shift.interval is not None and shift.interval.degenerate,
            not_held_out=not result.held_out,
        ),
        naive_baseline=result.naive_baseline.prediction if result.naive_baseline is not None else "",
        metric=metric,
        layer=layer,
        patients=result.test_groups,
        shift=shift,
        shift_se=standard_error(shift, result.shift.groups),
        shift_ratio=result.shift_ratio.get(layer) or absent("the check formed no shift ratio"),
        gain=result.rpg_specialised.relative,
        gain_difference=result.rpg_specialised.difference,
        gain_scratch=result.rpg_scratch.relative,
        score=result.rpg_specialised.score,
        baseline=result.rpg_specialised.baseline,
        steps_to_95=main.convergence.steps_to_95,
        budget=main.convergence.budget,
        weight_change=main.weight_change,
        measures=dict(result.measures),
        probes=result.probes,
        curves=tuple(
            Curve(network=one.network, points=one.curve, selected_step=one.selected_step) for one in result.networks
        ),
        scores={network: tuple(_only(metric.name, score) for score in scores[network]) for network in RESAMPLED},
    )


def shift_of(result: CheckResult) -> Estimate:
    """The primary layer's MMD² of standardised features."""
    standardised = result.shift.layer(result.shift.primary_layer).standardised
    return absent("the features could not be standardised") if standardised is None else standardised.mmd2


def standard_error(shift: Estimate, groups: int) -> float | None:
    """The jackknife's standard error, from the interval that was made of it with Student's t at `groups` − 1."""
    interval = shift.interval
    if interval is None or groups < 2:
        return None
    return (interval.upper - interval.lower) / 2 / float(scipy.special.stdtrit(groups - 1, 0.5 + interval.level / 2))


def _only(metric: str, score: CaseScore) -> CaseScore:
    return score.model_copy(update={"values": {metric: score.values.get(metric)}})
