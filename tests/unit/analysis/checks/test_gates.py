"""What a gate may say, what is refused, and what becomes of a condition."""

from __future__ import annotations

import math
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfmalign.analysis.checks.gates import (
    ENDS,
    EXAMPLE,
    OPERATORS,
    QUANTITIES,
    Condition,
    Gate,
    ObservedInterval,
    Outcome,
    evaluate_gate,
    evaluate_verdict,
    parse_gate,
    parse_verdicts,
    passed,
)
from vfmalign.core.domain.errors import BadOption

CONDITIONS = st.builds(
    Condition,
    st.sampled_from(sorted(QUANTITIES)),
    st.sampled_from(ENDS),
    st.sampled_from(sorted(OPERATORS)),
    st.floats(allow_nan=False, allow_infinity=False),
)


def test_the_example_is_two_conditions() -> None:
    assert parse_gate([EXAMPLE]) == (
        Condition("difference_specialised", "lower", ">=", -0.01),
        Condition("difference_scratch", "lower", ">=", 0.0),
    )


def test_no_gate_is_no_condition_and_several_are_one() -> None:
    assert parse_gate([]) == ()
    both = "mmd2.lower >= -1e-3", " mmd2.upper<=.5 "
    assert parse_gate(both) == parse_gate([",".join(both)])
    assert [c.threshold for c in parse_gate(both)] == [-0.001, 0.5]


@given(st.lists(CONDITIONS, unique_by=lambda c: (c.name, c.operator)), st.sampled_from(["", " ", "\t"]))
def test_what_a_condition_prints_is_what_it_was_parsed_from(conditions: list[Condition], space: str) -> None:
    texts = [f"{space},{space}".join(str(c) for c in conditions)] if conditions else []
    assert parse_gate(texts) == tuple(conditions)


@given(st.lists(st.sampled_from([*QUANTITIES, ".", *ENDS, *OPERATORS, "0", "-1.5", "1e9", "nan", ",", " ", "p"])))
def test_any_words_are_read_in_full_or_refused_as_an_option(words: list[str]) -> None:
    text = "".join(words)
    with suppress(BadOption):
        found = parse_gate([text])
        assert ",".join(c.name + c.operator for c in found) == re.sub(r"(=)[^,]*|\s", r"\1", text)
        assert [c.threshold for c in found] == [float(part.partition("=")[2]) for part in text.split(",")]
        assert all(math.isfinite(c.threshold) for c in found)


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("", "is not a condition", EXAMPLE),
        ("mmd2.upper<=1,", "is not a condition", EXAMPLE),
        ("mmd2.upper", "'mmd2.upper' is not a condition", "quote the whole gate"),
        (">=0", "is not a condition", EXAMPLE),
        ("mmd2.upper<=0,10", "'10' is not a condition", "a decimal point"),
        ("mmd.upper<=1", "'mmd' is not a known quantity", "choose one of rpg_specialised, rpg_scratch"),
        ("MMD2.upper<=1", "'MMD2' is not a known quantity", "mmd2, mmd2_std"),
        ("shift_ratio.upper<=1", "'shift_ratio' is not a known quantity", "mmd2_std"),
        ("mmd2<=1", "a gate compares only the ends of intervals", "use mmd2.lower or mmd2.upper"),
        ("mmd2.<=1", "a gate compares only the ends of intervals", "use mmd2.lower or mmd2.upper"),
        ("mmd2.value<=1", "has no end 'value'", "use mmd2.lower or mmd2.upper"),
        ("mmd2.upper.lower<=1", "has no end 'upper.lower'", "use mmd2.lower or mmd2.upper"),
        ("mmd2.upper<1", "compared by '<'", ">= or <="),
        ("mmd2.upper==1", "compared by '=='", ">= or <="),
        ("mmd2.upper≤1", "compared by '≤'", ">= or <="),
        ("mmd2.upper<=", "is not a number: ''", "without unit"),
        ("mmd2.upper<=low", "is not a number: 'low'", "without unit"),
        ("mmd2.upper<=5%", "is not a number: '5%'", "without unit"),
        ("mmd2.upper<=nan", "is not a number: 'nan'", "without unit"),
        ("mmd2.upper<=inf", "is not a number: 'inf'", "without unit"),
        ("mmd2.upper<=1e999", "is not a number: '1e999'", "without unit"),
        ("mmd2.upper<=1_0", "is not a number: '1_0'", "without unit"),
        ("mmd2.upper<=٣", "is not a number: '٣'", "without unit"),
        ("mmd2.upper<=0<=1", "is not a number: '0<=1'", "without unit"),
        ("mmd2.upper<=1,mmd2.upper<=2", "mmd2.upper<= occurs twice", "keep one"),
    ],
)
def test_a_slip_is_named_with_its_remedy(text: str, message: str, remedy: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse_gate([text])
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_the_same_comparison_in_two_options_is_refused_and_a_band_is_not() -> None:
    with pytest.raises(BadOption, match="twice"):
        parse_gate(["mmd2.upper<=1", "mmd2.upper<=2"])
    assert len(parse_gate(["mmd2.upper<=1,mmd2.upper>=0.5"])) == 2


@pytest.mark.parametrize(
    "text",
    [
        "p<=0.05", "p", "P<0.05", "p_value<=0.05", "pvalue.upper<=0.05", "p-value<0.05", "p value < 0.05",
        "mmd2.p<=0.05", "mmd2_std.p_value<=0.05", "mmd2.p_value_max_t<=0.05", "p_max_t<=0.05",
        "aggregated_p_value.lower>=0.1", "mmd2.upper<=1,p<=0.05",
    ],
)  # fmt: skip
def test_a_p_value_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse_gate([text])
    assert "which cannot be gated: it only shows a detectable change" in caught.value.message
    assert "end of an interval" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "outcome", "observed"),
    [
        ("mmd2.lower>=0.1", Outcome.PASSED, 0.1),
        ("mmd2.lower>=0.11", Outcome.FAILED, 0.1),
        ("mmd2.lower<=0.1", Outcome.PASSED, 0.1),
        ("mmd2.lower<=0.09", Outcome.FAILED, 0.1),
        ("mmd2.upper>=0.2", Outcome.PASSED, 0.2),
        ("mmd2.upper>=0.21", Outcome.FAILED, 0.2),
        ("mmd2.upper<=0.2", Outcome.PASSED, 0.2),
        ("mmd2.upper<=0.19", Outcome.FAILED, 0.2),
    ],
)
def test_each_end_meets_its_own_threshold(text: str, outcome: Outcome, observed: float) -> None:
    remarks = ("degenerate",)
    (decision,) = evaluate_gate(parse_gate([text]), {"mmd2": ObservedInterval(0.1, 0.2, 0.95, remarks=remarks)})
    assert (decision.outcome, decision.observed, decision.level) == (outcome, observed, 0.95)
    assert decision.remarks == remarks


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (
            {"mmd2": ObservedInterval(absent_reason="4 patients: no interval below 8")},
            "4 patients: no interval below 8",
        ),
        ({"mmd2": ObservedInterval()}, "the check has no interval for it"),
        ({}, "the check has no interval for it"),
        ({"mmd2": ObservedInterval(0.0, math.nan, 0.95)}, "not a finite number"),
        ({"mmd2": ObservedInterval(0.0, math.inf, 0.95)}, "not a finite number"),
    ],
)
@pytest.mark.parametrize("sign", ["<=", ">="])
def test_an_absent_end_is_undecidable_and_fails_the_gate(
    found: dict[str, ObservedInterval], reason: str, sign: str
) -> None:
    known = {"rpg_scratch": ObservedInterval(1.0, 2.0, 0.95), **found}
    decisions = evaluate_gate(parse_gate(["rpg_scratch.lower>=0", f"mmd2.upper{sign}0"]), known)
    assert [d.outcome for d in decisions] == [Outcome.PASSED, Outcome.UNDECIDABLE]
    assert decisions[1].observed is None
    assert reason in decisions[1].remarks[0]
    assert not passed(decisions)
    assert passed(decisions[:1])


