"""The first screen of a check: the verdict as a sentence, its gates, its shift."""

from typing import get_args

import pytest
from tests.prostate import SPECS

from vfmalign.analysis.checks.verdict import Verdict, decide_verdict
from vfmalign.cli.gates import ObservedInterval, evaluate_gate, evaluate_verdict, parse_gate, parse_verdicts
from vfmalign.client.messages.checks import VerdictLabel
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.reports.checks.first_screen import list_gates, make_first_screen, write_verdict

METRIC = SPECS["segmentation"].primary_metric


def with_difference(result, **fields):
    """The result with another interval of the difference to the specialised network."""
    gain = result.rpg_specialised
    interval = gain.absolute.interval.model_copy(update=fields)
    absolute = gain.absolute.model_copy(update={"interval": interval})
    return result.model_copy(update={"rpg_specialised": gain.model_copy(update={"absolute": absolute})})


@pytest.mark.parametrize(
    ("label", "start"),
    [
        ("gain", "Gain: lesion Dice 0.648 against 0.635, difference −0.025 to +0.050."),
        ("inconclusive", "No clear gain: lesion Dice 0.648 against 0.635, difference −0.025 to +0.050."),
        ("equivalent", "No relevant difference: lesion Dice 0.648"),
        ("harm", "Worse than the specialised network: lesion Dice 0.648"),
        ("insufficient_data", "Too little data for a verdict: 3 test patients."),
    ],
)
def test_the_verdict_is_one_sentence(make_report, label, start):
    result = with_difference(
        make_report(verdict=Verdict(label=label, reason="3 test patients")).result, lower=-0.025, upper=0.05
    )
    gain = result.rpg_specialised.model_copy(update={"score": 0.648, "baseline": 0.635})
    assert write_verdict(result.model_copy(update={"rpg_specialised": gain}), METRIC).startswith(start)


@pytest.mark.parametrize(("groups", "start"), [(12, "12 test patients are too few for `gain`"), (20, "with 20 test")])
def test_the_chance_of_a_missing_subgroup_stands_below_the_verdict(make_report, groups, start):
    gain = make_report().result.rpg_specialised.model_copy(update={"groups": groups})
    verdict = decide_verdict(gain, METRIC, held_out=True)
    report = make_report(rpg_specialised=gain, verdict=verdict)
    first = make_first_screen(report, METRIC, {}, None)
    assert first.limits.startswith(start)
    assert first.limits in verdict.reason
    none = gain.model_copy(update={"absolute": Estimate(value=0.1, absent_reason="no variation")})
    assert make_first_screen(make_report(rpg_specialised=none), METRIC, {}, None).limits == ""


@pytest.mark.parametrize("label", get_args(VerdictLabel))
@pytest.mark.parametrize("lower", [-0.02, -0.01, 0.01])
def test_gates_have_the_outcome_of_the_command_line(make_report, label, lower):
    result = with_difference(make_report(verdict=Verdict(label=label, reason="")).result, lower=lower)
    *rows, non_inferior = list_gates(result, METRIC)
    for row in rows:
        accepted = parse_verdicts([row.option.removeprefix("--require ")])
        assert row.outcome == evaluate_verdict(accepted, label).outcome.value
    conditions = parse_gate([non_inferior.option.removeprefix("--gate ").strip("'")])
    interval = result.rpg_specialised.absolute.interval
    observed = {"difference_specialised": ObservedInterval(interval.lower, interval.upper, interval.level)}
    if label == "insufficient_training":
        observed = {}
    assert [non_inferior.outcome] == [one.outcome.value for one in evaluate_gate(conditions, observed)]


def test_without_an_interval_a_gate_on_it_is_undecidable(make_report):
    gain = make_report().result.rpg_specialised.model_copy(update={"absolute": absent("3 patients")})
    assert list_gates(make_report(rpg_specialised=gain).result, METRIC)[-1].outcome == "undecidable"


def test_the_shift_is_told_in_units_of_random_weights(make_report):
    first = make_first_screen(make_report(), METRIC, {}, None)
    assert first.shift == "MMD² 0.0830 (0.0710 to 0.0950); 0.167 of the shift to random weights"
    report = make_report(
        shift_ratio={name: absent("random weights do not move") for name in make_report().result.shift_ratio}
    )
    first = make_first_screen(report, METRIC, {}, None)
    assert first.scale is None
    assert first.shift.endswith("; random weights do not move")
