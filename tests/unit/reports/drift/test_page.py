"""The page of a monitor: self-contained, and clear about alarm, strength and what moved."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError
from tests.drift_documents import THRESHOLD, make_document, make_window

from vfmalign.client.messages.common import Estimate, Interval
from vfmalign.reports.drift import figures, wording
from vfmalign.reports.drift.document import (
    MAX_POINTS,
    ComponentEvidence,
    DriftDocument,
    EvidencePoint,
    StratumMix,
    StratumRows,
)
from vfmalign.reports.drift.page import render


def read(document: DriftDocument) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", render(document).decode(), flags=re.DOTALL))


def test_the_page_is_self_contained() -> None:
    html = render(make_document()).decode()
    assert "default-src 'none'" in html
    assert not re.search(r"<(script|link|iframe|img|object|form)\b|@import|url\(|https?:|\son\w+=", html)


def test_the_first_screen_says_whether_since_when_how_strong_and_what_moved() -> None:
    first = render(make_document()).decode().partition("</main>")[0]
    for words in (
        "Alarm since row 231 of 400, 169 rows ago: the stream no longer looks like the reference.",
        "Raised by rows, observation <code>c-5f5b865d1efe1613</code>.",
        "Strongest evidence now: rows, 1.1 × 10¹⁷.",
        "Threshold: 375.",
        "The mix of scanner differs: B is 50 % of the stream, 25 % of the reference",
        "Last 100 rows: MMD² 0.0500 (0.0400 to 0.0600).",
        "Within each scanner: A MMD² 0.00400 (\u22120.00600 to 0.0140); B no MMD², because a comparison needs 8 rows",
        "Channels: 10 of 768 hold 90 % of the shift of the mean; channel 0 moved most (+1.00 SD).",
        "MMD² describes: α does not cover it",
        "at most 0.01",
    ):
        assert words in first


def test_the_mix_names_the_stratum_that_differs_and_not_the_largest_share() -> None:
    mix = make_document().mix
    assert mix is not None
    # The evidence of "others" alone, ln E = 7.0, is above the threshold; that of B, whose share fell most, is −5.4.
    counts = {"A": (334, 520), "B": (333, 452), "": (0, 28)}
    strata = tuple(StratumRows(name=name, reference=one, stream=two) for name, (one, two) in counts.items())
    document = make_document(mix=mix.model_copy(update={"strata": strata}))
    assert wording.list_changes(document)[0].startswith(
        "The mix of scanner differs: others is 3 % of the stream, 0 % of the reference"
    )


def test_without_an_alarm_the_page_does_not_suggest_one() -> None:
    text = read(make_document(alarm_row=None))
    assert "No alarm in 400 rows." in text
    assert "the features are not shown to differ, and this describes them" in text
    assert "Alarm since" not in text
    assert "▲" not in text
    assert "No guarantee" not in text


def test_a_time_is_shown_where_it_is_known() -> None:
    alarm = make_document().alarm
    assert alarm is not None
    moment = datetime(2026, 3, 1, 7, 30, tzinfo=UTC)
    timed = make_document(alarm=alarm.model_copy(update={"time": moment, "row": 400}))
    assert wording.write_verdict(timed).startswith(
        "Alarm since row 400 of 400, 01 March 2026, 07:30 UTC, the last one:"
    )


def test_a_run_length_and_an_epoch_without_a_guarantee_are_stated() -> None:
    text = read(make_document(alpha=None, run_length=1000))
    assert "a false alarm within T rows with probability at most T/1,000" in text
    assert "any line reaches the threshold within T rows is at most T/1" in text
    text = read(make_document(has_guarantee=False))
    assert "No guarantee. The rate of false alarms of this epoch has no bound." in text
    assert "no bound on false alarms in this epoch" in text
    assert "is at most" not in text


def test_a_stream_without_rows_strata_and_windows_has_a_page() -> None:
    empty = make_document(
        rows=0, alarm_row=None, mix=None, windows=(), extreme_rows=(), channel_shifts=(), moved_rows=0
    )  # fmt: skip
    text = read(empty)
    assert "No row has entered yet: nothing can be said." in text
    assert "Mix of strata" not in text
    assert "Extreme rows" not in text


def test_foreign_text_is_escaped() -> None:
    hostile = "<script>alert(1)</script>\u202e"
    document = make_document(title=hostile, layer=hostile, notes=(hostile,), windows=(make_window(1, 9, 1, hostile),))
    html = render(document).decode()
    assert "<script" not in html
    assert "\u202e" not in html


def test_every_figure_is_named_and_described() -> None:
    document = make_document()
    for figure in (figures.draw_evidence(document), figures.draw_windows(document)):
        svg = ElementTree.fromstring(str(figure))
        assert svg.get("role") == "img"
        named = {one.get("id"): one.text for one in svg if one.tag in {"title", "desc"}}
        assert named[svg.get("aria-labelledby")]
        assert re.search(r"\d", str(named[svg.get("aria-describedby")]))
    assert "alarm at row 231; after 400 rows, rows: " in str(figures.draw_evidence(document))
    assert figures.draw_windows(make_document(windows=(make_window(1, 9, math.nan),))) is None


@pytest.mark.parametrize("values", [(1e5, -1e5), (-900.0, 700.0), (0.0, 0.0)], ids=str)
def test_evidence_of_any_size_is_drawn_within_the_figure(values: tuple[float, float]) -> None:
    history = tuple(EvidencePoint(row=row, log_evidence=(value, None, value)) for row, value in enumerate(values, 1))
    svg = ElementTree.fromstring(str(figures.draw_evidence(make_document(rows=2, alarm_row=2, history=history))))
    for line in svg.iter("polyline"):
        for pair in line.get("points", "").split():
            assert all(0 <= float(number) <= 1000 for number in pair.split(","))
    assert len(list(svg.iter("text"))) < 20


def test_an_interval_that_is_degenerate_is_dashed() -> None:
    svg = ElementTree.fromstring(str(figures.draw_windows(make_document())))
    bars = [line for line in svg.iter("line") if line.get("class") == "interval"]
    assert [line.get("stroke-dasharray") is not None for line in bars] == [True, True, False, False]
    without = make_window(1, 100, 0.1).model_copy(update={"mmd2": Estimate(value=0.1, absent_reason="few")})
    assert "interval" not in str(figures.draw_windows(make_document(windows=(without,)))).partition("<g")[2]


@pytest.mark.parametrize(
    ("value", "text"),
    [(375, "375"), (1, "1.0"), (0.0312, "0.031"), (9999, "9,999"), (10_000, "1.0 × 10⁴"), (9.97e7, "1.0 × 10⁸"),
     (0.00213, "2.1 × 10⁻³"), (1.5e300, "1.5 × 10³⁰⁰")],
)  # fmt: skip
def test_evidence_is_written_as_a_number_or_with_a_power_of_ten(value: float, text: str) -> None:
    assert wording.format_power(math.log(value)) == text
    assert wording.format_power(None) == "–"


def test_a_document_bounds_its_history_and_refuses_unknown_fields_and_versions() -> None:
    content = make_document().model_dump(mode="json")
    assert DriftDocument.model_validate_json(make_document().to_json()) == make_document()
    point = content["history"][0]
    for change in ({"version": 2}, {"further": 1}, {"history": [point] * (MAX_POINTS + 4)}):
        with pytest.raises(ValidationError):
            DriftDocument.model_validate(content | change)


def test_a_mix_is_only_said_to_differ_above_its_threshold() -> None:
    mix = make_document().mix
    assert isinstance(mix, StratumMix)
    quiet = make_document(mix=mix.model_copy(update={"log_evidence": THRESHOLD - 0.01}))
    assert wording.list_changes(quiet)[0].startswith("The mix of scanner is not shown to differ")


def test_rows_without_a_stratum_are_counted_aloud() -> None:
    document = make_document()
    assert document.mix is not None
    known = sum(one.stream for one in document.mix.strata)
    assert wording.list_changes(make_document(rows=known + 3))[1] == f"3 of {known + 3} rows came without a scanner"
    assert not any("without" in change for change in wording.list_changes(make_document(rows=known)))


def test_the_strongest_component_is_the_one_nearest_to_its_own_threshold() -> None:
    calibrated = tuple(
        ComponentEvidence(component=name, log_evidence=value, log_threshold=limit)
        for name, value, limit in (("rows", 7.0, 7.09), ("blocks_of_4", 7.0, 7.2), ("blocks_of_16", None, 6.8))
    )
    assert make_document(components=calibrated).strongest.component == "rows"
    interval = Interval(lower=0.1, upper=0.2, level=0.95, method="")
    assert (
        wording.describe_window(
            make_window(1, 9, 0.1).model_copy(update={"mmd2": Estimate(value=0.15, interval=interval)})
        )
        == "MMD² 0.150 (0.100 to 0.200)"
    )
