"""Applies a gate to a check: reads the intervals of the check, and shows the outcome as a table or as JSON values."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from vfmalign.cli.gates import QUANTITIES, QUESTIONS, Decision, ObservedInterval, Outcome, VerdictDecision, passed
from vfmalign.cli.views.tables import BELOW_ERROR_BOUND, DEGENERATE, SATURATED, new_table
from vfmalign.client.formatting import ABSENT
from vfmalign.client.messages.checks import CheckResult, Gain, LayerShift
from vfmalign.client.messages.common import Estimate
from vfmalign.client.messages.mmd import ShiftResult
from vfmalign.core.domain.patients import MIN_FOR_CLAIM, MIN_SEEDS
from vfmalign.core.formats.documents import pluralise

_STYLES = {Outcome.PASSED: "green", Outcome.FAILED: "bold red", Outcome.UNDECIDABLE: "bold yellow"}


def observe(result: CheckResult) -> dict[str, ObservedInterval]:
    """Returns the interval of every quantity that a condition may name.

    With insufficient training, all intervals are absent.
    """
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


def gate_to_json_dict(
    verdicts: Sequence[VerdictDecision], decisions: Sequence[Decision], cautions: Sequence[str]
) -> dict[str, object]:
    """Returns the outcome of a gate as JSON values. A question is null if the gate accepts any verdict for it."""
    by_question = {verdict.question: verdict for verdict in verdicts}
    return {
        "passed": passed([*verdicts, *decisions]),
        **{
            question: {"accepted": list(one.accepted), "observed": one.observed, "outcome": one.outcome.value}
            if (one := by_question.get(question)) is not None
            else None
            for question in QUESTIONS
        },
        "conditions": [
            {
                "name": decision.condition.name,
                "operator": decision.condition.operator,
                "threshold": decision.condition.threshold,
                "observed": decision.observed,
                "level": decision.level,
                "outcome": decision.outcome.value,
                "remarks": list(decision.remarks),
            }
            for decision in decisions
        ],
        "cautions": list(cautions),
    }


def show_gate(
    verdicts: Sequence[VerdictDecision], decisions: Sequence[Decision], cautions: Sequence[str]
) -> list[RenderableType]:
    """Returns the outcome of a gate for a terminal: one line per condition, with remarks on its meaning."""
    gate_passed = passed([*verdicts, *decisions])
    lines: list[RenderableType] = [""]
    lines += [
        Text.assemble(
            f"{verdict.question.capitalize()} {verdict.observed or ABSENT}, must be {' or '.join(verdict.accepted)}: ",
            (verdict.outcome.value, _STYLES[verdict.outcome]),
        )
        for verdict in verdicts
    ]
    table = new_table("Gate", "interval end", "must be", "is", "outcome", "remarks", numbers=["must be", "is"])
    for decision in decisions:
        condition = decision.condition
        table.add_row(
            condition.name,
            f"{condition.operator} {condition.threshold:g}",
            ABSENT if decision.observed is None else f"{decision.observed:g}",
            Text(decision.outcome.value, style=_STYLES[decision.outcome]),
            "; ".join(decision.remarks),
        )
    levels = {f"{100 * decision.level:g} %" for decision in decisions if decision.level is not None}
    intervals = f" (ends of {' and '.join(sorted(levels))} intervals)" if levels else ""
    style = _STYLES[Outcome.PASSED if gate_passed else Outcome.FAILED]
    lines += [table] if decisions else []
    lines.append(Text.assemble("The gate ", ("passed" if gate_passed else "failed", style), f"{intervals}."))
    # The table of the check, above, has the cautions in full.
    titles = [caution.partition(". ")[0] for caution in cautions]
    return lines + ([Text(f"! {'; '.join(titles)}: see above.", style="yellow")] if titles else [])


def _observe_shift(shift: ShiftResult, layer: LayerShift) -> ObservedInterval:
    remarks = [_without_mark(SATURATED)] if layer.saturated else []
    if shift.below_error_bound:
        remarks.append(_without_mark(BELOW_ERROR_BOUND))
    return _to_observed(shift.mmd2, *remarks)


def _to_observed(estimate: Estimate, *remarks: str) -> ObservedInterval:
    interval = estimate.interval
    if estimate.value is None or interval is None:
        return ObservedInterval(absent_reason=estimate.absent_reason, remarks=remarks)
    degenerate = (_without_mark(DEGENERATE),) if interval.degenerate else ()
    return ObservedInterval(interval.lower, interval.upper, interval.level, remarks=(*degenerate, *remarks))


def _without_mark(remark: str) -> str:
    """Removes the mark and the full stop of a remark below a table."""
    return remark[2:].rstrip(".")
