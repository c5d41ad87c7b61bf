"""The page of a monitor of the service: what its records say, and what a reader sees first."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from tests.drift_documents import make_document, make_window
from tests.monitor_records import (
    CREATED,
    NOW,
    RAISED,
    make_alarm,
    make_epoch,
    make_history,
    make_live_document,
    make_monitor,
    make_shift,
)

from vfmalign.client.messages.monitors import EvidencePeak
from vfmalign.reports.drift import wording
from vfmalign.reports.drift.document import MAX_POINTS, DriftDocument, EvidencePoint
from vfmalign.reports.drift.monitors import describe_monitor
from vfmalign.reports.drift.page import render


def read(document: DriftDocument) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", render(document).decode(), flags=re.DOTALL))


def read_first_screen(document: DriftDocument) -> str:
    return read(document).partition("Evidence and observations")[0]


def test_the_first_screen_says_whether_since_when_how_strong_what_moved_and_that_nobody_has_seen_it() -> None:
    first = read_first_screen(make_live_document())
    for words in (
        "Drift of Prostate, 3 T",
        "(200 patients)",
        "As of 03 March 2026, 12:00 UTC; the last observation arrived 3 hours before.",
        "Alarm since row 231 of 400, 01 March 2026, 07:30 UTC, 169 rows ago: the stream no longer looks like",
        "Nobody has acknowledged it yet.",
        "Raised by rows, blocks of 4, observation c-5f5b865d1efe1613",
        "Strongest evidence now: rows, 1.1 × 10¹⁷ (threshold 313).",
        "The share of scanner B has changed most: 50 % of the stream, 25 % of the reference.",
        "Rows 291 to 390: MMD² 0.0500 (0.0400 to 0.0600).",
        "Channels: 10 of 768 hold 90 %",
        "Compared 03 March 2026, 11:30 UTC; 10 rows entered since the last window.",
    ):
        assert words in first
    assert "Paused." not in first
    assert "Silent." not in first


def test_an_acknowledgement_is_shown_with_its_note_but_not_who_made_it() -> None:
    alarm = make_alarm(acknowledge_time=NOW - timedelta(days=1), note="coil replaced", acknowledged_by="https://idp#me")
    document = make_live_document(make_monitor(epoch=make_epoch(alarm)))
    assert "Acknowledged 02 March 2026, 12:00 UTC: coil replaced." in read_first_screen(document)
    assert "Nobody has acknowledged" not in read(document)
    assert b"idp" not in document.to_json() + render(document)


def test_a_monitor_that_is_paused_or_silent_says_so_first() -> None:
    spec = make_monitor().spec.model_copy(update={"max_silence_hours": 2})
    first = read_first_screen(make_live_document(make_monitor(state="paused", spec=spec)))
    assert "Paused. Observations are recorded and do not enter the evidence" in first
    assert "Silent." not in first, "a paused monitor raises no alert of silence"
    first = read_first_screen(make_live_document(make_monitor(spec=spec)))
    assert "Silent. 3 hours have passed since the last observation; the limit is 2 hours." in first
    never = make_monitor(spec=spec, last_observation_time=None, last_acquire_time=None, create_time=CREATED)
    assert "Silent. 60 days have passed since the monitor was created" in read_first_screen(make_live_document(never))
    patient = spec.model_copy(update={"max_silence_hours": 3})
    assert "Silent." not in read(make_live_document(make_monitor(spec=patient)))


def test_epochs_times_and_outcomes_have_a_place() -> None:
    alarm = make_alarm(acknowledge_time=RAISED, note="scanner replaced")
    earlier = (
        make_epoch(alarm, number=2, start="unseen_reference"),
        make_epoch(make_alarm(row=12), start="reset", has_guarantee=False, rows=77),
        make_epoch(number=1, rows=5),
    )
    text = read(make_live_document(make_monitor(epoch=make_epoch(number=3), earlier_epochs=earlier)))
    for words in (
        "prostate-3t , active, created 02 January 2026, 08:00 UTC",
        "3, which began at a time fixed without regard to the observations, 02 January 2026, 08:00 UTC",
        "First row 02 January 2026, 10:00 UTC",
        "Last observation 03 March 2026, 09:00 UTC",
        "Latest acquisition 03 March 2026, 08:00 UTC",
        "with a reference of patients that no earlier epoch had seen",
        "yes 400 Row 231, 01 March 2026, 07:30 UTC. Acknowledged 01 March 2026, 07:30 UTC: scanner replaced.",
        "no 77 Row 12, 01 March 2026, 07:30 UTC. Nobody acknowledged it.",
        "yes 5 none",
        "epochs with a guarantee, if the studies of one scanner are exchangeable · epoch 3",
        "paused 12 late: acquired before an earlier arrival 7 acquired in the future when it arrived 1",
    ):
        assert words in text


def test_a_new_monitor_has_a_page() -> None:
    monitor = make_monitor(
        alarm=False, epoch=make_epoch(rows=0), outcomes={}, windowed_shifts=(), channel_shifts=(), mix=None,
        last_observation_time=None, last_acquire_time=None, peak=None,
    )  # fmt: skip
    text = read(describe_monitor(monitor, now=NOW))
    assert "No row has entered yet: nothing can be said." in text
    assert "no observation has arrived yet" in text
    assert "No window has been compared with the reference yet." in text
    assert "Without an alarm" not in text, "nothing is described"
    assert "patients) ·" not in text, "the number of patients is unknown"
    assert "First row" not in text


def test_the_document_has_what_the_records_have() -> None:
    document = make_live_document()
    assert (document.alpha, document.run_length, document.patient_window_days) == (0.01, None, None)
    assert [(one.layer, one.stratum, one.last_row) for one in document.windows] == [
        ("stages.3", "", 100), ("stages.3", "", 200), ("stages.3", "", 300), ("stages.3", "", 390),
        ("stages.1", "", 390), ("stages.3", "A", 389), ("stages.3", "B", 390),
    ]  # fmt: skip
    assert document.mix is not None
    assert [one.name for one in document.mix.strata] == ["A", "B", ""]
    assert document.moved_rows == 100
    peak = EvidencePeak(row=301, component="channels", log_evidence=14.5)
    other = make_live_document(make_monitor(peak=peak))
    assert other.peak is not None
    assert other.peak.model_dump() == peak.model_dump()
    assert "Highest in this epoch: channels, 2.0 × 10⁶ (threshold 9.6 × 10⁵), after row 301." in read(other)
    assert DriftDocument.model_validate_json(document.to_json()) == document
    spec = make_monitor().spec.model_copy(update={"run_length": 5000, "patient_window_days": 90, "title": ""})
    other = make_live_document(make_monitor(spec=spec, windowed_shifts=()), windows=())
    assert (other.alpha, other.run_length, other.patient_window_days, other.title) == (None, 5000, 90, "prostate-3t")
    assert other.moved_rows == 100, "without windows, the channels are those of the last rows"
    assert "No window has been compared with the reference yet." in read_first_screen(other)
    assert "No window has been compared" not in read(document)


def test_windows_and_channels_from_before_the_alarm_do_not_pass_for_what_moved() -> None:
    monitor = make_monitor(windowed_shifts=(make_shift(101, 200, 0.002),))
    text = read(make_live_document(monitor, windows=()))
    assert (
        "No row since the alarm has been compared yet: the next sentences describe rows 101 to 200. Rows 101 to" in text
    )
    assert "Difference of the means of rows 101 to 200 from the reference's" in text
    text = read(make_live_document())
    assert "No row since the alarm" not in text, "the last window has rows that followed the alarm"
    assert "Difference of the means of rows 291 to 390 from" in text


def test_a_monitor_of_an_earlier_version_has_a_page_before_its_state_is_made_anew() -> None:
    components = make_monitor().components[:3]
    history = [point.model_copy(update={"log_evidence": (*point.log_evidence[:3], None)}) for point in make_history()]
    document = make_live_document(make_monitor(components=components, peak=None), history=history)
    assert "Strongest evidence now: rows, 1.1 × 10¹⁷ (threshold 313)." in read_first_screen(document)
    assert render(document).count(b"<polyline") == 4, "three of the evidence, and one of the windows"


def test_a_window_that_is_given_twice_is_shown_once() -> None:
    monitor = make_monitor(windowed_shifts=(make_shift(201, 300, 0.07),))
    document = make_live_document(monitor, windows=(make_window(101, 200, 0.01), make_window(201, 300, 0.03)))
    assert [(one.last_row, one.mmd2.value) for one in document.windows] == [(200, 0.01), (300, 0.07)]


def test_a_long_history_is_thinned_and_keeps_its_moments() -> None:
    history = [EvidencePoint(row=row, log_evidence=(0.0, None, None, 0.0)) for row in range(1, 5_004)]
    peak = EvidencePeak(row=1_502, component="channels", log_evidence=14.5)
    monitor = make_monitor(epoch=make_epoch(make_alarm(row=1_234), rows=5_003), peak=peak)
    points = describe_monitor(monitor, history, now=NOW).history
    rows = [point.row for point in points]
    assert len(rows) <= MAX_POINTS + 3
    assert {1, 1_234, 1_502, 5_003} <= set(rows)
    assert rows == sorted(set(rows))
    assert max(after - before for before, after in pairwise(rows)) <= 6


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=-5), "less than a minute"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(minutes=119), "119 minutes"),
        (timedelta(hours=2), "2 hours"),
        (timedelta(hours=47), "47 hours"),
        (timedelta(days=400), "400 days"),
    ],
)
def test_the_age_of_a_moment_is_in_one_unit(age: timedelta, text: str) -> None:
    assert wording.describe_age(NOW - age, NOW) == text


def test_times_are_shown_in_utc() -> None:
    assert wording.format_moment(datetime.fromisoformat("2026-03-01T01:30:00+02:00")) == "28 February 2026, 23:30 UTC"


def test_notes_and_names_are_escaped() -> None:
    hostile = "<script>alert(1)</script>\u202e"
    alarm = make_alarm(acknowledge_time=NOW, note=hostile)
    spec = make_monitor().spec.model_copy(update={"title": hostile})
    html = render(
        make_live_document(make_monitor(epoch=make_epoch(alarm), earlier_epochs=(make_epoch(alarm),), spec=spec))
    )
    assert b"<script" not in html
    assert "\u202e".encode() not in html


def test_the_document_of_a_command_has_no_monitor() -> None:
    content = json.loads(make_document().to_json())
    assert content.pop("monitor") is None
    assert content["alarm"].pop("acknowledged") is None
    assert DriftDocument.model_validate_json(json.dumps(content)) == make_document()
    assert "acknowledged" not in render(make_document()).decode()


def test_of_many_strata_the_first_screen_names_those_that_moved_most() -> None:
    last = make_shift(291, 390, 0.05)
    moved = {"s03": 0.6, "s17": 0.2}
    strata = tuple(make_shift(300, 390, moved.get(f"s{n:02}", 0.001 * n), f"s{n:02}") for n in range(31))
    absent = make_shift(300, 390, math.nan, "s31")
    first = read_first_screen(make_live_document(make_monitor(windowed_shifts=(last, *strata, absent))))
    words = "Within each scanner, the 4 of 32 with the largest lower limits: s03 MMD² 0.600 (0.590 to 0.610); s17 MMD²"
    assert words in first
    assert "s30 MMD²" in first
    assert "s05" not in first
    assert "s31" not in first
