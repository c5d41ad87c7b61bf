"""The verdict depends on the interval only."""

import pytest

from vfmalign.client.messages.checks import Gain
from vfmalign.client.messages.common import Estimate, Interval
from vfmalign.finetuning.analysis.verdict import decide_verdict


def gain(lower, upper, groups=20):
    interval = None if lower is None else Interval(lower=lower, upper=upper, level=0.95, method="m")
    relative = Estimate(value=1.0, interval=interval, absent_reason="" if interval else "under the floor")
    return Gain(
        relative_percent=relative,
        absolute=relative,
        score=0.6,
        baseline=0.5,
        cases=groups,
        groups=groups,
        cases_left_out=0,
    )


@pytest.mark.parametrize(
    ("lower", "upper", "label"),
    [(0.1, 5.0, "gain"), (-5.0, -0.1, "harm"), (-1.0, 2.0, "no_clear_gain"), (0.0, 2.0, "no_clear_gain")],
)
def test_interval_is_compared_with_zero(lower, upper, label):
    assert decide_verdict(gain(lower, upper), held_out=True).label == label


def test_too_few_patients_no_held_out_case_or_no_interval_is_insufficient():
    assert decide_verdict(gain(1.0, 2.0, groups=7), held_out=True).label == "insufficient_data"
    assert decide_verdict(gain(1.0, 2.0), held_out=False).label == "insufficient_data"
    missing = decide_verdict(gain(None, None), held_out=True)
    assert missing.label == "insufficient_data"
    assert "floor" in missing.reason


def test_no_verdict_calls_a_model_aligned_or_safe():
    for interval in ((1.0, 2.0), (-2.0, -1.0), (-1.0, 1.0), (None, None)):
        verdict = decide_verdict(gain(*interval), held_out=True)
        assert "aligned" not in f"{verdict.label} {verdict.reason}".lower()
        assert "safe" not in f"{verdict.label} {verdict.reason}".lower()
