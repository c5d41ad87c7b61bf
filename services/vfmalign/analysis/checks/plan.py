"""Plans of checks: the gate that a plan declares, and its outcome (docs/gates.md)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from vfmalign.analysis.checks.gate_intervals import evaluate
from vfmalign.analysis.checks.gates import Gate, Outcome
from vfmalign.client.messages.checks import CheckPlan, CheckResult, EarlierCheck, PlanOutcome, PlanResult
from vfmalign.core.domain.errors import BadOption


def parse_plan(plan: CheckPlan) -> Gate:
    """Returns the gate of a plan.

    Raises:
        BadOption: a part of the gate is malformed, or the gate is empty.
    """
    try:
        gate = Gate.parse(plan.gate, plan.require, plan.require_pretraining)
    except BadOption as error:  # the grammar names the options of the command line
        field = f"plan.{error.field.removeprefix('--').replace('-', '_')}"
        raise BadOption(error.message, field=field, remedy=error.remedy, reason=error.reason) from None
    if not gate:
        raise BadOption("the plan has no gate", field="plan.gate", remedy="declare conditions or accepted answers")
    return gate


def evaluate_plan(
    plan: CheckPlan, result: CheckResult, *, declare_time: datetime, declared_by: str, earlier: Sequence[EarlierCheck]
) -> PlanResult:
    """Evaluates the gate of a plan on the result of its check.

    Args:
        plan: the plan.
        result: the result.
        declare_time: when the plan was declared.
        declared_by: key of the identity that declared it.
        earlier: earlier checks of the same model, dataset and task.
    """
    verdicts, decisions = evaluate(parse_plan(plan), result)
    parts = [(f"{one.question}={'|'.join(one.accepted)}", one.outcome) for one in verdicts]
    parts += [(str(one.condition), one.outcome) for one in decisions]
    failed = tuple(name for name, outcome in parts if outcome is not Outcome.PASSED)
    outcome: PlanOutcome = "failed" if failed else "warned" if earlier else "passed"
    return PlanResult(
        outcome=outcome,
        plan_sha256=plan.digest(),
        declare_time=declare_time,
        declared_by=declared_by,
        passed=tuple(name for name, outcome in parts if outcome is Outcome.PASSED),
        failed=failed,
        earlier_checks=tuple(earlier),
    )
