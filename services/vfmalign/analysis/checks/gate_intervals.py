"""Applies a gate to the result of a check: reads the intervals of the result, and evaluates the gate on them."""

from __future__ import annotations

from vfmalign.analysis.checks.gates import (
    QUANTITIES,
    Decision,
    Gate,
    ObservedInterval,
    VerdictDecision,
    evaluate_gate,
    evaluate_verdict,
)
from vfmalign.client.messages.checks import CheckResult, Gain, LayerShift
from vfmalign.client.messages.common import Estimate
from vfmalign.client.messages.mmd import ShiftResult
from vfmalign.core.domain.patients import MIN_FOR_CLAIM, MIN_SEEDS
from vfmalign.core.formats.documents import pluralise

DEGENERATE = "degenerate interval: the test does not reject, and the coverage is unreliable"
BELOW_ERROR_BOUND = "below the error bound: MMD² is smaller than its rounding error"
SATURATED = "saturated: MMD² no longer grows with the distance. Features moved far; MMD² does not say how far"


def evaluate(gate: Gate, result: CheckResult | None) -> tuple[tuple[VerdictDecision, ...], tuple[Decision, ...]]:
    """Evaluates the verdicts and the conditions of a gate. Without a result, all of them are undecidable."""
    verdicts = tuple(
        evaluate_verdict(
            accepted,
            None if result is None else getattr(result, question),
            seeds=0 if result is None else count_seeds(result),
            question=question,
        )
        for question, accepted in gate.accepted.items()
    )
    return verdicts, evaluate_gate(gate.conditions, {} if result is None else observe(result))


def observe(result: CheckResult) -> dict[str, ObservedInterval]:
    """Returns the interval of every quantity that a condition may name. With insufficient training, all are absent."""
    if result.verdict == "insufficient_training":
        return dict.fromkeys(QUANTITIES, ObservedInterval(absent_reason=result.verdict_reason))
    observed = {}
    for name, gain in (("specialised", result.rpg_specialised), ("scratch", result.rpg_scratch)):
        limit = _explain_limit(result, gain)
        if name == "scratch" and result.pretraining is None:  # nor does the interval cover another draw
            limit = limit or "the check did not assess whether pretraining helps: run it again"
        for prefix, estimate in (("rpg", gain.relative_percent), ("difference", gain.absolute)):
            interval = ObservedInterval(absent_reason=limit) if limit else _to_observed(estimate)
            observed[f"{prefix}_{name}"] = interval
    summaries = {} if result.seed_variation is None else {one.layer: one for one in result.seed_variation.layers}
    for layer in result.shifts:
        if layer.mmd.layer == result.primary_layer:
            observed["mmd2"] = _observe_shift(layer.mmd.raw, layer)
            observed["mmd2_std"] = ObservedInterval(absent_reason="the check has no standardised features")
            if layer.mmd.standardised is not None:
                observed["mmd2_std"] = _observe_shift(layer.mmd.standardised, layer)
            if (summary := summaries.get(result.primary_layer)) is not None:  # the intervals cover all seeds
                observed["mmd2"] = _to_observed(summary.raw.mean, *observed["mmd2"].remarks)
                if summary.standardised is not None:
                    observed["mmd2_std"] = _to_observed(summary.standardised.mean, *observed["mmd2_std"].remarks)
    return observed


def _explain_limit(result: CheckResult, gain: Gain) -> str:
    """Returns why the interval of a gain cannot be gated; empty if it can."""
    if (seeds := count_seeds(result)) < MIN_SEEDS:
        return f"{pluralise(seeds, 'training')} of each network: a gate needs {MIN_SEEDS} training seeds"
    if (patients := gain.smaller_class or gain.groups) < MIN_FOR_CLAIM:
        return f"{pluralise(patients, 'test patient')}: a gate on a gain needs at least {MIN_FOR_CLAIM}"
    return ""


def count_seeds(result: CheckResult) -> int:
    """Returns the number of training seeds of a check."""
    return max(1, len(result.seeds))


def _observe_shift(shift: ShiftResult, layer: LayerShift) -> ObservedInterval:
    remarks = [SATURATED] if layer.saturated else []
    if shift.below_error_bound:
        remarks.append(BELOW_ERROR_BOUND)
    return _to_observed(shift.mmd2, *remarks)


def _to_observed(estimate: Estimate, *remarks: str) -> ObservedInterval:
    interval = estimate.interval
    if estimate.value is None or interval is None:
        return ObservedInterval(absent_reason=estimate.absent_reason, remarks=remarks)
    degenerate = (DEGENERATE,) if interval.degenerate else ()
    return ObservedInterval(interval.lower, interval.upper, interval.level, remarks=(*degenerate, *remarks))
