"""Both answers of a check in one sentence."""

import pytest

from vfmalign.analysis.checks.summary import write_summary
from vfmalign.analysis.checks.verdict import Verdict
from vfmalign.client.messages.checks import Gain
from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.core.domain.jobs import MetricSpec

HD95 = MetricSpec(name="lesion_hd95", unit="mm", higher_is_better=False, floor=0.5, smallest_difference=1.0)
BETTER = (0.047, 0.018, 0.081)
OPEN = (0.0, -0.038, 0.039)
WORSE = (-0.047, -0.081, -0.018)
AS_GOOD = (0.001, -0.004, 0.006)


def gain(value, lower, upper, *, groups=40):
    """A gain with this difference and interval; its equivalence interval is as wide."""
    wide, narrow = (Interval(lower=lower, upper=upper, level=level, method="m") for level in (0.95, 0.9))
    return Gain(
        relative_percent=absent("none"), absolute=Estimate(value=value, interval=wide), equivalence_interval=narrow,
        score=0.6, baseline=0.6 - value, cases=groups, groups=groups,
    )  # fmt: skip


@pytest.fixture
def write(make_seeds_report):
    def build(specialised, scratch, *, seeds=3, **fields):
        gains = {"rpg_specialised": gain(*specialised), "rpg_scratch": gain(*scratch)}
        return write_summary(make_seeds_report(seeds, **(gains | fields)).result)

    return build


def test_a_gain_of_the_architecture_alone_is_no_gain_of_pretraining(write):
    assert write(BETTER, OPEN) == (
        "Better than the specialised network (+0.047, +0.018 to +0.081), but not shown to be better than the same "
        "network without pretraining (0.000, −0.038 to +0.039)."
    )


def test_a_gain_over_both_is_stated_of_both(write):
    assert write(BETTER, (0.03, 0.01, 0.05)) == (
        "Better than the specialised network (+0.047, +0.018 to +0.081), and better than the same network without "
        "pretraining (+0.030, +0.010 to +0.050)."
    )


@pytest.mark.parametrize(
    ("specialised", "scratch", "first", "second"),
    [
        (WORSE, BETTER, "Worse than the specialised network (−0.047", ", but better than the same network"),
        (WORSE, WORSE, "Worse than", ", and worse than the same network"),
        (WORSE, OPEN, "Worse than", ", and not shown to be better than the same network"),
        (OPEN, WORSE, "Not shown to be better than", ", and worse than the same network"),
        (OPEN, BETTER, "Not shown to be better than", ", but better than the same network"),
        (AS_GOOD, AS_GOOD, "As good as the specialised network (+0.001", ", and as good as the same network"),
        (BETTER, AS_GOOD, "Better than", ", but as good as the same network"),
        (AS_GOOD, OPEN, "As good as", ", but not shown to be better than the same network"),
    ],
)
def test_harm_equivalence_and_doubt_are_stated_of_either_network(write, specialised, scratch, first, second):
    summary = write(specialised, scratch)
    assert summary.startswith(first)
    assert second in summary


def test_one_training_on_phantoms_decides_nothing(make_report):
    gains = {"rpg_specialised": gain(*BETTER), "rpg_scratch": gain(*OPEN)}
    differences = (
        "the difference to the specialised network (+0.047, +0.018 to +0.081) and to the same network without "
        "pretraining (0.000, −0.038 to +0.039) may be chance."
    )
    phantom = make_report(phantom=True, **gains).result
    assert write_summary(phantom) == f"1 training on phantoms decides nothing: {differences}"
    old = make_report(verdict=Verdict(label="gain", reason="r"), pretraining=None, **gains).result
    assert write_summary(old) == f"1 training decides nothing: {differences}", "whatever an old result is labelled"


def test_two_trainings_decide_nothing(write):
    assert write(BETTER, BETTER, seeds=2).startswith("2 trainings decide nothing: the difference to")


def test_an_old_result_was_not_assessed_on_pretraining(write):
    assert write(BETTER, OPEN, pretraining=None) == (
        "Better than the specialised network (+0.047, +0.018 to +0.081); whether pretraining helps was not assessed."
    )


def test_insufficient_data_is_no_verdict_on_either(write):
    assert write(BETTER, OPEN, held_out=False) == ("No verdict: no case was held out: the scores are descriptive only.")
    without = Gain(
        relative_percent=absent("none"), absolute=Estimate(value=0.1, absent_reason="no variation"), cases=40, groups=40
    )
    assert write(BETTER, OPEN, rpg_specialised=without) == "No verdict: no variation."


def test_differences_have_the_unit_of_the_metric(write):
    metrics = {"metrics": (HD95,), "primary_metric": "lesion_hd95"}
    specialised, scratch = (4.2, 1.8, 6.61), (0.3, -2.4, 3.0)
    assert write(specialised, scratch, **metrics) == (
        "Better than the specialised network (+4.2 mm, +1.8 to +6.6 mm), but not shown to be better than the same "
        "network without pretraining (+0.3 mm, −2.4 to +3.0 mm)."
    )


def test_a_difference_without_an_interval_or_a_value_says_so(make_report):
    no_interval = gain(*BETTER).model_copy(update={"absolute": Estimate(value=0.1, absent_reason="no variation")})
    undefined = gain(*OPEN).model_copy(update={"absolute": absent("one class")})
    summary = write_summary(make_report(rpg_specialised=no_interval, rpg_scratch=undefined).result)
    assert "the specialised network (+0.100, no interval) and to the same network without pretraining (undefined)" in (
        summary
    )


def test_few_patients_are_not_shown_to_be_better(write):
    summary = write(BETTER, OPEN, rpg_scratch=gain(*BETTER, groups=12))
    assert "but not shown to be better than the same network without pretraining (+0.047, +0.018 to" in summary
