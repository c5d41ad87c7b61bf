"""The first screen of a check: both answers, its gates, its shift."""

import re
from types import SimpleNamespace
from typing import get_args

import pytest
from tests.prostate import SPECS

from vfmalign.analysis.checks.gate_intervals import count_seeds, observe
from vfmalign.analysis.checks.gates import QUESTIONS, evaluate_gate, evaluate_verdict, parse_gate, parse_verdicts
from vfmalign.analysis.checks.verdict import Verdict, decide_verdict
from vfmalign.client.messages.checks import VerdictLabel
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.reports.checks.first_screen import list_gates, make_first_screen

METRIC = SPECS["segmentation"].primary_metric


def with_difference(result, **fields):
    """The result with another interval of the difference to the specialised network."""
    gain = result.rpg_specialised
    interval = gain.absolute.interval.model_copy(update=fields)
    absolute = gain.absolute.model_copy(update={"interval": interval})
    return result.model_copy(update={"rpg_specialised": gain.model_copy(update={"absolute": absolute})})


def read_rows(first):
    """Both lines of every row of the forest plot."""
    return re.findall(r"<text [^>]*>([^<]* minus [^<]*)</text><text [^>]*>([^<]*)<", first.forest)


def test_rows_say_what_is_subtracted_from_what(make_report):
    report = make_report()
    first = make_first_screen(report, METRIC, {}, None)
    assert read_rows(first) == [
        ("your model minus the specialised network", "+0.099 (+0.027 to +0.138) in lesion Dice"),
        ("your model minus itself without pretraining", "+0.099 (+0.027 to +0.138) in lesion Dice"),
        ("your model minus the naive baseline", "+0.499 (+0.427 to +0.538) in lesion Dice"),
    ]
    psnr = SPECS["translation"].primary_metric
    networks = tuple(network.model_copy(update={"test_means": {psnr.name: 24.0}}) for network in report.result.networks)
    naive = report.result.naive_baseline.model_copy(update={"test_means": {psnr.name: 19.0}})
    in_db = make_report(metrics=(psnr,), primary_metric=psnr.name, networks=networks, naive_baseline=naive)
    rows = read_rows(make_first_screen(in_db, psnr, {}, None))
    assert re.fullmatch(r"\+0\.10 dB \(\+0\.\d\d to \+0\.\d\d\) in PSNR", rows[0][1])
    mae = METRIC.model_copy(update={"name": "mae", "unit": "mL", "higher_is_better": False})
    lower = read_rows(make_first_screen(report, mae, {}, None))
    assert lower[0][0] == "the specialised network minus your model"
    assert lower[0][1].endswith("to +0.138)"), "a long name would leave a narrow screen"


def test_a_gain_of_one_training_has_no_colour_of_a_gain(make_report, make_seeds_report):
    for report, few in ((make_report(), True), (make_seeds_report(2), True), (make_seeds_report(3), False)):
        assert make_first_screen(report, METRIC, {}, None).few_trainings == few


@pytest.mark.parametrize(("groups", "start"), [(12, "12 test patients are too few for `gain`"), (20, "with 20 test")])
def test_the_chance_of_a_missing_subgroup_stands_below_the_verdict(make_report, groups, start):
    gain = make_report().result.rpg_specialised.model_copy(update={"groups": groups})
    verdict = decide_verdict(gain, METRIC, held_out=True, seeds=3)
    report = make_report(rpg_specialised=gain, verdict=verdict)
    first = make_first_screen(report, METRIC, {}, None)
    assert first.limits.startswith(start)
    assert first.limits in verdict.reason
    none = gain.model_copy(update={"absolute": Estimate(value=0.1, absent_reason="no variation")})
    assert make_first_screen(make_report(rpg_specialised=none), METRIC, {}, None).limits == ""


def observe_result(result):
    """What the command line reads of the result's message."""
    message = SimpleNamespace(
        verdict=result.verdict.label, verdict_reason="", rpg_specialised=result.rpg_specialised,
        rpg_scratch=result.rpg_scratch, seeds=result.seeds, seed_variation=None, shifts=(), primary_layer="",
        pretraining=None if result.pretraining is None else result.pretraining.label,
    )  # fmt: skip
    return observe(message), count_seeds(message)


@pytest.mark.parametrize("label", get_args(VerdictLabel))
@pytest.mark.parametrize(
    ("lower", "groups", "seeds"), [(-0.02, 20, 3), (-0.01, 20, 3), (0.01, 20, 3), (0.01, 16, 3), (0.01, 20, 2)]
)
def test_gates_have_the_outcome_of_the_command_line(make_seeds_report, label, lower, groups, seeds):
    gain = make_seeds_report().result.rpg_specialised.model_copy(update={"groups": groups})
    verdict, other = Verdict(label=label, reason=""), Verdict(label="equivalent", reason="")
    for pretraining in (verdict, other):
        answers = {"verdict": other if pretraining is verdict else verdict, "pretraining": pretraining}
        result = with_difference(make_seeds_report(seeds, rpg_specialised=gain, **answers).result, lower=lower)
        observed, count = observe_result(result)
        *rows, non_inferior = list_gates(result, METRIC)
        assert [row.option for row in rows] == [
            "--require-pretraining gain", "--require gain", "--require gain,equivalent",
            "--require gain,equivalent,inconclusive",
        ]  # fmt: skip
        questions = {option: question for question, option in QUESTIONS.items()}
        for row in rows:
            option, accepted = row.option.split()
            question = questions[option]
            decision = evaluate_verdict(
                parse_verdicts([accepted]), answers[question].label, seeds=count, question=question
            )
            assert row.outcome == decision.outcome.value
        conditions = parse_gate([non_inferior.option.removeprefix("--gate ").strip("'")])
        assert [non_inferior.outcome] == [one.outcome.value for one in evaluate_gate(conditions, observed)]


def test_gates_of_few_trainings_or_patients_or_of_an_old_result_are_undecidable(make_report, make_seeds_report):
    assert {row.outcome for row in list_gates(make_report().result, METRIC)} == {"undecidable"}
    few_patients = make_seeds_report(verdict=Verdict(label="inconclusive", reason="12 test patients"))
    assert [row.outcome for row in list_gates(few_patients.result, METRIC)][1:] == [
        "failed", "failed", "passed", "undecidable",
    ]  # fmt: skip
    old = make_seeds_report(verdict=Verdict(label="gain", reason=""), pretraining=None)
    assert [row.outcome for row in list_gates(old.result, METRIC)][:2] == ["undecidable", "passed"]


def test_without_an_interval_a_gate_on_it_is_undecidable(make_seeds_report):
    gain = make_seeds_report().result.rpg_specialised.model_copy(
        update={"absolute": absent("3 patients"), "groups": 20}
    )
    assert list_gates(make_seeds_report(rpg_specialised=gain).result, METRIC)[-1].outcome == "undecidable"


def test_the_shift_is_told_in_units_of_random_weights(make_report):
    first = make_first_screen(make_report(), METRIC, {}, None)
    assert first.shift == "MMD² 0.0830 (0.0710 to 0.0950); 0.167 of the shift to random weights"
    report = make_report(
        shift_ratio={name: absent("random weights do not move") for name in make_report().result.shift_ratio}
    )
    first = make_first_screen(report, METRIC, {}, None)
    assert first.scale is None
    assert first.shift.endswith("; random weights do not move")
