"""A gate beside a check: the intervals that its conditions compare, and its outcome as a table and as a document.

Knows the API's messages and rich. Decides nothing: `gates` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from vfmalign.cli.gates import Decision, Observed, Outcome, passed
from vfmalign.cli.views.tables import ABSENT, number, table
from vfmalign.v1 import alignment_pb2, common_pb2, mmd_pb2

_STYLES = {Outcome.PASSED: "green", Outcome.FAILED: "bold red", Outcome.UNDECIDABLE: "bold yellow"}
_DEGENERATE = "degenerate interval: the test does not reject, coverage is not to be relied on"
_SATURATED = "out of the kernel's reach: MMD² says that features moved far, not how far"
_BELOW_ERROR_BOUND = "below the error bound of its precision: digits are lost"


def observations(check: alignment_pb2.Check) -> dict[str, Observed]:
    """The interval of everything that a condition may name; of nothing where the check has no result."""
    if not check.HasField("result"):
        return {}
    result = check.result
    found = {
        "rpg_specialised": _observed(result.rpg_specialised.relative_percent),
        "rpg_scratch": _observed(result.rpg_scratch.relative_percent),
        "difference_specialised": _observed(result.rpg_specialised.absolute),
        "difference_scratch": _observed(result.rpg_scratch.absolute),
    }
    for layer in result.shifts:
        if layer.mmd.layer == result.primary_layer:
            found["mmd2"] = _shift(layer.mmd.raw, layer)
            found["mmd2_std"] = Observed(absent_reason="the check has no standardised features")
            if layer.mmd.HasField("standardised"):
                found["mmd2_std"] = _shift(layer.mmd.standardised, layer)
    return found


def gate_document(decisions: Sequence[Decision], cautions: Sequence[str]) -> dict[str, Any]:
    """A gate's outcome as JSON values."""
    return {
        "passed": passed(decisions),
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


def gate_table(decisions: Sequence[Decision], cautions: Sequence[str]) -> list[RenderableType]:
    """A gate's outcome for a terminal: one line a condition, with what limits it."""
    holds = passed(decisions)
    found = table("Gate", "interval end", "must be", "is", "outcome", "remarks", numbers=["must be", "is"])
    for decision in decisions:
        condition = decision.condition
        found.add_row(
            condition.name,
            f"{condition.operator} {number(condition.threshold, 6)}",
            ABSENT if decision.observed is None else f"{number(decision.observed, 6)}",
            Text(decision.outcome.value, style=_STYLES[decision.outcome]),
            "; ".join(decision.remarks),
        )
    levels = {f"{100 * decision.level:g} %" for decision in decisions if decision.level is not None}
    of = f" (ends of {' and '.join(sorted(levels))} intervals)" if levels else ""
    style = _STYLES[Outcome.PASSED if holds else Outcome.FAILED]
    verdict = Text.assemble("The gate ", ("passed" if holds else "failed", style), f"{of}.")
    # The summary of the check has the whole sentences.
    titles = [caution.partition(". ")[0] for caution in cautions]
    return ["", found, verdict, *([Text(f"! {'; '.join(titles)}: see above.", style="yellow")] if titles else [])]


def _shift(shift: mmd_pb2.ShiftResult, layer: alignment_pb2.LayerShift) -> Observed:
    remarks = [_SATURATED] if layer.saturated else []
    return _observed(shift.mmd2, *remarks, *([_BELOW_ERROR_BOUND] if shift.below_error_bound else []))


def _observed(message: common_pb2.Estimate, *remarks: str) -> Observed:
    if not message.HasField("value") or not message.HasField("interval"):
        return Observed(absent_reason=message.absent_reason, remarks=remarks)
    interval = message.interval
    more = (_DEGENERATE,) if interval.degenerate else ()
    return Observed(interval.lower, interval.upper, interval.level, remarks=(*more, *remarks))
