"""Erasure of a patient from monitors: found before, gone after, and the evidence goes on as if nothing had happened."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import sqlalchemy as sa
from tests.unit.monitoring.service.conftest import (
    ORIGIN,
    Process,
    WritableStore,
    create,
    draw,
    make_reference,
    wait_for_snapshots,
)

from vfmalign.client.messages.erasure import ErasePatientRequest
from vfmalign.core.domain.errors import NotFound, Unavailable
from vfmalign.core.rpc.watching import Watching
from vfmalign.core.storage.keys import erasures_prefix
from vfmalign.monitoring.schema import open_database
from vfmalign.monitoring.sequential import EpochStart, get_patient_digest, to_bytes
from vfmalign.monitoring.service.erasure import make_erasures
from vfmalign.monitoring.service.observations import IncomingObservation
from vfmalign.monitoring.service.repository import PAUSED
from vfmalign.monitoring.service.servicer import MonitoringServicer
from vfmalign.monitoring.service.snapshots import delete_objects
from vfmalign.monitoring.service.windows import read_windows
from vfmalign.monitoring.tables import METADATA, InputRow
from vfmalign.v1 import erasure_pb2

PATIENT = "patient-7"
ROWS = draw(100, seed=5)
ROWS[7] = 9.0  # the most extreme row
OURS = (7, 47, 87)
"""Rows of the erased patient; the other patients have one row each."""
START = datetime(2026, 1, 1, tzinfo=UTC)
EVERYWHERE = {"monitors", "monitor_observations", "monitor_inputs", "names in states", "patients of states"}


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    if request.param == "sqlite":
        database = open_database(f"sqlite:///{tmp_path / 'monitoring.db'}")
    else:
        database = open_database(request.getfixturevalue("postgres_database"))
    database.migrate()
    yield database
    wait_for_snapshots()
    database.close()


@pytest.fixture
def process(database, store):
    """A process that stores states often."""
    return Process(database, store, snapshot_rows=30)


@pytest.fixture
def erasures(database, store):
    """Those of another process."""
    return make_erasures(database, store, Process(database, store).states)


@pytest.fixture
def control(tmp_path):
    """A process of another installation, in which nobody is erased."""
    database = open_database(f"sqlite:///{tmp_path / 'control.db'}")
    database.migrate()
    yield Process(database, WritableStore())
    database.close()


def observe(process, start=0, stop=80, name="m"):
    """Observes rows of `ROWS`, a few at a time, and waits for the states that are stored then."""
    results = []
    for first in range(start, stop, 20):
        incoming = [
            IncomingObservation.of(
                f"study-{row}",
                PATIENT if row in OURS else f"other-{row}",
                "AB"[row % 2],
                START + timedelta(hours=row),
                {"a": ROWS[row]},
            )
            for row in range(first, min(first + 20, stop))
        ]
        results += process.keeper.record(name, process.monitors.get_pins(name), ORIGIN, incoming)
        wait_for_snapshots()
    return results


def erase(erasures, **fields):
    return erasures.erase(
        ErasePatientRequest(**{"erasure_id": "e", "group": PATIENT, "models": "keep"} | fields), "admin"
    )


def list_rows(database):
    with database.engine.connect() as connection:
        return [
            (name, row._mapping)
            for name, table in METADATA.tables.items()
            for row in connection.execute(sa.select(table))
        ]


def get_digests(database):
    return {row["observation_id"]: row["content_digest"] for _, row in list_rows(database) if "content_digest" in row}


def find(database, store, digests=()):
    """Where the patient is found, apart from standardised rows."""
    names, places = [PATIENT, *(f"study-{row}" for row in OURS), *digests], set()
    for name, row in list_rows(database):
        raw = bytes(row["features"]) if "features" in row else b""
        text = repr({key: value for key, value in row.items() if key != "features"})
        times = row.get("acquired_at") in [START + timedelta(hours=one) for one in OURS]
        if times or any(f"'{one}'" in text for one in names) or any(ROWS[one].tobytes() in raw for one in OURS):
            places.add(name)
    for key, data in store.objects.items():
        assert not any(one.encode() in data for one in names if not key.startswith("monitors/"))
        if key.startswith("monitors/"):
            with np.load(io.BytesIO(data)) as state:
                header = state["header"].tobytes().decode()
                if any(f'"{one}"' in header for one in names):
                    places.add("names in states")
                if get_patient_digest(PATIENT) in state["patient_digests"]:
                    places.add("patients of states")
    return places


def get_state(process, name="m"):
    return to_bytes(process.keeper._reader.warm(name).monitor)


def describe(receipt):
    return [(one.kind, one.id, one.outcome, one.count) for one in receipt.objects]


@pytest.mark.parametrize("fields", [{}, {"stratum": "scanner"}, {"window_rows": 20}, {"first_patients": 60}])
def test_a_patient_is_found_before_and_gone_after_and_the_evidence_goes_on(
    database, store, process, erasures, control, fields
):
    for one, objects in ((process, store), (control, control.keeper._reader._store)):
        create(one.monitors, objects, "m", **fields)
        observe(one)
    before, digests = process.monitors.get("m"), get_digests(database)
    ours = [digests.pop(f"study-{row}") for row in OURS if row < 80]
    assert find(database, store, ours) == EVERYWHERE
    receipt = erase(erasures)
    assert find(database, store, ours) == set()
    assert describe(receipt) == [("observation", "m", "removed", 2), ("monitor", "m", "kept", 1)]
    assert "until the next epoch" in receipt.objects[1].note
    assert receipt.complete_time is not None
    after = process.monitors.get("m")
    assert {**after.status, "extreme_rows": 0} == {**before.status, "extreme_rows": 0}
    assert after.status["extreme_rows"] == [one for one in before.status["extreme_rows"] if one[1] != "study-7"]
    assert (after.counts, after.sequence, after.uid) == (before.counts, before.sequence, before.uid)
    assert digests.items() <= get_digests(database).items(), "those of other patients"
    observe(process, 80, 87)  # with the state of before in memory, which it must not store
    observe(control, 80, 87)
    assert process.monitors.get("m").status["components"] == control.monitors.get("m").status["components"]
    assert get_state(process) == get_state(Process(database, store)), "a restart leads to the same state"
    later = observe(process, 87, 100)
    assert [(one["outcome"], one["duplicate"]) for one in later[:1]] == [("entered", False)], "a new patient"
    assert get_state(process) == get_state(Process(database, store))


def test_other_monitors_and_tenants_keep_their_rows_and_objects(database, store, process, erasures):
    create(process.monitors, store, "m")
    observe(process)
    other, theirs = Process(database, store), Process(database.of_tenant("theirs"), store)
    for one, name in ((other, "without"), (theirs, "m2")):
        create(one.monitors, store, name)
        observe(one, 8, 47 if one is other else 80, name)
    is_other = lambda row: (row.get("monitor_id", row.get("id")), row["tenant"]) != ("m", "default")  # noqa: E731
    rows = [one for one in list_rows(database) if is_other(one[1])]
    objects = {key: data for key, data in store.objects.items() if not key.startswith("monitors/m/")}
    erase(erasures)
    assert [one for one in list_rows(database) if is_other(one[1])] == rows
    assert objects.items() <= store.objects.items()


def test_a_dry_run_changes_nothing_and_foretells_the_receipt(database, store, process, erasures):
    create(process.monitors, store, "m")
    observe(process)
    rows, objects = list_rows(database), dict(store.objects)
    foretold = erase(erasures, dry_run=True)
    assert (list_rows(database), store.objects) == (rows, objects)
    receipt = erase(erasures)
    assert receipt.objects == foretold.objects
    rows = list_rows(database)
    assert erase(erasures).objects == receipt.objects
    assert list_rows(database) == rows


@pytest.mark.parametrize("call", ["put", "delete"])
def test_an_interrupted_erasure_is_completed_after_a_restart(database, store, process, erasures, call):
    create(process.monitors, store, "m")
    observe(process)

    def interrupt():
        if store.calls[-1][0] == call and "/state/" in store.calls[-1][1]:
            raise Unavailable("the process was killed", subject="store", remedy="start it again")

    store.on_call = interrupt
    with pytest.raises(Unavailable):
        erase(erasures)
    assert erasures.get("e").complete_time is None
    assert find(database, store)
    store.on_call = lambda: None
    restarted = make_erasures(database, store, Process(database, store).states)
    restarted.resume()
    assert find(database, store) == set()
    assert restarted.get("e").complete_time is not None
    assert describe(restarted.get("e")) == [("observation", "m", "removed", 2), ("monitor", "m", "kept", 1)]
    evidence = process.monitors.get("m").status["components"]
    observe(process, 80, 81)
    assert process.monitors.get("m").status["components"] != evidence


def test_observations_that_another_process_records_meanwhile_are_erased_as_well(database, store, process, erasures):
    create(process.monitors, store, "m")
    observe(process)

    def observe_once():
        if store.calls[-1][0] == "put" and "/state/" in store.calls[-1][1]:
            store.on_call = lambda: None
            observe(process, 80, 90)

    store.on_call = observe_once
    erase(erasures)
    assert store.on_call is not observe_once
    assert find(database, store) == set()
    assert get_state(process) == get_state(Process(database, store))
    assert process.monitors.get("m").status["rows"] == 88


def test_a_process_stores_no_state_from_before_an_erasure(database, store, process, erasures):
    monitor = create(process.monitors, store, "m")
    observe(process)

    def observe_once():
        store.on_call = lambda: None
        if "/state/e000001" in store.calls[-1][1]:
            observe(process, 80, 87)  # its state is later than the one that is stored without the patient
        else:
            store.on_call = observe_once

    store.on_call = observe_once
    erase(erasures)
    assert find(database, store) == set()
    process.keeper._snapshots.store_if_due(("default", "m", monitor.uid), 30)
    wait_for_snapshots()
    assert find(database, store) == set()
    assert get_state(process) == get_state(Process(database, store))


def test_an_epoch_begins_without_a_patient_who_is_erased_meanwhile(database, store, process, erasures):
    create(process.monitors, store, "m")
    observe(process)

    def erase_once():
        if store.calls[-1][0] == "put":
            store.on_call = lambda: None
            erase(erasures)

    reference = make_reference(seed=3, prefix="unseen")
    store.on_call = erase_once
    process.replace_reference("m", 1, EpochStart.FIXED, reference.pinned, reference)
    assert process.monitors.get("m").epoch.number == 2
    assert erasures.get("e").complete_time is not None
    assert find(database, store) == set()


def test_the_alarm_that_a_patient_raised_stays_under_a_random_id(database, store, process, erasures, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROWS", ROWS + 4.0)
    create(process.monitors, store, "m")
    observe(process, 8, 40)
    alarm = process.monitors.get("m").epoch.alarm
    receipt = erase(erasures, group=alarm.observation_id.replace("study", "other"))
    assert describe(receipt)[0] == ("observation", "m", "removed", 1)
    after = process.monitors.get("m").epoch.alarm
    assert after.observation_id.startswith("erased-")
    assert after.observation_id in get_digests(database)
    assert after == alarm.model_copy(update={"observation_id": after.observation_id})
    observe(process, 40, 47)
    reference = make_reference(seed=3, prefix="unseen")
    process.replace_reference("m", 1, EpochStart.FIXED, reference.pinned, reference)
    earlier = Process(database, store).keeper._reader.warm("m").monitor.earlier
    assert [one.alarm.observation for one in earlier] == [after.observation_id]
    assert process.monitors.get("m").epochs[1].alarm == after


def test_observations_without_inputs_are_found_by_their_ids(database, store, process, erasures):
    monitor = create(process.monitors, store, "m")
    observe(process)
    process.monitors.set_state("m", monitor.uid, PAUSED)
    observe(process, 80, 90)
    with database.session() as session:  # as the leader deletes inputs that no restart or window needs
        session.execute(sa.delete(InputRow).where(InputRow.sequence <= 40))
    receipt = erase(erasures)
    assert describe(receipt) == [("observation", "m", "removed", 1), ("older observation", "m", "kept", 0)]
    assert "erase it by its id" in receipt.objects[1].note
    assert find(database, store) == {"monitors", "monitor_observations", "names in states"}, "the first and the last"
    receipt = erase(erasures, erasure_id="e2", observation_ids=("study-7", "study-87"))
    older = ("older observation", "m", "kept", 0)
    assert describe(receipt) == [("observation", "m", "removed", 2), older, ("monitor", "m", "kept", 1)]
    assert find(database, store) == set()
    assert describe(erase(erasures, erasure_id="e3", observation_ids=("study-7",))) == [older]


def test_a_receipt_names_the_patient_of_a_restored_monitor_also_where_inputs_are_lost(
    database, store, process, erasures
):
    create(process.monitors, store, "m")
    observe(process)
    patient = erase(erasures).patient
    create(process.monitors, store, "restored")
    observe(process, name="restored")
    with database.session() as session:
        session.execute(sa.delete(InputRow))
    assert find(database, store)
    erase(erasures, group="", patient=patient, erasure_id="again")
    assert find(database, store) == set()


def test_a_patient_of_whom_only_the_state_knows_may_enter_again(database, store, process, erasures):
    create(process.monitors, store, "m")
    observe(process)
    with database.session() as session:
        session.execute(sa.delete(InputRow).where(InputRow.sequence <= 80))
    assert describe(erase(erasures)) == [("monitor", "m", "changed", 0), ("older observation", "m", "kept", 0)]
    assert "patients of states" not in find(database, store)
    assert observe(process, 87, 88)[0]["outcome"] == "entered"


def test_a_patient_of_the_reference_stays_until_another_reference_replaces_it(database, store, process, erasures):
    create(process.monitors, store, "m")
    observe(process, 0, 7)
    assert describe(erase(erasures, group="r5")) == [("reference", "m", "kept", 0)]
    reference = make_reference(seed=3, prefix="unseen")
    process.replace_reference("m", 1, EpochStart.FIXED, reference.pinned, reference)
    assert describe(erase(erasures, group="r5", erasure_id="e2")) == [("monitor", "m", "changed", 0)]
    assert get_patient_digest("r5") not in Process(database, store).keeper._reader.warm("m").monitor.patients.reference
    assert erase(erasures, group="r5", erasure_id="e3").objects == ()


def test_windows_have_no_row_of_the_patient(database, store, process, erasures):
    create(process.monitors, store, "m", window_rows=20)
    observe(process, 0, 20)
    windows = []
    for _ in range(2):
        (window,) = read_windows(database, process.monitors.get("m"), make_reference(), 10)
        windows.append([layers["a"].tobytes() for layers in window.layers])
        erase(erasures)
    assert windows[1] == [one for one in windows[0] if one != ROWS[7].tobytes()]
    assert len(windows[1]) == 19


def test_a_deleted_monitor_does_not_stop_an_erasure(database, store, process, erasures):
    monitors = [create(process.monitors, store, name) for name in ("a", "m")]
    for one in monitors:
        observe(process, name=one.id)

    def delete_once():
        if "/state/e000001" in store.calls[-1][1]:
            store.on_call = lambda: None
            process.monitors.delete("a", monitors[0].uid)
            delete_objects(store, "a", monitors[0].uid)

    store.on_call = delete_once
    assert erase(erasures).complete_time is not None
    assert find(database, store) == set()
    assert not list(store.list("monitors/a/"))
    assert [one.id for one in process.monitors.list_all()] == ["m"]


async def test_the_service_erases_and_returns_its_receipt(process, store):
    watching = Watching("monitoring", 0.01)
    servicer = MonitoringServicer(process.monitors, process.keeper, process.epochs, store, watching=watching)
    create(process.monitors, store, "m")
    observe(process, 0, 20)
    request = erasure_pb2.ErasePatientRequest(erasure_id="e", group=PATIENT, models=1)
    erased = (await servicer.ErasePatient(request, None)).erasure
    assert (erased.service, erased.objects[0].count) == ("monitoring", 1)
    assert (await servicer.GetErasure(erasure_pb2.GetErasureRequest(erasure_id="e"), None)).erasure == erased
    with pytest.raises(NotFound):
        await servicer.GetErasure(erasure_pb2.GetErasureRequest(erasure_id="e2"), None)
    assert list(store.list(erasures_prefix("monitoring"))) == ["erasures/monitoring/e.json"]
