"""Rows of monitors, what their state shows, and what of it is exported."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import sqlalchemy as sa
from tests.unit.monitoring.service.conftest import Process, create, draw, is_gone, make_reference

from vfmalign.core.domain.errors import Conflict, Exhausted, PreconditionFailed
from vfmalign.core.runtime.metrics import REGISTRY
from vfmalign.database.pagination import PageRequest
from vfmalign.monitoring import metrics
from vfmalign.monitoring.sequential import (
    SEQUENTIAL,
    Component,
    EpochStart,
    Monitor,
    MonitorOptions,
    Observation,
    Outcome,
)
from vfmalign.monitoring.service import log, repository
from vfmalign.monitoring.service.leader import to_sample
from vfmalign.monitoring.service.observations import IncomingObservation
from vfmalign.monitoring.service.references import list_changed_fields
from vfmalign.monitoring.service.report import get_stride
from vfmalign.monitoring.service.repository import MonitorRepository
from vfmalign.monitoring.service.status import describe_status
from vfmalign.monitoring.service.windows import record_window
from vfmalign.monitoring.tables import EpochRow, ObservationRow, WindowRow

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def test_the_quota_is_of_each_tenant(database, store):
    ours = MonitorRepository(database, 2)
    theirs = MonitorRepository(database.of_tenant("ward-7"), 2)
    for name in ("a", "b"):
        create(ours, store, name)
    for call in (lambda: create(ours, store, "c"), lambda: ours.find("c", ours.get("a").spec)):
        with pytest.raises(Exhausted, match="VFMALIGN_QUOTA__MONITORS"):
            call()
    create(theirs, store, "a")
    assert [one.id for one in theirs.list_all()] == ["a"]
    assert is_gone(lambda: theirs.get("b"))
    theirs.delete("a", ours.get("a").uid)
    theirs.delete("b", ours.get("b").uid)
    assert [one.id for one in ours.list_all()] == ["a", "b"]
    ours.delete("a", ours.get("a").uid)
    create(ours, store, "c")


def test_the_same_request_returns_the_first_monitor_and_another_one_is_a_conflict(database, store):
    monitors = MonitorRepository(database, 1)
    first = create(monitors, store, "m")
    assert create(MonitorRepository(database, 2), store, "m").uid == first.uid
    with pytest.raises(Conflict, match="a different request: it differs in alpha; choose another monitor id"):
        create(MonitorRepository(database, 2), store, "m", alpha=0.2)
    request = first.spec.model_copy(update={"layer": ""})
    assert list_changed_fields(first.spec.model_dump(mode="json"), request) == ["layer"]
    request = request.model_copy(update={"window_rows": 50})
    assert list_changed_fields(first.spec.model_dump(mode="json"), request) == ["window_rows"], (
        "the layer was filled in"
    )
    with pytest.raises(PreconditionFailed, match="no alarm"):
        monitors.acknowledge("m", 1, "")


def test_a_window_is_recorded_for_the_monitor_and_epoch_that_it_was_computed_for(database, store, process):
    first = create(process.monitors, store, "m")
    shifts = [
        SimpleNamespace(stratum="", last_row=10, model_dump=lambda mode: {"last_row": 10, "stratum": "", "layer": "a"})
    ]
    for _ in range(2):
        record_window(database, first, shifts, [])

    def count():
        with database.snapshot() as session:
            return session.scalar(sa.select(sa.func.count()).select_from(WindowRow))

    assert count() == 1
    process.replace_reference("m", 1, EpochStart.RESET, make_reference(2).pinned, make_reference(2))
    assert count() == 0, "nothing shows the windows of an epoch that has ended"
    process.monitors.delete("m", first.uid)
    record_window(database, first, shifts, [])
    create(process.monitors, store, "m")
    record_window(database, first, shifts, [])
    assert count() == 0


def make_row(**fields):
    values = {"tenant": "default", "id": "m", "sequence": 4, "epoch": 1, "last_acquired_at": None, "counts": {}}
    return SimpleNamespace(**(values | fields))


def make_incoming(name="o", acquired_at=None, value=0.0):
    return IncomingObservation.of(name, "p", "", acquired_at, {"a": np.full(2, value)})


def test_late_and_future_observations_are_marked_and_do_not_move_the_clock_back():
    row = make_row()
    hours = [0, -5, 1 / 60, 48, -1]
    columns = [log.make_observation(row, make_incoming(acquired_at=NOW + timedelta(hours=h)), NOW) for h in hours]
    assert [one["sequence"] for one in columns] == [5, 6, 7, 8, 9]
    assert [one["late"] for one in columns] == [False, True, False, False, True]
    assert [one["future"] for one in columns] == [False, False, False, True, False]
    assert row.last_acquired_at == NOW + timedelta(minutes=1)
    future = make_incoming(acquired_at=NOW + timedelta(days=400))
    assert log.get_day(future, NOW) == log.get_day(make_incoming(), NOW) == NOW.date().toordinal()


def test_results_follow_the_request_whatever_it_repeats():
    first, twice, changed, known = make_incoming("a"), make_incoming("a"), make_incoming("a", value=1), make_incoming()
    row = make_row()
    values = [log.make_observation(row, first, NOW)]
    recorded = {"o": {**log.make_observation(row, known, NOW), "outcome": "entered", "row": 3}}
    results = log.make_results([first, twice, changed, known], [first], values, recorded)
    assert [log.get_label(one) for one in results] == ["paused", "duplicate", "conflict", "duplicate"]
    assert [one["row"] for one in results] == [0, 0, 0, 3]
    log.count(row, results, values)
    assert row.counts == {"paused": 1, "duplicate": 2, "conflict": 1}


def test_points_of_a_report_are_bounded():
    for rows in (0, 1, 1000, 10**6, 10**9):
        assert rows / get_stride(rows) <= 2 * 1000
        assert get_stride(rows).bit_count() == 1


def test_the_peak_of_an_epoch_is_the_evidence_nearest_to_its_own_threshold():
    reference = make_reference()
    monitor = Monitor(MonitorOptions(run_length=1000), reference.layers["a"], reference.patients)
    limits = monitor.status.log_threshold

    def observe(row, p_value=0.5, **below):
        evidence = {one: limits[one] - below[one.value] if one.value in below else -np.inf for one in SEQUENTIAL}
        return Observation(f"o{row}", Outcome.ENTERED, row, p_value, evidence, raised_alarm=False)

    def find(peak, *observations):
        return describe_status(monitor, peak, list(observations))["peak"]

    assert find(None, observe(0, None, rows=-9.0)) is None, "it did not enter"
    rows = find(None, observe(1, rows=0.5, blocks_of_4=3.0))
    assert rows == {"row": 1, "component": "rows", "log_evidence": limits[Component.ROWS] - 0.5}
    assert limits[Component.CHANNELS] > limits[Component.ROWS] + 1.0
    assert find(rows, observe(2, rows=2.0, channels=1.0)) == rows, "it is higher, and so is its threshold"
    assert find(rows, observe(3, rows=0.5), observe(4, channels=0.4), observe(5, rows=0.45)) == {
        "row": 4, "component": "channels", "log_evidence": limits[Component.CHANNELS] - 0.4,
    }  # fmt: skip


def read(name, **labels):
    return REGISTRY.get_sample_value(name, {"tenant": "default", **labels})


def test_gauges_follow_the_monitors_and_none_stays_or_is_absent_in_between(database, store, process):
    for name in ("m", "n"):
        create(process.monitors, store, name, max_silence_hours=1)
    process.observe("m", draw(3))
    samples = [to_sample("default", one) for one in process.monitors.list_all()]
    try:
        metrics.export_samples(samples)
        assert read("vfmalign_monitor_log_evidence", monitor="m", component="rows") is not None
        assert read("vfmalign_monitor_max_silence_seconds", monitor="n") == 3600
        assert read("vfmalign_monitor_mmd2", monitor="m") is None
        seen = []
        gauge = metrics.alarm.labels("default", "m")
        original = gauge.set

        def watch(value):
            seen.append(read("vfmalign_monitor_alarm", monitor="m"))
            original(value)

        gauge.set = watch
        metrics.export_samples(samples[:1])
        assert seen == [0.0], "the value of before is there until the new one is"
        assert read("vfmalign_monitor_alarm", monitor="n") is None
    finally:
        metrics.export_samples(())
    names = ("alarm", "paused", "log_threshold", "last_observation_timestamp_seconds", "max_silence_seconds")
    families = {one.name: one.samples for one in REGISTRY.collect()}
    assert [families[f"vfmalign_monitor_{name}"] for name in names] == [[]] * 5


def test_counters_of_deleted_monitors_do_not_add_up(monkeypatch):
    monkeypatch.setattr(metrics, "_MAX_COUNTED", 3)
    monkeypatch.setattr(metrics, "_counted", OrderedDict())
    for index in range(10):
        metrics.count_observation("default", f"gone-{index}", "entered")
        metrics.count_observation("default", "stays", "entered")
    family = next(one for one in REGISTRY.collect() if one.name == "vfmalign_monitor_observations")
    monitors = {name for one in family.samples if (name := one.labels["monitor"]).startswith(("gone-", "stays"))}
    assert monitors == {"stays", "gone-8", "gone-9"}
    assert read("vfmalign_monitor_observations_total", monitor="stays", outcome="entered") == 10
    for name in monitors:
        metrics.forget_observations("default", name)


def test_a_deleted_monitor_takes_its_rows_and_its_state_along(database, store):
    process = Process(database, store)
    monitor = create(process.monitors, store, "m")
    process.observe("m", draw(3))
    assert process.keeper.is_warm("m", monitor.uid)
    process.monitors.delete("m", monitor.uid)
    process.keeper.forget("m", monitor.uid)
    assert not process.keeper.is_warm("m", monitor.uid)
    assert is_gone(lambda: process.observe("m", draw(1)))
    assert read("vfmalign_monitor_observations_total", monitor="m", outcome="entered") is None


def test_a_monitor_whose_rows_are_deleted_little_by_little_is_hidden_at_once(database, store, monkeypatch):
    monkeypatch.setattr(repository, "_DELETED_ROWS", 4)
    process = Process(database, store)
    process.monitors = MonitorRepository(database, 2)
    monitor, other = create(process.monitors, store, "m"), create(process.monitors, store, "other")
    process.observe("m", draw(6))
    process.observe("other", draw(2))
    assert not process.monitors.delete("m", monitor.uid)
    assert is_gone(lambda: process.monitors.get("m"))
    assert is_gone(lambda: process.observe("m", draw(7)))
    assert [one.id for one in process.monitors.list(PageRequest()).items] == ["other"]
    assert [one.id for one in process.monitors.list_all()] == ["other"]
    with pytest.raises(PreconditionFailed, match="is being deleted; create it again in a minute"):
        create(process.monitors, store, "m")
    create(process.monitors, store, "third")  # the quota does not count it
    assert process.monitors.list_deleted() == (("m", monitor.uid),)
    assert not process.monitors.delete("m", monitor.uid)
    assert process.monitors.delete("m", monitor.uid)
    assert process.monitors.delete("m", monitor.uid), "once more changes nothing"
    assert process.monitors.list_deleted() == ()
    with database.snapshot() as session:
        assert set(session.scalars(sa.select(ObservationRow.monitor_id))) == {"other"}
        assert set(session.scalars(sa.select(EpochRow.monitor_id))) == {"other", "third"}
    process.monitors.delete("third", process.monitors.get("third").uid)
    create(process.monitors, store, "m")
    assert process.observe("m", draw(1))[0]["row"] == 1
    assert process.monitors.get("other") == process.monitors.get("other", other.uid)


def test_the_deletion_of_a_tenant_s_monitor_spares_that_of_another_with_its_id(database, store, monkeypatch):
    monkeypatch.setattr(repository, "_DELETED_ROWS", 4)
    ours, theirs = (Process(database.of_tenant(name), store) for name in ("ours", "theirs"))
    uids = {}
    for process in (theirs, ours):
        uids[process] = create(process.monitors, store, "m").uid
        process.observe("m", draw(6))
    while not ours.monitors.delete("m", uids[ours]):
        pass
    assert theirs.monitors.get("m").sequence == 6
    with database.of_tenant("theirs").snapshot() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(ObservationRow)) == 6
