"""Shows the outcome of a gate as a table or as JSON values."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from vfmalign.analysis.checks.gates import QUESTIONS, Decision, Outcome, VerdictDecision, passed
from vfmalign.cli.views.tables import new_table
from vfmalign.client.formatting import ABSENT

_STYLES = {Outcome.PASSED: "green", Outcome.FAILED: "bold red", Outcome.UNDECIDABLE: "bold yellow"}


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
