"""What a person reads at the end of a check."""

from __future__ import annotations

from typing import Any

from tests.unit.cli.conftest import TIME, with_changes

from vfmalign.cli.views.check_tables import show_check
from vfmalign.cli.views.comparison_tables import comparison
from vfmalign.client.messages.checks import Check, CheckSpec
from vfmalign.client.messages.common import Estimate, Failure
from vfmalign.client.messages.mmd import (
    ComputeResponse,
    ExcludedMovement,
    LayerResult,
    MeasureResult,
    ShiftResult,
    TopChannels,
)

PAGE = "reports/c1.html"


def row(text: str, first: str) -> str:
    """The line that begins with a word."""
    return next(line for line in text.splitlines() if line.startswith(first))


def test_a_check_has_its_answers_their_numbers_its_cautions_and_its_report(finished_check: Check, show: Any) -> None:
    text = show(show_check(finished_check, PAGE))
    assert "lesion Dice on 16 test patients (higher is better, smallest relevant difference 0.01)" in text
    assert "your model minus …" in text
    lower = with_changes(finished_check, {"result.metric.higher_is_better": False})
    assert "… minus your model" in show(show_check(lower, PAGE))
    assert "Verdict: the interval includes zero." in text
    specialised = row(text, "the specialised network").removeprefix("the specialised network")
    assert specialised.split() == ["0.5700", "0.5500", "+0.0200", "[−0.0100,", "+0.0500]"]
    assert row(text, "MMD² between before and after").split()[-3:] == ["0.250", "[0.240,", "0.260]"]
    assert row(text, "  as a share of that of random weights").split()[-1] == "0.500"
    assert row(text, "steps to 95 % of the improvement").split()[-3:] == ["72", "of", "120"]
    assert "! Phantom rehearsal" in text
    assert text.splitlines()[-1] == "Report: reports/c1.html"
    assert len(text.splitlines()) <= 24


def test_an_old_result_of_one_seed_keeps_its_label_and_has_no_answer_on_pretraining(
    finished_check: Check, show: Any
) -> None:
    lines = show(show_check(with_changes(finished_check, {"result.verdict": "gain"}), PAGE)).splitlines()
    assert lines[0] == "the interval includes zero"
    assert lines[1] == ("Check c1 (segmentation): verdict gain, pretraining not assessed (1 training of each network)")
    assert not any(line.startswith("Pretraining:") for line in lines)


def test_both_answers_come_first_and_their_reasons_below(decided_check: Check, show: Any) -> None:
    lines = show(show_check(decided_check, PAGE)).splitlines()
    assert decided_check.result is not None
    assert lines[0] == decided_check.result.summary
    assert lines[1] == "Check c1 (segmentation): verdict inconclusive, pretraining gain"
    assert "Verdict: the interval includes zero." in lines
    assert "Pretraining: the interval lies above zero." in lines


def test_a_number_that_is_absent_has_its_reason(finished_check: Check, show: Any) -> None:
    reason = "the difference is the same for all test patients"
    changes = {
        "result.rpg_scratch.absolute": {"value": 0.0, "absent_reason": reason},
        "result.shifts.0.shift_ratio": {"absent_reason": "the shift to random weights is zero"},
        "result.convergence.steps_to_95": {"absent_reason": "the rise is within noise"},
    }
    text = show(show_check(with_changes(finished_check, changes), PAGE))
    assert row(text, "the same network without pretraining").split()[-1] == "+0.00"
    assert f"– {reason}" in text
    assert "– the shift to random weights is zero" in text
    assert "– steps to 95 %: the rise is within noise" in text


def test_a_layer_out_of_the_kernel_s_reach_is_marked(finished_check: Check, show: Any) -> None:
    assert "§" not in show(show_check(finished_check, PAGE))
    changes = {"result.shifts.0.paired_similarity.value": 0.0123, "result.shifts.0.saturated": True}
    text = show(show_check(with_changes(finished_check, changes), PAGE))
    assert row(text, "MMD² between before and after").endswith("§")
    assert "Features moved far; MMD² does not say how far" in text


TOP_CHANNELS = TopChannels(
    count=2,
    displacement_share=Estimate(value=0.876, absent_reason="no interval"),
    shift_without=ShiftResult(
        mmd2=Estimate(value=0.0123, absent_reason="no interval"), sigma=4.0, below_error_bound=True
    ),
    caution="2 of 128 channels hold 87.6 % of it.",
)


def test_a_comparison_shows_channels_that_move_most_and_its_caution(show: Any) -> None:
    shift = ShiftResult(mmd2=Estimate(value=0.5), sigma=1.0)
    layer = LayerResult(layer="last", channels=130, channels_excluded=2, raw=shift, standardised=shift)
    text = show(comparison(compared(layer.model_copy(update={"top_channels": TOP_CHANNELS}))))
    _, table = text.split("Channels that move most")
    assert row(table, "last").split() == ["last", "2", "of", "128", "87.6", "%", "0.500", "0.0123‡"]
    assert "! last: 2 of 128 channels hold 87.6 % of it." in text
    absent = ShiftResult(mmd2=Estimate(absent_reason="no channel remains without them"), sigma=0.0)
    alone = TOP_CHANNELS.model_copy(update={"shift_without": absent})
    text = show(comparison(compared(layer.model_copy(update={"top_channels": alone}))))
    assert "– no channel remains without them" in text
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
    text = show(show_check(finished_check, PAGE))
    assert "+0.0500 [+0.0100, +0.0800]" in row(text, "the naive baseline (each voxel's commonest class) ")
    assert "¶" not in text
    text = show(show_check(with_changes(finished_check, {"result.naive_baseline_not_beaten": True}), PAGE))
    assert row(text, "the naive baseline (each voxel's commonest class)¶")
    assert "¶ the fine-tuned model does not beat the naive baseline." in text


def test_the_words_aligned_and_safe_are_never_said(finished_check: Check, show: Any) -> None:
    text = show(show_check(finished_check, PAGE)).lower()
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
    text = show(show_check(check, PAGE))
    assert "Check c2: failed" in text
    assert "LEAKAGE: test case c-1 is also in train [patient g-1]" in text
    assert "shift" not in text


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
