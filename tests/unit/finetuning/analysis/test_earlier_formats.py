"""Artifacts in `earlier_version/` were written by a development version whose records had keys of their own."""

import json
from pathlib import Path

import pytest

from vfmalign.client.messages.checks import Probe, Steps
from vfmalign.client.messages.common import Estimate, Interval
from vfmalign.client.messages.mmd import ProjectionPoint
from vfmalign.finetuning.analysis.records import CheckReport, FeatureShift
from vfmalign.finetuning.checks.probes import TakenProbes

ARTIFACTS = Path(__file__).parent / "earlier_version"
SHIFT = Estimate(value=0.031, interval=Interval(lower=0.02, upper=0.042, level=0.95, method="jackknife"))
PROBES = (
    Probe(step=12, shift=SHIFT, validation_score=0.21),
    Probe(
        step=60, shift=Estimate(value=0.04, absent_reason="7 patients: no interval below 8"), validation_score=0.4567
    ),
)
LATER_INTERVALS = {
    "equivalence_interval": True, "relative_percent": {"interval", "absent_reason"}, "absolute": {"interval"},
}  # fmt: skip
"""Intervals of gains, whose method has changed."""
LATER_FIELDS = {
    "metrics": {"__all__": {"smallest_difference"}},
    "verdict": True,
    "rpg_specialised": LATER_INTERVALS,
    "rpg_scratch": LATER_INTERVALS,
    "networks": {"__all__": {"convergence": {"noise"}}},
    "naive_baseline": {"gain": LATER_INTERVALS},
}
"""What results had not yet, or derived from other numbers."""


def within_rounding(value):
    """Nested fields that equal those whose floats differ in their last digits, as they do between processors."""
    if isinstance(value, dict):
        return {key: within_rounding(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(within_rounding(item) for item in value)
    return pytest.approx(value, rel=1e-9) if isinstance(value, float) else value


def test_an_earlier_report_has_the_numbers_of_a_present_one(make_report):
    earlier = CheckReport.model_validate_json((ARTIFACTS / "report.json").read_bytes())
    present = make_report(probes=PROBES).result
    assert earlier.result.model_dump(exclude=LATER_FIELDS) == within_rounding(present.model_dump(exclude=LATER_FIELDS))
    assert earlier.result.rpg_specialised.equivalence_interval is None
    assert {metric.smallest_difference for metric in earlier.result.metrics} == {0.0}
    assert earlier.result.verdict.label == "gain"
    assert earlier.result.network("scratch").convergence.steps_to_baseline == Steps(value=120, censored=True)


def test_the_earlier_verdict_no_clear_gain_is_inconclusive():
    content = json.loads((ARTIFACTS / "report.json").read_text())
    content["result"]["verdict"] |= {"label": "no_clear_gain", "reason": "includes zero"}
    verdict = CheckReport.model_validate(content).result.verdict
    assert (verdict.label, verdict.reason) == ("inconclusive", "includes zero")


def test_earlier_comparisons_are_read_with_their_projection():
    earlier = FeatureShift.model_validate_json((ARTIFACTS / "mmd.json").read_bytes())
    stored = json.loads((ARTIFACTS / "mmd.json").read_text())["after"]
    assert (earlier.after.rows_x, earlier.after.rows_y) == (stored["rows"], stored["rows"])
    assert earlier.after.projection.x[0] == ProjectionPoint(
        u=stored["projection"]["before"][0][0], v=stored["projection"]["before"][0][1]
    )
    assert earlier.reinitialised.projection is None


def test_earlier_probes_are_read():
    earlier = TakenProbes.model_validate_json((ARTIFACTS / "probes.json").read_bytes())
    assert tuple(taken.probe for taken in earlier.probes) == PROBES


def test_a_present_report_reads_back_what_it_stored(make_report):
    report = make_report(probes=PROBES)
    assert CheckReport.model_validate_json(report.to_json()) == report


@pytest.mark.parametrize("key", ["relative", "difference", "budget", "val_score", "rows", "steps_to_specialised"])
def test_new_reports_hold_no_earlier_key(make_report, key):
    assert f'"{key}":' not in make_report(probes=PROBES).to_json().decode()
