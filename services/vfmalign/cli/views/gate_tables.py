"""A gate beside a check: the intervals that its conditions compare, and its outcome as a table and as JSON values."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from vfmalign.cli.gates import QUANTITIES, Decision, ObservedInterval, Outcome, VerdictDecision, passed
from vfmalign.cli.views.tables import BELOW_ERROR_BOUND, DEGENERATE, SATURATED, new_table
from vfmalign.client.formatting import ABSENT
from vfmalign.client.messages.checks import CheckResult, LayerShift
from vfmalign.client.messages.common import Estimate
from vfmalign.client.messages.mmd import ShiftResult

_STYLES = {Outcome.PASSED: "green", Outcome.FAILED: "bold red", Outcome.UNDECIDABLE: "bold yellow"}


def observe(result: CheckResult) -> dict[str, ObservedInterval]:
    """Returns the interval of every quantity that a condition may name; no interval of a mere rehearsal counts."""
    if result.verdict == "insufficient_training":
        return dict.fromkeys(QUANTITIES, ObservedInterval(absent_reason=result.verdict_reason))
    observed = {
        "rpg_specialised": _to_observed(result.rpg_specialised.relative_percent),
        "rpg_scratch": _to_observed(result.rpg_scratch.relative_percent),
        "difference_specialised": _to_observed(result.rpg_specialised.absolute),
        "difference_scratch": _to_observed(result.rpg_scratch.absolute),
    }
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


def gate_to_json_dict(
    verdict: VerdictDecision | None, decisions: Sequence[Decision], cautions: Sequence[str]
) -> dict[str, object]:
    """Returns the outcome of a gate as JSON values; `verdict` is null where any verdict is accepted."""
    return {
        "passed": passed([*_to_list(verdict), *decisions]),
        "verdict": None
        if verdict is None
        else {"accepted": list(verdict.accepted), "observed": verdict.observed, "outcome": verdict.outcome.value},
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
    verdict: VerdictDecision | None, decisions: Sequence[Decision], cautions: Sequence[str]
) -> list[RenderableType]:
    """Returns the outcome of a gate for a terminal: one line per condition, with the limits of its meaning."""
    gate_passed = passed([*_to_list(verdict), *decisions])
    lines: list[RenderableType] = [""]
    if verdict is not None:
        lines.append(
            Text.assemble(
                f"Verdict {verdict.observed or ABSENT}, must be {' or '.join(verdict.accepted)}: ",
                (verdict.outcome.value, _STYLES[verdict.outcome]),
            )
        )
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


def _to_list(verdict: VerdictDecision | None) -> list[VerdictDecision]:
    return [] if verdict is None else [verdict]


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
