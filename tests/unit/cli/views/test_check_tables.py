"""What a person reads at the end of a check."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.unit.cli.conftest import TIME, with_changes

from vfmalign.cli.views.check_summary import summarise_check
from vfmalign.cli.views.check_tables import show_check, show_stages
from vfmalign.cli.views.comparison_tables import comparison
from vfmalign.client.messages.checks import Check, CheckSpec, CheckStage
from vfmalign.client.messages.common import Estimate, Failure
from vfmalign.client.messages.jobs import Job, JobSpec
from vfmalign.client.messages.mmd import (
    ComputeResponse,
    ExcludedMovement,
    LayerResult,
    MeasureResult,
    ShiftResult,
    TopChannels,
)


def row(text: str, first: str) -> str:
    """The line that begins with a word."""
    return next(line for line in text.splitlines() if line.startswith(first))


def test_the_summary_holds_every_number_of_the_check(finished_check: Check, show: Any) -> None:
    text = show(show_check(finished_check, Path("reports/c1.html")))
    assert "Gain in lesion Dice on test (higher is better, smallest relevant difference 0.01)" in text
    assert "the interval includes zero" in text
    assert row(text, "stages.3 *").split() == [
        "stages.3", "*", "128", "0.250", "[0.240,", "0.260]", "0.125", "[0.115,", "0.135]", "0.00100", "0.00100",
        "0.500", "0.750",
    ]  # fmt: skip
    assert "† " in row(text, "stages.0") + " "
    assert "+3.50 % [−2.00, +9.00]" in row(text, "the specialised network")
    assert "–" in row(text, "the same network without pretraining")
    assert "the baseline is under the floor" in text
    assert row(text, "steps to 95 %").split()[-1] == "72"
    assert "> 120" in row(text, "steps to the specialised")
    assert row(text, "job_pretrained").split() == ["job_pretrained", "1", "31.2", "31.2"]
    assert "! Phantom rehearsal" in text
    assert "s3://vfmalign/checks/c1/report.html" in text
    assert "reports/c1.html" in text


def test_an_old_result_of_one_seed_keeps_its_label_and_has_no_answer_on_pretraining(
    finished_check: Check, show: Any
) -> None:
    lines = show(show_check(with_changes(finished_check, {"result.verdict": "gain"}))).splitlines()
    assert lines[0] == "the interval includes zero"
    assert lines[1] == ("Check c1 (segmentation): verdict gain, pretraining not assessed (1 training of each network)")
    assert not any(line.startswith("Pretraining:") for line in lines)


def test_both_answers_come_first_and_their_reasons_below(decided_check: Check, show: Any) -> None:
    lines = show(show_check(decided_check)).splitlines()
    assert decided_check.result is not None
    assert lines[0] == decided_check.result.summary
    assert lines[1] == "Check c1 (segmentation): verdict inconclusive, pretraining gain"
    assert "Verdict: the interval includes zero." in lines
    assert "Pretraining: the interval lies above zero." in lines


def test_a_check_in_brief_has_five_numbers_its_cautions_and_its_report(finished_check: Check, show: Any) -> None:
    assert finished_check.result is not None
    lines = show(summarise_check(finished_check, finished_check.result, Path("reports/c1.html"))).splitlines()
    assert len(lines) <= 12
    text = "\n".join(lines)
    assert "verdict inconclusive" in text
    specialised = row(text, "lesion Dice, your model minus the specialised network")
    assert specialised.split("network")[1].strip() == "+0.0200 [−0.0100, +0.0500]"
    assert "0.250 [0.240, 0.260]" in row(text, "shift: MMD² of stages.3 before and after")
    assert row(text, "  as a share of that of random weights").split()[-1] == "0.500"
    assert "72 of" in row(text, "steps to 95 %")
    assert "! Phantom rehearsal" in text
    assert lines[-1] == "Report: reports/c1.html"


def test_a_check_in_brief_says_why_a_gain_has_no_interval(finished_check: Check, show: Any) -> None:
    reason = "the difference is the same for all test patients"
    changed = with_changes(
        finished_check, {"result.rpg_scratch.absolute": {"value": 0.0, "absent_reason": reason}}
    ).result
    assert changed is not None
    text = show(summarise_check(finished_check, changed, Path("reports/c1.html")))
    assert row(text, "lesion Dice, your model minus the same network").split()[-1] == "+0.00"
    assert f"– {reason}" in text


def test_a_layer_out_of_the_kernel_s_reach_is_marked(finished_check: Check, show: Any) -> None:
    assert "§" not in show(show_check(finished_check))
    changes = {"result.shifts.0.paired_similarity.value": 0.0123, "result.shifts.0.saturated": True}
    text = show(show_check(with_changes(finished_check, changes)))
    assert row(text, "stages.3 *").split()[-1] == "0.0123§"
    assert "Features moved far; MMD² does not say how far" in text


TOP_CHANNELS = TopChannels(
    count=2,
    displacement_share=Estimate(value=0.876, absent_reason="no interval"),
    shift_without=ShiftResult(
        mmd2=Estimate(value=0.0123, absent_reason="no interval"), sigma=4.0, below_error_bound=True
    ),
    caution="2 of 128 channels hold 87.6 % of it.",
)


def test_channels_that_move_most_have_a_table(finished_check: Check, show: Any) -> None:
    assert "share of displacement" not in show(show_check(finished_check))
    changes = {"result.shifts.0.mmd.top_channels": TOP_CHANNELS.model_dump(mode="json")}
    _, table = show(show_check(with_changes(finished_check, changes))).split("Channels that move most")
    assert row(table, "stages.3").split() == ["stages.3", "2", "of", "128", "87.6", "%", "0.250", "0.0123‡"]
    assert "no interval" not in table
    absent = ShiftResult(mmd2=Estimate(absent_reason="no channel remains without them"), sigma=0.0)
    changes["result.shifts.0.mmd.top_channels"] = TOP_CHANNELS.model_copy(update={"shift_without": absent}).model_dump(
        mode="json"
    )
    assert "– no channel remains without them" in show(show_check(with_changes(finished_check, changes)))


def test_a_comparison_shows_channels_that_move_most_and_its_caution(show: Any) -> None:
    shift = ShiftResult(mmd2=Estimate(value=0.5), sigma=1.0)
    layer = LayerResult(layer="last", channels=130, channels_excluded=2, raw=shift, standardised=shift)
    text = show(comparison(compared(layer.model_copy(update={"top_channels": TOP_CHANNELS}))))
    _, table = text.split("Channels that move most")
    assert row(table, "last").split() == ["last", "2", "of", "128", "87.6", "%", "0.500", "0.0123‡"]
    assert "! last: 2 of 128 channels hold 87.6 % of it." in text
    unpaired = TopChannels(displacement_share=Estimate(absent_reason="not pairs"), shift_without=shift)
    text = show(comparison(compared(layer.model_copy(update={"top_channels": unpaired}))))
    assert "Channels that move most" not in text
    assert "not pairs" not in text


def test_a_comparison_shows_the_caution_about_excluded_channels_that_move(show: Any) -> None:
    shift = ShiftResult(mmd2=Estimate(value=0.5), sigma=1.0)
    moved = ExcludedMovement(count=2, displacement=Estimate(value=0.7), caution="2 of 130 channels moved by 0.7 SDs.")
    layer = LayerResult(layer="last", channels=130, channels_excluded=2, raw=shift, standardised=shift)
    text = show(comparison(compared(layer.model_copy(update={"excluded_movement": moved}))))
    assert "! last: 2 of 130 channels moved by 0.7 SDs." in text
    quiet = layer.model_copy(update={"excluded_movement": moved.model_copy(update={"caution": ""})})
    assert "! last" not in show(comparison(compared(quiet)))
    shared = compared(quiet).model_copy(update={"reference_caution": "The reference shares cases."})
    assert "! The reference shares cases." in show(comparison(shared))


def test_a_naive_baseline_that_is_not_beaten_is_marked(finished_check: Check, show: Any) -> None:
    text = show(show_check(finished_check))
    assert "+0.0500 [+0.0100, +0.0800]" in row(text, "the naive baseline ")
    assert "naive baseline: each voxel's commonest class" in text
    assert "¶" not in text
    text = show(show_check(with_changes(finished_check, {"result.naive_baseline_not_beaten": True})))
    assert row(text, "the naive baseline¶")
    assert "¶ the fine-tuned model does not beat the naive baseline." in text


def test_probes_and_measures_have_their_tables(finished_check: Check, show: Any) -> None:
    text = show(show_check(finished_check))
    assert "Probes" not in text
    assert "Beside MMD²" not in text
    interval = {"lower": 0.1, "upper": 0.15, "level": 0.95, "method": "", "degenerate": True}
    probes = [
        {"step": 24, "validation_score": 0.31, "shift": {"value": 0.125, "interval": interval}},
        {"step": 48, "validation_score": 0.4, "shift": {"absent_reason": "no kernel"}},
    ]
    measures = [
        {
            "name": "cka",
            "meaning": "similarity before to after",
            "value": {"value": 0.875, "absent_reason": "no interval"},
        },
        {"name": "logme", "meaning": "evidence", "value": {"absent_reason": "the task gives cases no class"}},
    ]
    text = show(show_check(with_changes(finished_check, {"result.probes": probes, "result.measures": measures})))
    assert row(text, "  24").split() == ["24", "0.125", "[0.100,", "0.150]†", "0.3100"]
    assert row(text, "  48").split() == ["48", "–", "0.4000"]
    assert "– no kernel" in text
    assert row(text, "cka").split() == ["cka", "0.875", "similarity", "before", "to", "after"]
    assert row(text, "logme").split(maxsplit=2)[1:] == ["–", "the task gives cases no class"]
    assert "no interval" not in text


def test_the_words_aligned_and_safe_are_never_said(finished_check: Check, show: Any) -> None:
    text = show(show_check(finished_check)).lower()
    assert "aligned" not in text
    assert "safe" not in text


def test_a_failed_check_says_why(show: Any) -> None:
    check = Check(
        check_id="c2",
        spec=CheckSpec(model_id="m1", dataset_id="d1", task="segmentation"),
        state="failed",
        create_time=TIME,
        failure=Failure(reason="LEAKAGE", message="test case c-1 is also in train [patient g-1]"),
    )
    text = show(show_check(check))
    assert "Check c2: failed" in text
    assert "LEAKAGE: test case c-1 is also in train [patient g-1]" in text
    assert "Shift" not in text


def test_a_stage_that_did_not_end_has_no_seconds(finished_check: Check, show: Any) -> None:
    check = with_changes(finished_check, {"stages": [{"name": "mmd", "attempts": 2}]})
    assert row(show(show_check(check)), "mmd").split() == ["mmd", "2", "–", "–"]


def test_a_job_that_waited_for_a_place_shows_its_own_time(finished_check: Check, show: Any) -> None:
    text = show(show_check(finished_check, jobs=[job_that_took(10.5)]))
    assert row(text, "job_pretrained").split() == ["job_pretrained", "1", "31.2", "10.5"]


def test_a_job_of_a_further_seed_or_of_a_trial_belongs_to_a_stage_of_its_own(finished_check: Check, show: Any) -> None:
    names = ("job_pretrained", "job_pretrained_s2", "job_pretrained_r1")
    stages = [CheckStage(name=name, attempts=1, seconds=40.0, end_time=TIME) for name in names]
    jobs = [job_that_took(5.0, "-r1"), job_that_took(10.0), job_that_took(20.0, "-s2")]
    text = show([show_stages(finished_check.model_copy(update={"stages": tuple(stages)}), jobs)])
    assert row(text, "job_pretrained ").split() == ["job_pretrained", "1", "40.0", "10.0"]
    assert row(text, "job_pretrained_s2").split() == ["job_pretrained_s2", "1", "40.0", "20.0"]
    assert row(text, "job_pretrained_r1").split() == ["job_pretrained_r1", "1", "40.0", "5.0"]


def job_that_took(seconds: float, suffix: str = "") -> Job:
    """A job of the pretrained network that waited for 20 s before it trained."""
    return Job(
        job_id=f"c1-pretrained{suffix}",
        spec=JobSpec(kind="finetune", dataset_id="d1", network="pretrained"),
        state="succeeded",
        create_time=TIME,
        start_time=TIME + timedelta(seconds=20),
        end_time=TIME + timedelta(seconds=20 + seconds),
    )


def compared(*layers: LayerResult) -> ComputeResponse:
    """The result of a comparison of four cases each."""
    return ComputeResponse(
        estimator="biased", primary_layer="features", rows_x=4, rows_y=4, groups=4, precision="float64", layers=layers
    )


def test_a_missing_p_value_comes_with_its_reason_once(show: Any) -> None:
    raw = ShiftResult(
        mmd2=Estimate(value=-0.001), sigma=1.0, p_value=Estimate(absent_reason="4 patients: no p-value below 8")
    )
    text = show(comparison(compared(*(LayerResult(layer=name, channels=3, raw=raw) for name in ("a", "b")))))
    assert text.count("no p-value below 8") == 1
    assert "−0.00100" in row(text, "a")


def test_measures_beside_mmd_have_a_table_and_a_missing_one_its_reason(show: Any) -> None:
    layer = LayerResult(layer="last", channels=3, raw=ShiftResult(mmd2=Estimate(value=0.1), sigma=1.0))
    assert "Beside MMD²" not in show(comparison(compared(layer)))
    energy = MeasureResult(measure="energy", dimension=3, value=Estimate(value=0.25, absent_reason="no interval"))
    cka = MeasureResult(measure="cka", value=Estimate(absent_reason="needs at least 4 rows"))
    text = show(comparison(compared(layer.model_copy(update={"measures": (energy, cka)}))))
    _, beside = text.split("Beside MMD²")
    assert row(beside, "last").split() == ["last", "energy", "raw", "0.250", "3"]
    assert "– needs at least 4 rows" in text
    assert "no interval" not in text
