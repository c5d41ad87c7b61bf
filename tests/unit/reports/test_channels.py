"""The report of a check about single channels: those that move most, and those that are left out."""

import re

import pytest

from vfmalign.analysis.checks.cautions import Caution, list_cautions
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import ExcludedMovement, ShiftResult, TopChannels
from vfmalign.reports.checks.page import PageSources, render

pytestmark = pytest.mark.usefixtures("drawings")


def html_of(report):
    return render(report, PageSources()).decode()


def with_layer(report, layer, **fields):
    """The report with other fields of the shift of one layer."""
    layers = tuple(one.model_copy(update=fields) if one.layer == layer else one for one in report.result.shift.layers)
    shift = report.result.shift.model_copy(update={"layers": layers})
    return report.model_copy(update={"result": report.result.model_copy(update={"shift": shift})})


def with_top_channels(report, layer, **fields):
    """The report with channels of one layer that hold most of its displacement."""
    top = TopChannels(
        count=2,
        displacement_share=Estimate(value=0.876, absent_reason="no interval"),
        shift_without=ShiftResult(mmd2=Estimate(value=0.0123, absent_reason="no interval"), sigma=4.0),
    ).model_copy(update=fields)
    return with_layer(report, layer, top_channels=top)


def test_channels_that_move_most_have_a_table_and_a_caution(make_report):
    report = make_report()
    assert "share of displacement" not in html_of(report)
    assert "Few channels" not in " ".join(caution.title for caution in list_cautions(report.result))
    with_share = with_top_channels(report, "stages.3")
    table = next(part for part in html_of(with_share).split("<table") if "share of displacement</th>" in part)
    assert re.findall(r"<td[^>]*>([^<]*)</td>", table) == ["stages.3", "2 of 128", "87.6 %", "0.0123"]
    assert "no interval" not in table
    assert list_cautions(with_share.result) == list_cautions(report.result)
    cautioned = with_top_channels(report, "stages.3", caution="2 of 128 channels hold 87.6 %.")
    assert Caution(
        title="Few channels dominate the shift", text="stages.3: 2 of 128 channels hold 87.6 %."
    ) in list_cautions(cautioned.result)
    assert "stages.3: 2 of 128 channels hold 87.6 %." in html_of(cautioned)


def test_excluded_channels_that_move_have_a_caution(make_report):
    report = make_report()
    moved = ExcludedMovement(count=16, displacement=Estimate(value=0.4), caution="16 of 128 channels moved.")
    cautioned = with_layer(report, "stages.3", excluded_movement=moved)
    title = "Channels that move are left out of the shift"
    assert Caution(title=title, text="stages.3: 16 of 128 channels moved.") in list_cautions(cautioned.result)
    assert "stages.3: 16 of 128 channels moved." in html_of(cautioned)
    quiet = with_layer(report, "stages.3", excluded_movement=moved.model_copy(update={"caution": ""}))
    assert list_cautions(quiet.result) == list_cautions(report.result)


def test_mmd2_without_the_top_channels_that_is_absent_shows_its_reason(make_report):
    without = ShiftResult(mmd2=absent("no channel remains without them"), sigma=0.0)
    html = html_of(with_top_channels(make_report(), "stages.0", shift_without=without))
    assert "o channel remains without them" in html
