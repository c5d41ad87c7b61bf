"""What a person reads at the end of a check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vfmalign.cli.views.check_tables import show_check
from vfmalign.cli.views.comparison_tables import comparison
from vfmalign.client.messages.mmd import ComputeResponse
from vfmalign.v1 import alignment_pb2, common_pb2, finetuning_pb2, mmd_pb2


def row(text: str, first: str) -> str:
    """The line that begins with a word."""
    return next(line for line in text.splitlines() if line.startswith(first))


def test_the_summary_holds_every_number_of_the_check(finished_check: alignment_pb2.Check, show: Any) -> None:
    text = show(show_check(finished_check, Path("reports/c1.html")))
    assert "verdict no_clear_gain" in text
    assert "the interval includes zero" in text
    assert row(text, "stages.3 *").split() == [
        "stages.3", "*", "128", "0.25", "[0.24,", "0.26]", "0.125", "[0.115,", "0.135]", "0.001", "0.001", "0.5",
        "0.75",
    ]  # fmt: skip
    assert "† " in row(text, "stages.0") + " "
    assert "+3.5 % [-2, +9]" in row(text, "specialised (rpg_specialised)")
    assert "—" in row(text, "scratch (rpg_scratch)")
    assert "the baseline is under the floor" in text
    assert row(text, "steps to 95 %").split()[-1] == "72"
    assert "more than 120" in row(text, "steps to the specialised")
    assert row(text, "job_pretrained").split() == ["job_pretrained", "1", "31.2", "31.2"]
    assert "! Phantom rehearsal" in text
    assert "s3://vfmalign/checks/c1/report.html" in text
    assert "reports/c1.html" in text


def test_a_layer_out_of_the_kernel_s_reach_is_marked(finished_check: alignment_pb2.Check, show: Any) -> None:
    assert "§" not in show(show_check(finished_check))
    finished_check.result.shifts[0].paired_similarity.value = 0.0123
    finished_check.result.shifts[0].saturated = True
    text = show(show_check(finished_check))
    assert row(text, "stages.3 *").split()[-1] == "0.0123§"
    assert "Features moved far; MMD² does not say how far" in text


def test_a_naive_baseline_that_is_not_beaten_is_marked(finished_check: alignment_pb2.Check, show: Any) -> None:
    text = show(show_check(finished_check))
    assert "+0.05 [+0.01, +0.08]" in row(text, "naive baseline ")
    assert "naive baseline: each voxel's commonest class" in text
    assert "¶" not in text
    finished_check.result.naive_baseline_not_beaten = True
    text = show(show_check(finished_check))
    assert row(text, "naive baseline¶")
    assert "¶ the fine-tuned model does not beat the naive baseline." in text


def test_probes_and_measures_have_their_tables(finished_check: alignment_pb2.Check, show: Any) -> None:
    text = show(show_check(finished_check))
    assert "Probes" not in text
    assert "Beside MMD²" not in text
    result = finished_check.result
    probe = result.probes.add(step=24, validation_score=0.31)
    probe.shift.value = 0.125
    probe.shift.interval.CopyFrom(common_pb2.Interval(lower=0.1, upper=0.15, level=0.95, degenerate=True))
    result.probes.add(step=48, validation_score=0.4).shift.absent_reason = "no kernel"
    cka = result.measures.add(name="cka", meaning="similarity before to after")
    cka.value.value, cka.value.absent_reason = 0.875, "no interval"
    result.measures.add(name="logme", meaning="evidence").value.absent_reason = "the task gives cases no class"
    text = show(show_check(finished_check))
    assert row(text, "  24").split() == ["24", "0.125", "[0.1,", "0.15]†", "0.31"]
    assert row(text, "  48").split() == ["48", "—", "0.4"]
    assert "— no kernel" in text
    assert row(text, "cka").split() == ["cka", "0.875", "similarity", "before", "to", "after"]
    assert row(text, "logme").split(maxsplit=2)[1:] == ["—", "the task gives cases no class"]
    assert "no interval" not in text


def test_the_words_aligned_and_safe_are_never_said(finished_check: alignment_pb2.Check, show: Any) -> None:
    text = show(show_check(finished_check)).lower()
    assert "aligned" not in text
    assert "safe" not in text


def test_a_failed_check_says_why(show: Any) -> None:
    check = alignment_pb2.Check(check_id="c2", state=alignment_pb2.CHECK_STATE_FAILED)
    check.failure.reason, check.failure.message = "LEAKAGE", "test case c-1 is also in train [patient g-1]"
    text = show(show_check(check))
    assert "Check c2: failed" in text
    assert "LEAKAGE: test case c-1 is also in train [patient g-1]" in text
    assert "Shift" not in text


def test_a_stage_that_did_not_end_has_no_seconds(finished_check: alignment_pb2.Check, show: Any) -> None:
    finished_check.stages.add(name="mmd", attempts=2)
    assert row(show(show_check(finished_check)), "mmd").split() == ["mmd", "2", "—", "—"]


def test_a_job_that_waited_for_a_place_shows_its_own_time(finished_check: alignment_pb2.Check, show: Any) -> None:
    job = finetuning_pb2.Job(spec=finetuning_pb2.JobSpec(network=finetuning_pb2.NETWORK_PRETRAINED))
    job.start_time.FromMilliseconds(1_700_000_020_000)
    job.end_time.FromMilliseconds(1_700_000_030_500)
    text = show(show_check(finished_check, jobs=[job]))
    assert row(text, "job_pretrained").split() == ["job_pretrained", "1", "31.2", "10.5"]


def test_a_missing_p_value_comes_with_its_reason_once(show: Any) -> None:
    response = mmd_pb2.ComputeResponse(estimator=1, primary_layer="features", rows_x=4, rows_y=4, groups=4)
    for name in ("a", "b"):
        layer = response.layers.add(layer=name, channels=3)
        layer.raw.mmd2.value = -0.001
        layer.raw.p_value.absent_reason = "4 patients: no p-value below 8"
    text = show(comparison(ComputeResponse.from_proto(response)))
    assert text.count("no p-value below 8") == 1
    assert "-0.001" in row(text, "a")


def test_measures_beside_mmd_have_a_table_and_a_missing_one_its_reason(show: Any) -> None:
    response = mmd_pb2.ComputeResponse(estimator=1, primary_layer="features", rows_x=3, rows_y=3, groups=3)
    layer = response.layers.add(layer="last", channels=3)
    layer.raw.mmd2.value = 0.1
    assert "Beside MMD²" not in show(comparison(ComputeResponse.from_proto(response)))
    energy = layer.measures.add(measure=mmd_pb2.MEASURE_ENERGY, dimension=3)
    energy.value.value, energy.value.absent_reason = 0.25, "no interval"
    layer.measures.add(measure=mmd_pb2.MEASURE_CKA).value.absent_reason = "needs at least 4 rows"
    text = show(comparison(ComputeResponse.from_proto(response)))
    _, beside = text.split("Beside MMD²")
    assert row(beside, "last").split() == ["last", "energy", "raw", "0.25", "3"]
    assert "— needs at least 4 rows" in text
    assert "no interval" not in text
