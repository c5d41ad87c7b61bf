"""The page of a monitor: self-contained, and clear about alarm, strength and what moved."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError
from tests.drift_documents import LOG_THRESHOLD, make_document, make_window

from vfmalign.client.messages.common import Estimate, Interval
from vfmalign.reports.drift import figures, wording
from vfmalign.reports.drift.document import (
    MAX_POINTS,
    ComponentEvidence,
    DriftDocument,
    EvidencePoint,
    Peak,
    StratumMix,
    StratumRows,
)
from vfmalign.reports.drift.page import render


def mix_of(**counts: tuple[int, int]) -> StratumMix:
    """A mix of scanners by their rows of the reference and of the stream; `unknown` stands for an unknown one."""
    rows = {"" if name == "unknown" else name: pair for name, pair in counts.items()}
    return StratumMix(
        kind="scanner", strata=tuple(StratumRows(name=name, reference=a, stream=b) for name, (a, b) in rows.items())
    )


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
        "Strongest evidence now: rows, 1.1 × 10¹⁷ (threshold 313).",
        "Highest in this epoch: rows, 1.1 × 10¹⁷ (threshold 313), after row 400.",
        "the order of the studies, sessions or seasons may also raise it",
        "The share of scanner B has changed most: 50 % of the stream, 25 % of the reference.",
        "Last 100 rows: MMD² 0.0500 (0.0400 to 0.0600).",
        "Within each scanner: A MMD² 0.00400 (\u22120.00600 to 0.0140); B no MMD², because a comparison needs 8 rows",
        "Channels: 10 of 768 hold 90 % of the shift of the mean; channel 0 moved most (+1.00 SD).",
        "MMD² describes: α does not cover it",
        "is at most 0.01, if the studies of one scanner are exchangeable.",
        "This does not cover autocorrelation and seasons",
    ):
        assert words in first


@pytest.mark.parametrize(
    ("counts", "sentences"),
    [
        (
            {"A": (100, 300), "B": (60, 60), "C": (40, 40)},
            ["The share of scanner A has changed most: 75 % of the stream, 50 % of the reference"],
        ),
        (
            {"A": (100, 40), "B": (60, 60), "C": (40, 40)},
            ["The share of scanner A has changed most: 29 % of the stream, 50 % of the reference"],
        ),
        # The shares of two strata change by as much: the one that grew is named, whatever its place.
        (
            {"A": (50, 70), "B": (50, 30)},
            ["The share of scanner A has changed most: 70 % of the stream, 50 % of the reference"],
        ),
        (
            {"A": (50, 30), "B": (50, 70)},
            ["The share of scanner B has changed most: 70 % of the stream, 50 % of the reference"],
        ),
        ({"A": (50, 100), "B": (50, 100)}, []),
        ({"A": (50, 400)}, []),
        (
            {"A": (133, 300), "C": (0, 1), "D": (0, 100)},
            [
                "The share of scanner A has changed most: 75 % of the stream, 100 % of the reference",
                "The reference has no rows of scanner D (100 rows), C (1 row): "
                "they are compared with their own earlier rows",
            ],
        ),
        # Rows of an unknown stratum are counted, and change no share.
        ({"A": (50, 198), "B": (50, 198), "unknown": (9, 4)}, ["4 of 400 rows came without a known scanner"]),
        ({"A": (50, 0), "B": (50, 0), "unknown": (0, 400)}, ["400 of 400 rows came without a known scanner"]),
        ({}, []),
    ],
    ids=["grew", "fell", "first", "second", "same", "one", "new", "unknown", "all unknown", "no strata"],
)
def test_the_mix_names_the_share_that_changed_most_new_strata_and_unknown_rows(
    counts: dict[str, tuple[int, int]], sentences: list[str]
) -> None:
    document = make_document(alarm_row=None, mix=mix_of(**counts), windows=(), channel_shifts=())
    assert wording.list_changes(document) == sentences


def test_of_many_new_strata_the_first_screen_names_those_with_most_rows() -> None:
    counts = {f"s{number:02}": (0, number) for number in range(1, 31)}
    changes = wording.list_changes(make_document(mix=mix_of(A=(133, 1000), **counts)))
    assert changes[1].startswith(
        "The reference has no rows of scanner s30 (30 rows), s29 (29 rows), s28 (28 rows), s27 (27 rows) and 26 more:"
    )
    assert "s26" not in " ".join(changes)


def test_the_condition_of_the_bound_names_the_stratum_where_there_is_one() -> None:
    within, overall = make_document(alarm_row=None), make_document(alarm_row=None, mix=None)
    bound = "a false alarm with probability at most α = 0.01 over the monitor's life, "
    assert wording.describe_limit(within) == f"{bound}if the studies of one scanner are exchangeable"
    assert wording.describe_limit(overall) == f"{bound}if the studies are exchangeable"
    assert "channel by channel, each among rows of its scanner; each of the four may raise the alarm" in read(within)
    assert "channel by channel; each of the four may raise the alarm" in read(overall)
    assert "is at most 0.01, if the studies are exchangeable." in read(overall)
    site = make_document(mix=StratumMix(kind="site", strata=()), alpha=None, run_length=5000)
    assert wording.describe_limit(site) == (
        "a false alarm within T rows with probability at most T/5,000, if the studies of one site are exchangeable"
    )


def test_the_evidence_of_the_first_patients_is_no_line_and_has_no_later_peak() -> None:
    components = [
        ComponentEvidence(component=name, log_evidence=0.0, log_threshold=limit)
        for name, limit in LOG_THRESHOLD.items()
    ]
    first = ComponentEvidence(component="first_patients", log_evidence=8.0, log_threshold=6.9)
    peak = Peak(row=17, component="channels", log_evidence=3.0)
    document = make_document(components=[*components, first], peak=peak, first_patients=100)
    assert wording.describe_strength(document) == "Strongest evidence now: first patients, 2,981 (threshold 992)"
    html = render(document).decode()
    assert "first patients: 2,981, threshold 992" in html
    assert "the first 100 patients, which are compared with the reference once" in html
    assert "--first-patients 100" not in html
    assert "--first-patients 100" in render(make_document()).decode()


def test_the_strength_has_the_threshold_of_each_component() -> None:
    document = make_document(
        components=[
            ComponentEvidence(component=name, log_evidence=value, log_threshold=LOG_THRESHOLD[name])
            for name, value in zip(LOG_THRESHOLD, (4.0, None, 5.0, 11.0), strict=True)
        ],
        peak=Peak(row=17, component="channels", log_evidence=13.0),
    )
    assert wording.describe_strength(document) == (
        "Strongest evidence now: blocks of 16, 148 (threshold 500). "
        "Highest in this epoch: channels, 4.4 × 10⁵ (threshold 9.6 × 10⁵), after row 17"
    )
    assert wording.describe_strength(document.model_copy(update={"peak": None})) == (
        "Strongest evidence now: blocks of 16, 148 (threshold 500)"
    )
    assert wording.describe_strength(make_document(rows=0, alarm_row=None, components=[
        ComponentEvidence(component="rows", log_evidence=None, log_threshold=LOG_THRESHOLD["rows"])
    ])) == ""  # fmt: skip


def test_without_an_alarm_the_page_does_not_suggest_one() -> None:
    text = read(make_document(alarm_row=None))
    assert "No alarm in 400 rows." in text
    assert "the features are not shown to differ, and this describes them" in text
    assert "Alarm since" not in text
    assert "▲" not in text
    assert "the cause as well" not in text
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
    assert "a false alarm within T rows with probability at most T/1,000, if the studies of one scanner are" in text
    words = r"any line reaches the threshold within T rows is at most T/1\W000, if the studies of one scanner are"
    assert re.search(words, text)
    assert "This does not cover autocorrelation and seasons" in text
    text = read(make_document(has_guarantee=False))
    assert "No guarantee. The rate of false alarms of this epoch has no bound." in text
    assert "no bound on false alarms in this epoch" in text
    assert "is at most" not in text
    assert "exchangeable" not in text
    assert "autocorrelation" not in text


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


def test_evidence_is_drawn_as_four_lines_divided_by_their_thresholds() -> None:
    at_threshold = tuple(LOG_THRESHOLD.values())
    below = tuple(value - power * math.log(10.0) for power, value in enumerate(at_threshold, 1))
    document = make_document(rows=2, alarm_row=2, history=(
        EvidencePoint(row=1, log_evidence=below), EvidencePoint(row=2, log_evidence=at_threshold)
    ))  # fmt: skip
    svg = ElementTree.fromstring(str(figures.draw_evidence(document)))
    lines = list(svg.iter("polyline"))
    assert [line.get("class") for line in lines] == ["line first", "line second", "line third", "line fourth"]
    starts, ends = (
        [float(line.get("points", "").split()[place].partition(",")[2]) for line in lines] for place in (0, 1)
    )
    assert len(set(ends)) == 1, "each line meets the threshold where its own evidence does"
    steps = [after - before for before, after in pairwise([ends[0], *starts])]
    assert min(steps) > 0
    assert steps == pytest.approx([steps[0]] * 4, abs=0.2), "a power of ten has one height on all lines"
    (threshold,) = (line for line in svg.iter("line") if line.get("class") == "threshold")
    _, plot = svg.iter("svg")
    top, height = (float(plot.get(name, "")) for name in ("y", "height"))
    assert float(threshold.get("y1", "")) == pytest.approx(top + height * ends[0] / 1000, abs=0.1)
    description = " ".join(one.text or "" for one in svg.iter("desc"))
    for words in ("rows: 1.00, threshold 313", "blocks of 16: –, threshold 500", "channels: 7.4, threshold 9.6 × 10⁵"):
        assert words in description


def test_every_line_has_a_key() -> None:
    html = render(make_document()).decode()
    for place, label in (
        ("first", "rows"),
        ("second", "blocks of 4"),
        ("third", "blocks of 16"),
        ("fourth", "channels"),
    ):
        assert f'<span class="key {place}"></span>{label}</li>' in html
        assert f".line.{place}, .key.{place} {{" in html


@pytest.mark.parametrize("values", [(1e5, -1e5), (-900.0, 700.0), (0.0, 0.0)], ids=str)
def test_evidence_of_any_size_is_drawn_within_the_figure(values: tuple[float, float]) -> None:
    history = tuple(
        EvidencePoint(row=row, log_evidence=(value, None, value, value)) for row, value in enumerate(values, 1)
    )
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
    for change in ({"version": 1}, {"version": 3}, {"further": 1}, {"history": [point] * (MAX_POINTS + 4)}):
        with pytest.raises(ValidationError):
            DriftDocument.model_validate(content | change)


def test_the_mix_is_a_table_that_raises_no_alarm() -> None:
    text = read(make_document(mix=mix_of(A=(100, 300), C=(0, 60), unknown=(33, 40))))
    assert "Mix of strata scanner reference stream A 100 300 C 0 60 unknown 33 40 The mix raises no alarm." in text
    assert "Rows of a scanner that the reference lacks are compared with earlier rows of the same scanner." in text


def test_the_strongest_component_is_the_one_nearest_to_its_own_threshold() -> None:
    calibrated = tuple(
        ComponentEvidence(component=name, log_evidence=value, log_threshold=limit)
        for name, value, limit in (
            ("rows", 7.0, 7.09),
            ("blocks_of_4", 7.0, 7.2),
            ("blocks_of_16", None, 6.8),
            ("channels", 9.0, 13.8),
        )
    )
    assert make_document(components=calibrated).strongest.component == "rows"
    interval = Interval(lower=0.1, upper=0.2, level=0.95, method="")
    assert (
        wording.describe_window(
            make_window(1, 9, 0.1).model_copy(update={"mmd2": Estimate(value=0.15, interval=interval)})
        )
        == "MMD² 0.150 (0.100 to 0.200)"
    )
