"""Results of one cell of an experiment: one model, fine-tuned for one task with one seed.

A cell is built from the report of its finished check. The cell includes the scores of the test cases. From these
scores, the experiment computes its intervals over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import scipy
from pydantic import Field

from vfmalign.analysis.checks.records import CheckAnalysis, CheckReport
from vfmalign.analysis.checks.shift import is_saturated
from vfmalign.analysis.checks.verdict import Verdict
from vfmalign.client.messages.checks import Curve, Steps
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.core.domain.errors import InvalidInput
from vfmalign.core.domain.jobs import CaseScore, MetricSpec, Network
from vfmalign.core.domain.models import ModelCard, Objective
from vfmalign.core.domain.record import Record
from vfmalign.core.domain.scores import aggregate_scores

GAIN_NETWORKS: tuple[Network, ...] = ("pretrained", "specialised", "scratch")
"""Networks that the gains compare by their test scores, the model first."""


ControlName = Literal["shuffled_labels", "between_seeds"]
"""Controls of a cell: MMD² between the features before and after fine-tuning on shuffled labels, and MMD² between the
features after fine-tuning with two seeds."""


class Flags(Record):
    """Flags that warn about the numbers of a cell.

    Attributes:
        not_beaten: the fine-tuned model does not beat the naive baseline on the test cases.
        saturated: MMD² no longer grows with distance.
        degenerate: the interval of the shift is unreliable.
        not_held_out: the same case is in several splits.
    """

    not_beaten: bool = False
    saturated: bool = False
    degenerate: bool = False
    not_held_out: bool = False


class Cell(Record):
    """Results of one model, task and seed.

    Attributes:
        check_id: the check.
        phantom: the cases are generated and do not come from patients.
        leakage_known: the model card lists the pretraining data.
        licence: SPDX id of the licence of the model; empty if unknown.
        naive_baseline: description of the prediction that uses no network.
        metric: main metric of the task.
        layer: primary layer; every shift of the cell is measured on it.
        patients: number of patients in the test split.
        shift: MMD² of standardised features, with the interval from the check.
        shift_se: jackknife standard error of the shift; None if the check computed none.
        shift_ratio: shift divided by the shift to random weights.
        gain: relative gain over the specialised network, in per cent; absent if the baseline scores below the metric's
            floor.
        gain_difference: gain in the metric's unit; positive if the fine-tuned model is better.
        scratch_difference: gain over the same architecture with random weights, in the metric's unit; None in results
            of older versions, which did not compute this gain.
        gain_scratch: relative gain over the same architecture with random weights, in per cent.
        verdict, pretraining: answers of the check; `pretraining` is None if the check did not assess it.
        score: test score of the fine-tuned model.
        baseline: test score of the specialised network.
        steps_to_95: number of optimiser steps until the model reached 95 % of its own rise.
        budget: number of optimiser steps of the whole training.
        shift_variants: maps the name of each variant to its MMD². A variant changes the layer, bandwidth, scaling or
            channels.
        controls: maps the name of each control to its MMD². A control measures a shift that is not due to the task.
        scores: maps each network to its values of the main metric on the test cases.
        train_cases: requested number of training cases; 0 for all.
        subset_size: number of training cases that all networks used; 0 for all.
        subset_sha256: SHA-256 of the sorted ids of these cases as canonical JSON, in hex; empty for all.
        frozen_scores: values of the main metric of the model with a frozen encoder on the test cases; empty if it was
            not trained with a frozen encoder.
    """

    model_id: str
    task: str
    seed: int
    check_id: str
    architecture: str
    objective: Objective
    phantom: bool
    leakage_known: bool
    flags: Flags
    naive_baseline: str
    metric: MetricSpec
    layer: str
    patients: int
    shift: Estimate
    shift_se: float | None
    shift_ratio: Estimate
    gain: Estimate
    gain_difference: Estimate
    gain_scratch: Estimate
    scratch_difference: Estimate | None = None
    verdict: Verdict
    pretraining: Verdict | None = None
    score: float | None
    baseline: float | None
    steps_to_95: Steps
    budget: int
    weight_change: float | None
    measures: dict[str, Estimate]
    shift_variants: dict[str, Estimate] = Field(default_factory=dict)
    controls: dict[ControlName, Estimate] = Field(default_factory=dict)
    curves: tuple[Curve, ...]
    scores: dict[Network, tuple[CaseScore, ...]]
    # Left out by default, so that reports of earlier versions keep their digests.
    licence: str = Field(default="", exclude_if=lambda licence: not licence)
    train_cases: int = Field(default=0, exclude_if=lambda count: not count)
    subset_size: int = Field(default=0, exclude_if=lambda size: not size)
    subset_sha256: str = Field(default="", exclude_if=lambda digest: not digest)
    frozen_scores: tuple[CaseScore, ...] = Field(default=(), exclude_if=lambda scores: not scores)

    @property
    def frozen_score(self) -> float | None:
        """The test score of the model with a frozen encoder; None without one."""
        return aggregate_scores(self.metric, self.frozen_scores) if self.frozen_scores else None


class MissingCell(Record):
    """A cell without results, and the reason."""

    model_id: str
    task: str
    seed: int
    check_id: str
    reason: str
    train_cases: int = Field(default=0, exclude_if=lambda count: not count)


def make_cell(
    card: ModelCard,
    report: CheckReport,
    scores: Mapping[Network, Sequence[CaseScore]],
    *,
    check: str,
    task: str,
    seed: int,
    controls: Mapping[ControlName, Estimate] = MappingProxyType({}),
    train_cases: int = 0,
    frozen_scores: Sequence[CaseScore] = (),
) -> Cell:
    """Builds the cell from a finished check.

    Args:
        card: card of the model that was fine-tuned.
        report: report of the check.
        scores: maps each network to its metrics on the test cases.
        check: id of the check.
        task: task for which the model was fine-tuned.
        seed: seed of the training.
        controls: Maps the name of each control of this cell to the MMD² of the primary layer.
        train_cases: requested number of training cases; 0 for all.
        frozen_scores: metrics of the model with a frozen encoder on the test cases, if it was trained with one.

    Raises:
        InvalidInput: a network has no scores for the gain, or the report belongs to another task.
    """
    result = report.result
    _check_source(result, scores, check, task)
    pretrained = result.network("pretrained")
    shift, layer = get_primary_shift(result), result.shift.primary_layer
    return Cell(
        model_id=card.id,
        task=task,
        seed=seed,
        check_id=check,
        architecture=card.architecture,
        objective=card.objective,
        phantom=result.phantom,
        leakage_known=result.leakage_known,
        licence=card.licence,
        flags=_get_flags(result),
        naive_baseline=result.naive_baseline.prediction,
        metric=result.metric,
        layer=layer,
        patients=result.test_groups,
        shift=shift,
        shift_se=standard_error(shift, result.shift.groups),
        shift_ratio=result.shift_ratio.get(layer) or absent("the check formed no shift ratio"),
        gain=result.rpg_specialised.relative_percent,
        gain_difference=result.rpg_specialised.absolute,
        gain_scratch=result.rpg_scratch.relative_percent,
        scratch_difference=result.rpg_scratch.absolute,
        verdict=result.verdict,
        pretraining=result.pretraining,
        score=result.rpg_specialised.score,
        baseline=result.rpg_specialised.baseline,
        steps_to_95=pretrained.convergence.steps_to_95,
        budget=pretrained.convergence.steps,
        weight_change=pretrained.weight_change,
        measures=dict(result.measures),
        shift_variants=get_shift_variants(card, result),
        controls=dict(controls),
        curves=tuple(network.to_curve() for network in result.networks),
        scores={
            name: tuple(_select_metric(result.metric.name, score) for score in scores[name]) for name in GAIN_NETWORKS
        },
        train_cases=train_cases,
        subset_size=int(result.settings.get("train_cases", 0)),
        subset_sha256=result.settings.get("train_cases_sha256", ""),
        frozen_scores=tuple(_select_metric(result.metric.name, score) for score in frozen_scores),
    )


def _check_source(result: CheckAnalysis, scores: Mapping[Network, Sequence[CaseScore]], check: str, task: str) -> None:
    if result.task != task:
        raise InvalidInput(f"check {check} is of {result.task}, not of {task}", field="task")
    if missing := [network for network in GAIN_NETWORKS if network not in scores]:
        raise InvalidInput(f"check {check} has no test scores of {', '.join(missing)}", field="scores")


def _get_flags(result: CheckAnalysis) -> Flags:
    shift = get_primary_shift(result)
    return Flags(
        not_beaten=result.naive_baseline.not_beaten,
        saturated=is_saturated(result.paired_similarity[result.shift.primary_layer]),
        degenerate=shift.interval is not None and shift.interval.degenerate,
        not_held_out=not result.held_out,
    )


def get_primary_shift(result: CheckAnalysis) -> Estimate:
    """MMD² of the primary layer on standardised features."""
    standardised = result.shift.get_layer(result.shift.primary_layer).standardised
    return absent("the features could not be standardised") if standardised is None else standardised.mmd2


def get_shift_variants(card: ModelCard, result: CheckAnalysis) -> dict[str, Estimate]:
    """Returns MMD² for variants that each change one choice: the layer, the bandwidth, the scaling or the channels.

    Layers of different architectures have different names and are therefore selected by their place in the network.
    """
    shift = result.shift
    primary = shift.get_layer(shift.primary_layer)
    names = [layer.name for layer in card.layers if layer.name in {one.layer for one in shift.layers}]
    no_scale = absent("the features could not be standardised")
    variants = {"raw": primary.raw.mmd2}
    if primary.top_channels is not None:
        variants["without_top_channels"] = primary.top_channels.shift_without.mmd2
    for factor, name in (("0.5", "half_bandwidth"), ("2", "double_bandwidth")):
        variants[name] = result.shift_by_bandwidth[factor]
    for name, place in (("first_layer", 0), ("middle_layer", len(names) // 2), ("last_layer", len(names) - 1)):
        if names:
            standardised = shift.get_layer(names[place]).standardised
            variants[name] = no_scale if standardised is None else standardised.mmd2
    return variants


def standard_error(shift: Estimate, groups: int) -> float | None:
    """Recovers the jackknife standard error from an interval: Student's t with `groups` − 1 degrees of freedom."""
    interval = shift.interval
    if interval is None or groups < 2:
        return None
    return (interval.upper - interval.lower) / 2 / float(scipy.special.stdtrit(groups - 1, 0.5 + interval.level / 2))


def _select_metric(metric: str, score: CaseScore) -> CaseScore:
    return score.model_copy(update={"values": {metric: score.values.get(metric)}})