@given(st.lists(CONDITIONS, min_size=1, max_size=5), st.floats(-1, 1), st.floats(0, 1))
def test_a_gate_passes_where_no_condition_speaks_against_it(
    conditions: list[Condition], lower: float, width: float
) -> None:
    decisions = evaluate_gate(conditions, dict.fromkeys(QUANTITIES, ObservedInterval(lower, lower + width, 0.9)))
    ends = {"lower": lower, "upper": lower + width}
    against = [
        c for c in conditions if (c.threshold > ends[c.end] if c.operator == ">=" else ends[c.end] > c.threshold)
    ]
    assert passed(decisions) == (not against)
    assert [d.condition for d in decisions if d.outcome is Outcome.FAILED] == against


def test_nothing_asked_is_nothing_passed() -> None:
    assert not passed(())


def test_required_verdicts_are_separated_by_commas_or_repeated() -> None:
    assert parse_verdicts([]) == ()
    assert parse_verdicts(["equivalent, gain"]) == parse_verdicts(["gain", "equivalent", "gain"])
    assert parse_verdicts(["equivalent, gain"]) == ("gain", "equivalent")


@pytest.mark.parametrize("text", ["no_clear_gain", "not-harm", "GAIN", "", "gain,"])
def test_an_unknown_verdict_is_refused_with_the_choice(text: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse_verdicts([text])
    assert caught.value.field == "--require"
    assert caught.value.remedy == "choose from gain, equivalent, harm, inconclusive, insufficient_data"


def test_either_answer_has_a_gate_of_its_own() -> None:
    gate = Gate.parse(["mmd2.upper<=1"], ["gain,equivalent"], ["gain"])
    assert gate.accepted == {"verdict": ("gain", "equivalent"), "pretraining": ("gain",)}
    assert gate.conditions == parse_gate(["mmd2.upper<=1"])
    assert Gate.parse(None, None, ["gain"])
    assert not Gate.parse(None, None, None)
    with pytest.raises(BadOption) as caught:
        Gate.parse(None, ["gain"], ["better"])
    assert caught.value.field == "--require-pretraining"


@pytest.mark.parametrize(("seeds", "outcome"), [(0, "undecidable"), (2, "undecidable"), (3, "passed")])
def test_no_answer_of_fewer_than_three_seeds_decides(seeds: int, outcome: str) -> None:
    decision = evaluate_verdict(["gain"], "gain", seeds=seeds, question="pretraining")
    assert (decision.question, decision.outcome) == ("pretraining", outcome)
    assert passed([decision]) == (outcome == "passed")
