"""The outcome of a declared plan: whether its gate passes, and whether earlier results could be known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from vfmalign.analysis.checks.plan import evaluate_plan
from vfmalign.cli.views.check_tables import show_check
from vfmalign.client.messages.checks import CheckPlan, EarlierCheck

NOW = datetime(2026, 3, 1, tzinfo=UTC)
EARLIER = (EarlierCheck(check_id="c0", create_time=NOW),)


def plan(**gate: tuple[str, ...]) -> CheckPlan:
    return CheckPlan(
        metric="m", smallest_difference=0.01, seeds=3, model_sha256="a" * 64, dataset_digest="b" * 64, **gate
    )


@pytest.mark.parametrize(
    ("gate", "earlier", "outcome", "passed", "failed"),
    [
        ({"gate": ("mmd2.upper<=1",)}, (), "passed", ["mmd2.upper<=1.0"], []),
        ({"gate": ("mmd2.upper<=1",)}, EARLIER, "warned", ["mmd2.upper<=1.0"], []),
        ({"gate": ("mmd2.upper<=0",)}, (), "failed", [], ["mmd2.upper<=0.0"]),
        ({"gate": ("mmd2.upper<=0",)}, EARLIER, "failed", [], ["mmd2.upper<=0.0"]),
        ({"gate": ("mmd2.upper<=1,mmd2_std.upper<=0",)}, (), "failed", ["mmd2.upper<=1.0"], ["mmd2_std.upper<=0.0"]),
        ({"require": ("inconclusive", "gain")}, (), "failed", [], ["verdict=gain|inconclusive"]),
        ({"gate": ("difference_scratch.lower>=-9",)}, (), "failed", [], ["difference_scratch.lower>=-9.0"]),
    ],
)
def test_the_outcome_follows_from_the_gate_and_from_earlier_checks(
    finished_check: Any, gate: Any, earlier: Any, outcome: str, passed: list[str], failed: list[str]
) -> None:
    declared = plan(**gate)
    found = evaluate_plan(declared, finished_check.result, declare_time=NOW, declared_by="i#s", earlier=earlier)
    assert (found.outcome, list(found.passed), list(found.failed)) == (outcome, passed, failed)
    assert (found.plan_sha256, found.declare_time, found.declared_by) == (declared.digest(), NOW, "i#s")
    assert found.earlier_checks == earlier


def test_an_accepted_answer_of_enough_trainings_passes(decided_check: Any) -> None:
    found = evaluate_plan(
        plan(require=(decided_check.result.verdict,)),
        decided_check.result,
        declare_time=NOW,
        declared_by="",
        earlier=(),
    )
    assert found.outcome == "passed"


@pytest.mark.parametrize(
    ("gate", "earlier", "line"),
    [
        ("mmd2.upper<=1", (), "Plan: passed"),
        ("mmd2.upper<=1", EARLIER, "Plan: warned (declared after 1 earlier check: c0)"),
        ("mmd2.upper<=0", EARLIER, "Plan: failed (not passed: mmd2.upper<=0.0; declared after 1 earlier check: c0)"),
    ],
)
def test_the_check_shows_its_plan(finished_check: Any, show: Any, gate: str, earlier: Any, line: str) -> None:
    result = finished_check.result
    found = evaluate_plan(plan(gate=(gate,)), result, declare_time=NOW, declared_by="", earlier=earlier)
    with_plan = finished_check.model_copy(update={"result": result.model_copy(update={"plan": found})})
    assert line in show(show_check(with_plan, "")).splitlines()
    assert "Plan:" not in show(show_check(finished_check, ""))
