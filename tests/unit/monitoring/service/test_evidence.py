"""Evidence of several processes on one database, and what becomes of it while the store is away."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import save
from tests.unit.monitoring.service.conftest import (
    Process,
    create,
    draw,
    make_reference,
    observe_alone,
    wait_for_snapshots,
)

from vfmalign.core.domain.errors import DataLoss, InvalidInput, NotFound, PreconditionFailed, Unavailable
from vfmalign.core.runtime.work_context import WorkContext, current_work, work_within
from vfmalign.monitoring import metrics
from vfmalign.monitoring.sequential import EpochStart, Monitor, MonitorOptions, epoch, to_bytes
from vfmalign.monitoring.service.epochs import _ATTEMPTS
from vfmalign.monitoring.service.evidence import CHUNK_BYTES, Outdated
from vfmalign.monitoring.service.observations import IncomingObservation
from vfmalign.monitoring.service.replay import StateReader
from vfmalign.monitoring.service.states import READERS, State
from vfmalign.monitoring.tables import InputRow, MonitorRow, ObservationRow


def get_row(database):
    with database.snapshot() as session:
        return session.scalars(sa.select(MonitorRow)).one()


def delete_inputs(database, until):
    with database.session() as session:
        session.execute(sa.delete(InputRow).where(InputRow.sequence <= until))


def test_a_process_that_was_not_asked_for_long_does_not_repeat_what_was_deleted(database, store):
    busy, idle = Process(database, store, snapshot_rows=20), Process(database, store)
    create(busy.monitors, store, "m")
    rows = draw(121, seed=2)
    idle.observe("m", rows[:5])
    for start in range(5, 120, 5):
        busy.observe("m", rows[start : start + 5], start)
        wait_for_snapshots()
    earlier = get_row(database).earlier_snapshot["sequence"]
    assert earlier > 40
    delete_inputs(database, earlier)
    idle.observe("m", rows[120:], 120)
    assert get_row(database).status["components"] == observe_alone(rows)


@pytest.mark.parametrize("more", [0, 4])
def test_a_state_of_observations_that_the_database_has_lost_is_read_again(database, store, tmp_path, more):
    """A standby of the database takes over without the last observations, under whose numbers others follow."""
    one, other = Process(database, store), Process(database, store)
    create(one.monitors, store, "m")
    rows, lost, new = draw(40, seed=2), draw(3, seed=3), draw(3 + more, seed=4)
    one.observe("m", rows[:30])
    with (
        closing(sqlite3.connect(database.engine.url.database)) as used,
        closing(sqlite3.connect(tmp_path / "b")) as copy,
    ):
        used.backup(copy)
        one.observe("m", lost, 30, prefix="lost")
        copy.backup(used)
    other.observe("m", new, 30, prefix="new")
    result = one.observe("m", rows[30:], 40)[0]
    assert (result["outcome"], result["row"]) == ("entered", 34 + more)
    replays = metrics.replays_that_differ._value.get()
    Process(database, store).observe("m", rows[:1])
    assert metrics.replays_that_differ._value.get() == replays, "the log leads to what was recorded"


def test_the_size_of_a_state_is_that_of_its_arrays_also_when_blocks_have_ended(monkeypatch):
    monkeypatch.setattr(epoch, "LAST_ROW", 16)
    rows = np.random.default_rng(3).normal(size=(616, 128)).astype(np.float32)
    state = State(Monitor(MonitorOptions(), rows[:600], [f"r{row}" for row in range(600)]), 1, 0)
    for is_active in (True, False):
        assert state.monitor.epoch.blocks_are_active == is_active
        assert 0.9 < state.size_bytes / len(to_bytes(state.monitor)) < 2
        ids = [f"o{row}" for row in range(16)]
        state.monitor.observe(rows[600:], ids, ids, [""] * 16, [1] * 16)


def test_few_states_are_read_at_once(database, store, process, monkeypatch):
    names = [f"m{number}" for number in range(2 * READERS)]
    for name in names:
        create(process.monitors, store, name)
    read, guard, reading, most = StateReader._read, threading.Lock(), 0, 0

    def read_slowly(reader, head):
        nonlocal reading, most
        with guard:
            reading += 1
            most = max(most, reading)
        time.sleep(0.05)  # for others to come
        try:
            return read(reader, head)
        finally:
            with guard:
                reading -= 1

    monkeypatch.setattr(StateReader, "_read", read_slowly)
    with ThreadPoolExecutor(len(names)) as pool:
        results = list(pool.map(lambda name: process.observe(name, draw(1)), names))
    assert [result["row"] for (result,) in results] == [1] * len(names)
    assert 1 < most <= READERS


def test_monitors_of_one_id_record_in_the_log_of_their_tenant_alone(database, store):
    ours, theirs = (Process(database.of_tenant(name), store) for name in ("ours", "theirs"))
    rows = draw(30, seed=4)
    for process in (ours, theirs):
        create(process.monitors, store, "m")
    ours.observe("m", rows)
    assert (ours.monitors.get("m").sequence, theirs.monitors.get("m").sequence) == (30, 0)
    assert theirs.monitors.get("m").counts == {}
    assert [result["duplicate"] for result in theirs.observe("m", rows[:2])] == [False, False]
    assert ours.monitors.get("m").status["components"] == observe_alone(rows)
    assert theirs.monitors.get("m").status["components"] == observe_alone(rows[:2])
    other = Process(database.of_tenant("ours"), store)  # which repeats the log
    other.observe("m", rows[:1])
    assert other.monitors.get("m").status["components"] == observe_alone(rows)


def test_two_processes_that_store_one_state_do_not_delete_it(database, store):
    first, second = Process(database, store, snapshot_rows=30), Process(database, store, snapshot_rows=30)
    create(first.monitors, store, "m")
    rows = draw(30)
    # Both are due for the same state: the second is sent the same observations again before the first has stored it.
    released = threading.Event()
    store.on_call = lambda: store.calls[-1][0] == "get" or released.wait(30)
    first.observe("m", rows)
    second.observe("m", rows)
    released.set()
    wait_for_snapshots()
    wait_for_snapshots()
    row = get_row(database)
    assert row.snapshot["sequence"] == 30
    assert row.snapshot["key"] in store.objects
    assert row.earlier_snapshot["key"] in store.objects
    assert len(store.objects) == 2
    third = Process(database, store)
    third.observe("m", draw(31)[30:], 30)
    assert get_row(database).sequence == 31


def test_evidence_goes_on_while_the_store_refuses_and_a_snapshot_is_not_tried_by_every_call(database, store):
    process = Process(database, store, snapshot_rows=10)
    create(process.monitors, store, "m")
    rows = draw(60)
    process.observe("m", rows[:1])
    store.is_away, failures = True, metrics.snapshot_failures._value.get()
    for start in range(1, 60):
        process.observe("m", rows[start : start + 1], start)
        wait_for_snapshots()
    assert metrics.snapshot_failures._value.get() == failures + 1
    assert get_row(database).status["components"] == observe_alone(rows)
    store.is_away = False
    assert Process(database, store).observe("m", draw(61)[60:], 60)[0]["row"] == 61


def test_a_snapshot_outlives_the_call_that_was_due_for_it(database, store):
    process = Process(database, store, snapshot_rows=10)
    create(process.monitors, store, "m")
    process.observe("m", draw(1))
    seen = []

    def look():
        current_work.get().checkpoint()  # as the attempts of the real store do
        seen.append(current_work.get().deadline)

    released = threading.Event()
    store.on_call = lambda: (released.wait(30), look())
    with work_within(WorkContext(time.monotonic() + 5.0)):
        process.observe("m", draw(10))
    released.set()
    wait_for_snapshots()
    assert get_row(database).snapshot["sequence"] == 10
    assert set(seen) == {None}


def test_no_transaction_and_no_other_monitor_waits_for_the_store(database, store):
    process = Process(database, store, snapshot_rows=10)
    for name in ("m", "other"):
        create(process.monitors, store, name)
    cold = Process(database, store)
    locked = []

    def write():
        locked.append(cold.states.get_lock("default", "other").locked())
        with database.session() as session:  # SQLite would wait, and fail, inside another transaction
            session.execute(sa.update(MonitorRow).where(MonitorRow.id == "other").values(lag_s=1.0))

    store.on_call = write
    cold.observe("m", draw(10))
    cold.replace_reference("m", 1, EpochStart.FIXED, make_reference(2).pinned, make_reference(2, "s"))
    assert len(locked) >= 2
    assert not any(locked)
    assert [cold.monitors.get("m").epoch.number, cold.monitors.get("other").epoch.number] == [2, 1]


def test_a_replaced_reference_is_recorded_once_or_not_at_all(database, store, process):
    create(process.monitors, store, "m")
    process.observe("m", draw(20))
    new = make_reference(2, "s")
    store.is_away = True
    with pytest.raises(Unavailable):
        process.replace_reference("m", 1, EpochStart.FIXED, new.pinned, new)
    assert process.monitors.get("m").epoch.number == 1
    store.is_away = False
    process.observe("m", draw(25)[20:], 20)
    seen = make_reference(3, "og")
    with pytest.raises(InvalidInput, match="has seen patients"):
        process.replace_reference("m", 1, EpochStart.UNSEEN_REFERENCE, seen.pinned, seen)
    assert get_row(database).status["components"] == observe_alone(draw(25))
    for _ in range(2):
        process.replace_reference("m", 1, EpochStart.UNSEEN_REFERENCE, new.pinned, new)
    with pytest.raises(PreconditionFailed, match="current epoch is 2"):
        process.replace_reference("m", 1, EpochStart.RESET, new.pinned, new)
    monitor = process.monitors.get("m")
    assert [(one.number, one.rows) for one in monitor.epochs] == [(2, 0), (1, 25)]
    used = {get_row(database).snapshot["key"], get_row(database).earlier_snapshot["key"]}
    assert set(store.objects) == used


def test_a_new_reference_counts_what_another_process_records_meanwhile(database, store, process):
    create(process.monitors, store, "m")
    other = Process(database, store)
    rows, recorded = draw(_ATTEMPTS + 1, seed=3), []

    def record():
        if store.calls[-1][0] == "put" and len(recorded) < 2:
            recorded.append(1)
            store.on_call, hook = (lambda: None), store.on_call
            other.observe("m", rows[len(recorded) - 1 : len(recorded)], len(recorded) - 1)
            store.on_call = hook

    store.on_call = record
    new = make_reference(2, "s")
    process.replace_reference("m", 1, EpochStart.FIXED, new.pinned, new)
    assert len(recorded) == 2
    assert [(one.number, one.rows) for one in process.monitors.get("m").epochs] == [(2, 0), (1, 2)]
    repeated = process.observe("m", rows[:1], prefix="again", start=0)
    assert repeated[0]["outcome"] == "entered"
    assert other.observe("m", rows[:3])[2]["epoch"] == 2


def test_a_monitor_that_is_created_again_does_not_take_what_was_read_for_the_first(database, store, process):
    other = Process(database, store)
    first = create(process.monitors, store, "m", seed=1)
    pins = process.monitors.get_pins("m")
    process.observe("m", draw(5))
    other.observe("m", draw(6)[5:], 5)
    process.monitors.delete("m", first.uid)
    process.keeper.forget("m", first.uid)
    create(process.monitors, store, "m", seed=1)
    with pytest.raises(Outdated):
        other.keeper.record("m", pins, first.origin, [IncomingObservation.of("x", "x", "", None, {"a": draw(1)[0]})])
    assert other.observe("m", draw(5))[4]["row"] == 5
    with database.snapshot() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(ObservationRow)) == 5


def test_no_change_of_a_monitor_reaches_a_later_one_of_its_id(database, store, process):
    first = create(process.monitors, store, "m")
    process.observe("m", draw(5))
    warm, new = process.epochs._reader.warm, make_reference(2, "s")

    def create_again(name):
        state = warm(name)
        process.monitors.delete("m", first.uid)
        create(process.monitors, store, "m")
        return state

    process.epochs._reader.warm = create_again
    for call in (
        lambda: process.replace_reference("m", 1, EpochStart.FIXED, new.pinned, new),
        lambda: process.epochs.replace_reference(first, 1, EpochStart.FIXED, new.pinned, new),
        lambda: process.monitors.set_state("m", first.uid, "paused"),
    ):
        with pytest.raises(NotFound):
            call()
    assert (get_row(database).epoch, get_row(database).state) == (1, "active")
    assert process.observe("m", draw(5))[4]["row"] == 5


def test_a_transaction_takes_fewer_observations_of_a_large_state(database, store, process, monkeypatch):
    create(process.monitors, store, "m")
    commits = []
    sa.event.listen(database.engine, "commit", commits.append)
    for size_bytes, transactions in ((2**20, 1), (CHUNK_BYTES // 4, 3), (2 * CHUNK_BYTES, 10)):
        monkeypatch.setattr(State, "size_bytes", size_bytes)
        process.observe("m", draw(1), prefix=f"{size_bytes}-first")
        commits.clear()
        results = process.observe("m", draw(10), prefix=f"{size_bytes}-")
        assert [one["row"] - results[0]["row"] for one in results] == list(range(10))
        assert len(commits) == 1 + transactions, "one for what is pins, and those that record"


def test_the_first_snapshot_of_an_epoch_has_none_that_makes_up_for_its_loss(database, store, process):
    create(process.monitors, store, "m")
    process.observe("m", draw(5))
    new = make_reference(2, "s")
    for number in (1, 2):
        snapshot = get_row(database).snapshot["key"]
        lost = store.objects.pop(snapshot)
        with pytest.raises(DataLoss, match="restore the bucket"):
            Process(database, store).observe("m", draw(6)[5:], 5, prefix=f"{number}-")
        store.objects[snapshot] = lost
        if number == 1:
            process.replace_reference("m", 1, EpochStart.FIXED, new.pinned, new)


def test_an_alarm_that_a_repetition_misses_keeps_its_acknowledgement(database, store, process):
    create(process.monitors, store, "m", alpha=0.05)
    drifted = draw(60, seed=2) + 5
    process.observe("m", drifted)
    acknowledged = process.monitors.acknowledge("m", 1, "seen").epoch.alarm
    with database.session() as session:  # as another machine with other last bits, and further from the threshold
        for row in session.scalars(sa.select(InputRow)):
            row.features = save({"a": draw(1, seed=row.sequence)[0]})
    results = Process(database, store).observe("m", draw(100, seed=3) + 5, 60)
    assert not any(one["raised_alarm"] for one in results)
    assert process.monitors.get("m").epoch.alarm == acknowledged


def test_an_alarm_that_a_repetition_alone_raises_is_recorded_with_the_next_row(database, store, process):
    create(process.monitors, store, "m", alpha=0.05)
    process.observe("m", draw(60, seed=2))
    assert process.monitors.get("m").epoch.alarm is None
    with database.session() as session:  # as another machine with other last bits, and further above the threshold
        for row in session.scalars(sa.select(InputRow)):
            row.features = save({"a": draw(1, seed=row.sequence)[0] + 5})
    results = Process(database, store).observe("m", draw(2, seed=3) + 5, 60)
    assert [one["raised_alarm"] for one in results] == [True, False]
    alarm = process.monitors.get("m").epoch.alarm
    assert (alarm.row, alarm.observation_id) == (61, "o60")


def test_snapshots_that_are_older_than_the_log_are_a_loss_of_data(database, store, process):
    create(process.monitors, store, "m")
    process.observe("m", draw(20))
    delete_inputs(database, 10)  # as after a restored backup of the bucket alone
    with pytest.raises(DataLoss, match="restore the bucket and the database from backups of the same time"):
        Process(database, store).observe("m", draw(21)[20:], 20)
    assert process.observe("m", draw(21)[20:], 20)[0]["row"] == 21, "a process that has the state goes on"


def test_extreme_numbers_enter_and_the_evidence_stays_finite(database, store, process):
    create(process.monitors, store, "m")
    rows = [
        np.full(4, 1e308), np.full(4, -1.7e308), np.full(4, 5e-324), np.array([1e308, -1e308, 0, 0]),
        np.full(4, 65504, np.float16), np.full(4, 3e38, np.float32), np.full(4, -0.0),
    ]  # fmt: skip
    results = process.observe("m", rows)
    assert {one["outcome"] for one in results} == {"entered"}
    assert all(0 < one["p_value"] <= 1 for one in results)
    assert Process(database, store).observe("m", rows)[6]["duplicate"]
    values = [np.full(4, bad) for bad in (np.nan, np.inf, -np.inf)]
    assert {one["outcome"] for one in process.observe("m", values, prefix="bad")} == {"not_finite"}
    assert not any(np.isnan(value) for value, _ in get_row(database).status["components"].values() if value)
