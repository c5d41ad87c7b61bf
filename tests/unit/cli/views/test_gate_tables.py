"""A gate's outcome beside a check, and where its intervals are read from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.cli.conftest import with_changes

from vfmalign.analysis.checks.gate_intervals import observe
from vfmalign.analysis.checks.gates import NO_GATE, QUANTITIES, VERDICTS, Gate, parse_gate
from vfmalign.cli.commands.api.checks import apply_gate
from vfmalign.cli.exits import GATE_FAILED, OK
from vfmalign.client.messages.checks import Check, CheckResult


def get_result(check: Check) -> CheckResult:
    """The result of a check that succeeded."""
    assert check.result is not None
    return check.result


def lines_of(text: str, first: str) -> list[str]:
    """The words of the line that begins with a name."""
    return next(line.split() for line in text.splitlines() if line.startswith(first))


def test_every_quantity_is_read_from_its_own_field(decided_check: Check) -> None:
    ends = {name: (seen.lower, seen.upper) for name, seen in observe(get_result(decided_check)).items()}
    assert set(ends) == set(QUANTITIES)
    assert ends["rpg_specialised"] == (-2.0, 9.0)
    assert ends["difference_specialised"] == (-0.01, 0.05)
    assert ends["mmd2"] == pytest.approx((0.115, 0.135))
    assert ends["mmd2_std"] == pytest.approx((0.24, 0.26))
    assert ends["rpg_scratch"] == ends["difference_scratch"] == (None, None)


def test_the_primary_layer_is_found_by_its_name(finished_check: Check) -> None:
    check = with_changes(finished_check, {"result.primary_layer": "stages.0"})
    seen = observe(get_result(check))["mmd2_std"]
    assert (seen.lower, seen.upper) == pytest.approx((-0.006, 0.014))
    assert "degenerate" in seen.remarks[0]


def test_a_gate_that_holds_says_so_and_ends_with_0(decided_check: Check, show: Any) -> None:
    gated, lines, code = apply_gate(
        decided_check, Gate(conditions=parse_gate(["rpg_specialised.lower>=-5,mmd2_std.upper<=0.3"]))
    )
    assert code == OK
    assert gated["gate"]["passed"] is True
    assert gated["gate"]["verdict"] is gated["gate"]["pretraining"] is None
    text = show(lines)
    assert lines_of(text, "rpg_specialised.lower") == ["rpg_specialised.lower", ">=", "-5", "-2", "passed"]
    assert lines_of(text, "mmd2_std.upper") == ["mmd2_std.upper", "<=", "0.3", "0.26", "passed"]
    assert "The gate passed (ends of 95 % intervals)." in text
    assert "! Phantom rehearsal: see above." in text


def test_a_gate_that_fails_names_each_condition_and_why(decided_check: Check, show: Any) -> None:
    conditions = "rpg_specialised.lower>=0,rpg_scratch.lower>=0,mmd2.upper<=0.5"
    gated, lines, code = apply_gate(decided_check, Gate(conditions=parse_gate([conditions])))
    assert code == GATE_FAILED == 5
    text = show(lines)
    assert lines_of(text, "rpg_specialised.lower")[-1] == "failed"
    assert lines_of(text, "rpg_scratch.lower")[:5] == ["rpg_scratch.lower", ">=", "0", "–", "undecidable"]
    assert "undecidable  the baseline is under the floor" in text
    assert "The gate failed" in text
    gate = json.loads(json.dumps(gated, allow_nan=False))["gate"]
    assert gate["passed"] is False
    assert [c["outcome"] for c in gate["conditions"]] == ["failed", "undecidable", "passed"]
    assert gate["conditions"][0] == {
        "name": "rpg_specialised.lower", "operator": ">=", "threshold": 0.0, "observed": -2.0, "level": 0.95,
        "outcome": "failed", "remarks": [],
    }  # fmt: skip
    assert gate["conditions"][1]["observed"] is None
    assert gate["conditions"][1]["remarks"] == ["the baseline is under the floor"]
    assert gate["cautions"] == ["Phantom rehearsal. The cases are generated."]


def test_what_limits_a_shift_is_said_beside_it(decided_check: Check, show: Any) -> None:
    check = with_changes(
        decided_check,
        {
            "result.shifts.0.saturated": True,
            "result.shifts.0.mmd.raw.below_error_bound": True,
            "result.shifts.0.mmd.standardised.mmd2.interval.degenerate": True,
        },
    )
    conditions = parse_gate(["mmd2_std.upper<=1", "mmd2.upper<=1", "rpg_specialised.lower>=0"])
    gated, lines, _ = apply_gate(check, Gate(conditions=conditions))
    standardised, raw, gain = (condition["remarks"] for condition in gated["gate"]["conditions"])
    assert [remark.partition(":")[0] for remark in standardised] == ["degenerate interval", "saturated"]
    assert [remark.partition(":")[0] for remark in raw] == ["saturated", "below the error bound"]
    assert gain == []
    assert "does not say how far" in show(lines)


def test_a_gain_without_an_interval_is_undecidable_by_the_service_s_reason(decided_check: Check) -> None:
    gain = {"value": 3.5, "absent_reason": "the difference is the same for all test patients"}
    check = with_changes(decided_check, {"result.rpg_specialised.relative_percent": gain})
    gated, _, code = apply_gate(check, Gate(conditions=parse_gate(["rpg_specialised.lower>=0"])))
    assert code == GATE_FAILED
    assert gated["gate"]["conditions"][0]["remarks"] == ["the difference is the same for all test patients"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"result.seeds": []}, "1 training of each network: a gate needs 3 training seeds"),
        ({"result.rpg_specialised.groups": 16}, "16 test patients: a gate on a gain needs at least 17"),
        ({"result.rpg_specialised.smaller_class": 16}, "16 test patients: a gate on a gain needs at least 17"),
    ],
)
def test_few_seeds_or_patients_decide_nothing_about_a_gain_and_something_about_the_shift(
    decided_check: Check, changes: dict[str, Any], reason: str
) -> None:
    check = with_changes(decided_check, changes)
    conditions = parse_gate(["difference_specialised.lower>=-1,rpg_specialised.lower>=-99,mmd2.upper<=1"])
    gated, _, code = apply_gate(check, Gate(conditions=conditions))
    assert code == GATE_FAILED == 5
    outcomes = [(one["outcome"], one["observed"], one["remarks"]) for one in gated["gate"]["conditions"]]
    assert outcomes[:2] == [("undecidable", None, [reason])] * 2
    assert outcomes[2][0] == "passed"
    assert apply_gate(check, Gate(conditions=conditions[2:]))[2] == OK


def test_the_difference_to_random_weights_of_an_old_result_is_undecidable(decided_check: Check) -> None:
    conditions = parse_gate(["difference_scratch.lower>=-1"])
    assert decided_check.result is not None
    gain = decided_check.result.rpg_specialised.model_dump(mode="json")
    check = with_changes(decided_check, {"result.rpg_scratch": gain})
    assert apply_gate(check, Gate(conditions=conditions))[2] == OK
    gated, _, code = apply_gate(with_changes(check, {"result.pretraining": None}), Gate(conditions=conditions))
    assert code == GATE_FAILED
    assert "did not assess whether pretraining helps" in gated["gate"]["conditions"][0]["remarks"][0]


def test_without_standardised_features_or_a_primary_layer_or_a_result_the_gate_fails(
    finished_check: Check,
) -> None:
    conditions = parse_gate(["mmd2_std.upper<=1"])
    check = with_changes(finished_check, {"result.shifts.0.mmd.standardised": None})
    gated, _, code = apply_gate(check, Gate(conditions=conditions))
    assert gated["gate"]["conditions"][0]["remarks"] == ["the check has no standardised features"]
    assert code == GATE_FAILED
    for change in ({"result.primary_layer": "gone"}, {"result": None}):
        assert apply_gate(with_changes(finished_check, change), Gate(conditions=conditions))[2] == GATE_FAILED


def test_without_a_gate_nothing_is_said(finished_check: Check) -> None:
    assert apply_gate(finished_check, NO_GATE) == ({}, [], OK)


@pytest.mark.parametrize(
    ("verdict", "accepted", "outcome"),
    [
        ("gain", "gain", "passed"),
        ("equivalent", "gain,equivalent", "passed"),
        ("equivalent", "gain", "failed"),
        ("harm", "gain,equivalent,inconclusive", "failed"),
        ("inconclusive", "gain,equivalent,inconclusive", "passed"),
        ("inconclusive", "gain,equivalent", "failed"),
        ("insufficient_data", "gain,equivalent,inconclusive", "undecidable"),
        ("insufficient_data", "insufficient_data", "passed"),
    ],
)
@pytest.mark.parametrize("question", ["verdict", "pretraining"])
def test_a_required_verdict_decides_the_gate(
    decided_check: Check, show: Any, question: str, verdict: str, accepted: str, outcome: str
) -> None:
    check = with_changes(decided_check, {f"result.{question}": verdict})
    texts = [accepted]
    gate = Gate.parse(None, texts, None) if question == "verdict" else Gate.parse(None, None, texts)
    gated, lines, code = apply_gate(check, gate)
    passes = outcome == "passed"
    assert code == (OK if passes else GATE_FAILED)
    labels = [label for label in VERDICTS if label in accepted.split(",")]
    (other,) = {"verdict", "pretraining"} - {question}
    assert gated["gate"][question] == {"accepted": labels, "observed": verdict, "outcome": outcome}
    assert gated["gate"][other] is None
    assert gated["gate"]["passed"] is passes
    assert gated["gate"]["conditions"] == []
    text = show(lines)
    assert f"{question.capitalize()} {verdict}, must be {' or '.join(labels)}: {outcome}" in text
    assert f"The gate {'passed' if passes else 'failed'}." in text


def test_both_answers_and_conditions_must_all_hold(decided_check: Check) -> None:
    for verdict, pretraining, condition, code in (
        ("inconclusive", "gain", "mmd2.upper<=0.5", OK),
        ("inconclusive", "gain", "mmd2.upper<=0.01", GATE_FAILED),
        ("gain", "gain", "mmd2.upper<=0.5", GATE_FAILED),
        ("inconclusive", "equivalent", "mmd2.upper<=0.5", GATE_FAILED),
    ):
        assert apply_gate(decided_check, Gate.parse([condition], [verdict], [pretraining]))[2] == code


def test_a_check_without_result_has_no_required_verdict(finished_check: Check) -> None:
    check = with_changes(finished_check, {"result": None})
    gated, _, code = apply_gate(check, Gate.parse(None, ["gain"], ["gain"]))
    assert code == GATE_FAILED
    for question in ("verdict", "pretraining"):
        assert gated["gate"][question] == {"accepted": ["gain"], "observed": None, "outcome": "undecidable"}


def test_a_stored_result_of_one_seed_decides_no_gate(finished_check: Check) -> None:
    check = with_changes(finished_check, {"result.verdict": "gain"})
    for gate in (Gate.parse(None, ["gain"], None), Gate.parse(None, None, list(VERDICTS))):
        gated, _, code = apply_gate(check, gate)
        (question,) = gate.accepted
        assert (code, gated["gate"][question]["outcome"]) == (GATE_FAILED, "undecidable")


def test_no_gate_passes_on_a_rehearsal(decided_check: Check, show: Any) -> None:
    reason = "the pretrained network was trained for 4 of the recipe's 10,000 steps"
    check = with_changes(decided_check, {"result.verdict": "insufficient_training", "result.verdict_reason": reason})
    conditions = ["mmd2.upper<=10,rpg_specialised.lower>=-99"]
    gated, lines, code = apply_gate(check, Gate.parse(conditions, VERDICTS, None))
    assert code == GATE_FAILED
    assert gated["gate"]["verdict"]["outcome"] == "undecidable"
    assert [one["outcome"] for one in gated["gate"]["conditions"]] == ["undecidable"] * 2
    assert "4 of the recipe's 10,000 steps" in show(lines)
