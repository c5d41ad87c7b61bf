"""Running monitors whose states an earlier version stored: they go on from their log, or say what to do."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import save
from tests.outdated_states import outdate
from tests.unit.monitoring.service.conftest import (
    ORIGIN,
    Process,
    create,
    draw,
    is_gone,
    make_reference,
    observe_alone,
    wait_for_snapshots,
)

from vfmalign.core.domain.errors import DataLoss, NotFound, PreconditionFailed, Unavailable
from vfmalign.database.pagination import PageRequest
from vfmalign.monitoring import metrics
from vfmalign.monitoring.sequential import EpochStart, from_bytes
from vfmalign.monitoring.service import replay, report
from vfmalign.monitoring.service.converters import to_message
from vfmalign.monitoring.service.observations import IncomingObservation
from vfmalign.monitoring.tables import InputRow, MonitorRow, ObservationRow


@pytest.fixture
def loaded(monkeypatch):
    """What was read of references since."""
    loaded = []

    def load(store, pinned, *names):
        loaded.append((pinned, *names))
        return make_reference()

    monkeypatch.setattr(replay, "load_reference", load)
    return loaded


def get_row(database, name="m"):
    with database.snapshot() as session:
        return session.get_one(MonitorRow, ("default", name))


def list_observations(database):
    columns = ObservationRow.observation_id, ObservationRow.outcome, ObservationRow.row, ObservationRow.raised_alarm
    with database.snapshot() as session:
        query = sa.select(*columns).order_by(ObservationRow.monitor_id, ObservationRow.sequence)
        return session.execute(query).all()


def record(process, patient, row, name):
    """Observes one row of a patient."""
    one = IncomingObservation.of(name, patient, "", None, {"a": row})
    return process.keeper.record("m", process.monitors.get_pins("m"), ORIGIN, [one])[0]


def test_a_monitor_goes_on_from_its_log_with_its_rows_patients_and_outcomes(database, store, process, loaded):
    monitor = create(process.monitors, store, "m", alpha=0.05, seed=3, window_rows=16)
    rows = draw(400, seed=2)
    rows[7] = np.nan
    process.observe("m", rows[:300])
    process.monitors.set_state("m", monitor.uid, "paused")
    process.observe("m", draw(4), prefix="paused")
    process.monitors.set_state("m", monitor.uid, "active")
    record(process, "og3", rows[0], "again")
    record(process, "r5", rows[0], "of the reference")
    outdate(database, store, "m")
    before, observed = process.monitors.get("m"), list_observations(database)
    replays = metrics.replays_that_differ._value.get()

    later = Process(database, store)
    assert later.monitors.get("m") == before
    assert [one["duplicate"] for one in later.observe("m", rows[:2])] == [True, True]
    assert (later.monitors.get("m").status, list_observations(database)) == (before.status, observed)
    results = later.observe("m", rows[300:340], 300)
    assert [(one["outcome"], one["row"]) for one in results] == [("entered", row) for row in range(300, 340)]
    assert record(later, "og299", rows[0], "repeated")["outcome"] == "repeated_patient"
    assert record(later, "r6", rows[0], "known")["outcome"] == "reference_patient"
    assert record(later, "og7", rows[0], "late")["row"] == 340, "its first observation was not finite"
    assert record(later, "pausedg0", rows[1], "free")["row"] == 341
    assert loaded == [(before.spec.reference, "a", (), "")]
    assert list_observations(database)[: len(observed)] == observed
    assert later.monitors.get("m").counts == before.counts | {
        "entered": 341, "duplicate": 2, "repeated_patient": 2, "reference_patient": 2,
    }  # fmt: skip
    shown = later.monitors.get("m").status["components"]

    last = Process(database, store)  # which repeats what both versions have recorded
    assert last.observe("m", rows[:1])[0]["duplicate"]
    record(last, "og0", rows[0], "last")
    assert last.monitors.get("m").status["components"] == shown
    assert metrics.replays_that_differ._value.get() == replays, "what an earlier version recorded is no other rounding"


def test_the_evidence_is_that_of_all_rows_and_the_next_snapshot_holds_it(database, store, loaded):
    process = Process(database, store, snapshot_rows=40)
    create(process.monitors, store, "m")
    rows = draw(100, seed=2)
    for start in range(0, 60, 10):
        process.observe("m", rows[start : start + 10], start)
        wait_for_snapshots()
    assert get_row(database).earlier_snapshot["sequence"] == 0
    outdate(database, store, "m")
    later = Process(database, store, snapshot_rows=40)
    later.observe("m", rows[60:90], 60)
    wait_for_snapshots()
    assert later.monitors.get("m").status["components"] == observe_alone(rows[:90])
    snapshot = get_row(database).snapshot
    assert from_bytes(store.get(snapshot["key"])).epoch.rows == snapshot["sequence"] == 90
    loaded.clear()
    last = Process(database, store)
    last.observe("m", rows[90:], 90)
    assert last.monitors.get("m").status["components"] == observe_alone(rows)
    assert loaded == []


def replace_inputs(database, rows):
    """Makes the log one of other features, from which other evidence follows."""
    with database.session() as session:
        for one in session.scalars(sa.select(InputRow)):
            one.features = save({"a": rows[one.sequence - 1]})


@pytest.mark.parametrize("repeated", [0.0, 5.0], ids=["below", "above"])
def test_an_alarm_that_was_raised_stays_and_is_not_raised_twice(database, store, process, loaded, repeated):
    create(process.monitors, store, "m", alpha=0.05)
    assert sum(one["raised_alarm"] for one in process.observe("m", draw(300, seed=2) + 5)) == 1
    acknowledged = process.monitors.acknowledge("m", 1, "seen").epoch.alarm
    outdate(database, store, "m")
    replace_inputs(database, draw(300, seed=3) + repeated)
    for number in range(3):
        results = Process(database, store).observe("m", draw(60, seed=number) + 9, 300 + 60 * number)
        assert [one["outcome"] for one in results] == ["entered"] * 60
        assert not any(one["raised_alarm"] for one in results)
    monitor = process.monitors.get("m")
    assert monitor.epoch.alarm == acknowledged
    components = monitor.status["components"].values()
    assert any(value is not None and value > threshold for value, threshold in components)
    with database.snapshot() as session:
        raised = session.scalars(sa.select(ObservationRow.row).where(ObservationRow.raised_alarm)).all()
    assert raised == [acknowledged.row]


def test_an_alarm_that_only_the_new_evidence_raises_is_recorded_with_the_next_row(database, store, process, loaded):
    create(process.monitors, store, "m", alpha=0.05)
    process.observe("m", draw(60, seed=2))
    outdate(database, store, "m")
    replace_inputs(database, draw(60, seed=2) + 5)
    results = Process(database, store).observe("m", draw(2, seed=3) + 5, 60)
    assert [one["raised_alarm"] for one in results] == [True, False]
    assert process.monitors.get("m").epoch.alarm.row == 61


def test_a_new_reference_follows_the_state_that_was_made_anew(database, store, process, loaded):
    create(process.monitors, store, "m")
    process.observe("m", draw(20, seed=2))
    outdate(database, store, "m")
    later, new = Process(database, store), make_reference(2, "s")
    later.replace_reference("m", 1, EpochStart.FIXED, new.pinned, new)
    assert [(one.number, one.rows) for one in later.monitors.get("m").epochs] == [(2, 0), (1, 20)]
    assert record(Process(database, store), "og3", draw(1)[0], "again")["outcome"] == "repeated_patient"
    assert len(loaded) == 1


def make_incomplete(database, store, how):
    """Creates a monitor whose log lacks observations, or is not of the first epoch."""
    process = Process(database, store, snapshot_rows=20)
    create(process.monitors, store, "m", alpha=0.05, window_rows=16)
    rows = np.concatenate([draw(40, seed=2), draw(30, seed=3) + 5])
    if how == "epoch 2":
        new = make_reference(2, "s")
        process.replace_reference("m", 1, EpochStart.FIXED, new.pinned, new)
        assert get_row(database).earlier_snapshot["sequence"] == 0, "no features were deleted"
        process.observe("m", rows)
    else:
        for start in range(0, 70, 10):
            process.observe("m", rows[start : start + 10], start)
            wait_for_snapshots()
        assert get_row(database).earlier_snapshot["sequence"] > 0
    assert process.monitors.get("m").epoch.alarm is not None
    wait_for_snapshots()  # a later one would replace the outdated state
    outdate(database, store, "m")
    return process.monitors.get("m")


@pytest.mark.parametrize("how", ["features are deleted", "epoch 2"])
def test_a_monitor_whose_log_is_not_whole_says_what_to_do_and_shows_what_it_has(database, store, loaded, how):
    before = make_incomplete(database, store, how)
    later, new = Process(database, store), make_reference(7, "t")
    create(later.monitors, store, "other")
    observed, objects, epoch, numbers = list_observations(database), dict(store.objects), before.epoch.number, count()
    for call in (
        lambda: later.observe("m", draw(2), 200),
        lambda: later.observe("m", draw(1)),
        lambda: later.replace_reference("m", epoch, EpochStart.RESET, new.pinned, new),
        lambda: later.keeper.get_channel_shifts("m", draw(20)),
    ):
        with pytest.raises(PreconditionFailed, match="not all of its observations are kept") as caught:
            call()
        assert caught.value.subject == "m"
        assert caught.value.remedy == "note its alarm, delete it, and create it again; its evidence then starts over"
        assert later.observe("other", draw(1), next(numbers))[0]["outcome"] == "entered"
    assert (later.monitors.get("m"), loaded) == (before, [])
    assert store.objects == objects
    assert list_observations(database)[: len(observed)] == observed

    monitors = later.monitors
    assert [one.id for one in monitors.list(PageRequest()).items] == ["other", "m"]
    assert len(to_message(monitors.get("m")).components) == 3, "as they were recorded"
    assert monitors.set_state("m", before.uid, "paused").state == "paused"
    assert monitors.set_state("m", before.uid, "active").state == "active"
    assert monitors.update("m", before.uid, {"title": "t"}).spec.title == "t"
    assert monitors.acknowledge("m", epoch, "seen").epoch.alarm.note == "seen"
    assert b"log_evidence" in report.render(monitors, "m", "json")
    while not monitors.delete("m", before.uid):
        pass
    assert is_gone(lambda: monitors.get("m"))
    create(monitors, store, "m")
    assert later.observe("m", draw(1))[0]["row"] == 1


def test_the_page_of_such_a_monitor_shows_the_evidence_that_was_recorded(database, store, loaded):
    make_incomplete(database, store, "epoch 2")
    assert b"Alarm since row" in report.render(Process(database, store).monitors, "m", "html")


def test_a_reference_that_is_gone_is_a_loss_of_data_and_a_store_that_is_away_is_waited_for(
    database, store, process, monkeypatch
):
    create(process.monitors, store, "m")
    process.observe("m", draw(20))
    outdate(database, store, "m")
    errors = [NotFound("there is no such feature set"), Unavailable("it is away"), None]

    def load(*_):
        if (error := errors[0]) is not None:
            raise error
        return make_reference()

    monkeypatch.setattr(replay, "load_reference", load)
    later = Process(database, store)
    for kind in (DataLoss, Unavailable):
        with pytest.raises(kind) as caught:
            later.observe("m", draw(21)[20:], 20)
        errors.pop(0)
        if kind is DataLoss:
            assert (caught.value.kind, caught.value.owner) == ("feature_set", make_reference().pinned.feature_set_id)
    assert later.observe("m", draw(21)[20:], 20)[0]["row"] == 21


def test_the_state_before_makes_up_for_a_lost_one_also_where_both_are_outdated(database, store, loaded):
    process = Process(database, store, snapshot_rows=20)
    create(process.monitors, store, "m")
    rows = draw(31, seed=2)
    process.observe("m", rows[:30])
    wait_for_snapshots()
    outdate(database, store, "m")
    store.objects.pop(get_row(database).snapshot["key"])
    later = Process(database, store)
    assert later.observe("m", rows[30:], 30)[0]["row"] == 31
    assert later.monitors.get("m").status["components"] == observe_alone(rows)
