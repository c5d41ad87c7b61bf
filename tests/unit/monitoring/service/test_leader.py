"""Rounds of the leader: what fails of one monitor or tenant holds no other up, and nothing that is new is deleted."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from unittest.mock import MagicMock

import grpc
import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import save
from tests.outdated_states import outdate
from tests.unit.monitoring.service.conftest import (
    Process,
    WritableStore,
    create,
    draw,
    make_reference,
    wait_for_snapshots,
)

from vfmalign.client.async_client import AsyncClient
from vfmalign.client.messages.mmd import ComputeOptions
from vfmalign.core.domain.errors import Cancelled, Unavailable
from vfmalign.core.rpc.transport import MESSAGE_BYTES
from vfmalign.core.runtime.metrics import REGISTRY
from vfmalign.core.runtime.work_context import current_work
from vfmalign.database.lease import Lease
from vfmalign.database.tables import now
from vfmalign.monitoring import metrics
from vfmalign.monitoring.schema import open_database
from vfmalign.monitoring.service import leader as leader_module
from vfmalign.monitoring.service import replay, repository
from vfmalign.monitoring.service.leader import Leader, Tenancy
from vfmalign.monitoring.settings import MonitoringOptions
from vfmalign.monitoring.tables import INPUTS, InputRow, MonitorRow, ObservationRow
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc

UNUSED = "monitors/gone/uid/state/1-0.npz"
UNUSED_S = leader_module._UNUSED_S


@pytest.fixture(autouse=True)
def _unused_objects_are_deleted_at_once(monkeypatch):
    monkeypatch.setattr(leader_module, "_UNUSED_S", 0.0)


def lead(database, tenancies):
    return Leader(Lease(database, 60.0).try_acquire(), tenancies, MonitoringOptions(kept_windows=1), 50)


def observe_many(process, name="m"):
    """Observes enough for two snapshots."""
    rows = draw(60)
    for start in range(0, 60, 5):
        process.observe(name, rows[start : start + 5], start)
        wait_for_snapshots()


def list_inputs(database):
    with database.snapshot() as session:
        return session.scalars(sa.select(InputRow.sequence).order_by(InputRow.sequence)).all()


async def test_features_of_a_monitor_that_is_created_again_during_a_round_stay(database, store):
    process = Process(database, store, snapshot_rows=20)
    first = create(process.monitors, store, "m", window_rows=16)
    observe_many(process)
    store.objects[UNUSED] = b""

    def create_again():
        if store.calls[-1] == ("delete", UNUSED):
            process.monitors.delete("m", first.uid)
            create(process.monitors, store, "m", window_rows=16)
            process.observe("m", draw(15))

    store.on_call = create_again
    await lead(database, {"default": Tenancy(database, store, process.keeper, None)})._clean()
    assert list_inputs(database) == list(range(1, 16))
    assert Process(database, store).observe("m", draw(1, seed=9), 15)[0]["row"] == 16


async def test_features_are_deleted_in_parts_between_which_others_write(database, store, monkeypatch):
    monkeypatch.setattr(leader_module, "_DELETED_INPUTS", 4)
    process = Process(database, store, snapshot_rows=20)
    create(process.monitors, store, "m", window_rows=16)
    observe_many(process)
    leader = lead(database, {"default": Tenancy(database, store, process.keeper, None)})
    deleted, left = leader._delete_inputs, [60]

    def delete_inputs(*of_monitor):
        is_done = deleted(*of_monitor)
        left.append(len(list_inputs(database)))
        return is_done

    monkeypatch.setattr(leader, "_delete_inputs", delete_inputs)
    await leader._clean()
    with database.snapshot() as session:
        earlier = session.scalars(sa.select(MonitorRow)).one().earlier_snapshot["sequence"]
    assert left[-1] == 60 - min(earlier, 60 - 16), "those of the last window and since the snapshot stay"
    assert max(before - after for before, after in pairwise(left)) == 4
    assert Process(database, store).observe("m", draw(1, seed=9), 60)[0]["row"] == 61


@pytest.mark.parametrize(("days", "kept"), [(None, "all"), (30, "all"), (10, "replayed")])
async def test_old_rows_go_once_no_restart_replays_them(database, store, monkeypatch, days, kept):
    monkeypatch.setattr(leader_module, "_DELETED_INPUTS", 7)
    process = Process(database, store, snapshot_rows=20)
    create(process.monitors, store, "m", window_rows=16)
    observe_many(process)
    with database.session() as session:
        session.execute(sa.update(ObservationRow).values(received_at=now() - timedelta(days=20)))
        earlier = session.scalars(sa.select(MonitorRow)).one().earlier_snapshot["sequence"]
    process.observe("m", draw(5, seed=9), 60)
    leader = Leader(
        Lease(database, 60.0).try_acquire(),
        {"default": Tenancy(database, store, process.keeper, None)},
        MonitoringOptions(kept_windows=1),
        50,
        observations_days=days,
    )
    await leader._clean()
    with database.snapshot() as session:
        left = session.scalars(sa.select(ObservationRow.sequence).order_by(ObservationRow.sequence)).all()
    assert left == list(range(1 if kept == "all" else earlier + 1, 66))
    assert Process(database, store).observe("m", draw(1, seed=8), 65)[0]["row"] == 66, "the evidence goes on"
    assert process.monitors.get("m").counts["entered"] == 66


async def test_a_tenant_whose_store_is_away_keeps_no_other_from_being_cleaned(database, store):
    process = Process(database, store, snapshot_rows=20)
    create(process.monitors, store, "m", window_rows=16)
    observe_many(process)
    away, other = WritableStore(), database.of_tenant("away")
    away.objects[UNUSED], away.is_away = b"", True
    store.objects[UNUSED] = b""
    tenancies = {
        "away": Tenancy(other, away, Process(other, away).keeper, None),
        "default": Tenancy(database, store, process.keeper, None),
    }
    await lead(database, tenancies)._clean()
    assert UNUSED not in store.objects
    assert list_inputs(database)[0] > 1


async def test_a_leader_with_another_database_leaves_the_states_that_the_right_one_needs(
    database, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(leader_module, "_UNUSED_S", UNUSED_S)
    process = Process(database, store, snapshot_rows=20)
    create(process.monitors, store, "m", window_rows=16)
    observe_many(process)
    states = set(store.objects)
    wrong = open_database(f"sqlite:///{tmp_path / 'wrong.db'}")
    wrong.migrate()
    leader = lead(wrong, {"default": Tenancy(wrong, store, Process(wrong, store).keeper, None)})
    for _ in range(2):
        await leader._clean()
    assert set(store.objects) == states
    assert Process(database, store).observe("m", draw(1, seed=9), 60)[0]["row"] == 61

    next_day_s = time.monotonic() + 25 * 3600
    monkeypatch.setattr(time, "monotonic", lambda: next_day_s)
    await leader._clean()
    assert not states & set(store.objects), "what nobody names for a day is deleted"
    wrong.close()


async def test_a_leader_whose_store_does_not_answer_stops_at_once(database, store, monkeypatch):
    asked, answers, given_up = (threading.Event() for _ in range(3))

    def hang(prefix):
        asked.set()
        answers.wait(60)
        try:
            current_work.get().checkpoint()  # as before each attempt
        except Cancelled:
            given_up.set()
        return {}

    monkeypatch.setattr(store, "sizes_bytes", hang)
    leader = lead(database, {"default": Tenancy(database, store, Process(database, store).keeper, None)})
    running = asyncio.create_task(leader.run())
    assert await asyncio.to_thread(asked.wait, 10)
    leader.stop()
    await asyncio.wait_for(running, 5)
    answers.set()
    assert await asyncio.to_thread(given_up.wait, 10)


async def test_the_leader_deletes_the_rest_of_a_monitor_and_then_its_objects(database, store, monkeypatch):
    monkeypatch.setattr(repository, "_DELETED_ROWS", 4)
    process = Process(database, store)
    for name in ("m", "other"):
        create(process.monitors, store, name)
        process.observe(name, draw(6))
    leader = lead(database, {"default": Tenancy(database, store, process.keeper, None)})
    await leader._delete_monitors()
    assert len(list_inputs(database)) == 12, "monitors that nobody deleted stay"
    process.monitors.delete("m", process.monitors.get("m").uid)
    rows = []
    store.on_call = lambda: rows.append(process.monitors.list_deleted())
    await leader._delete_monitors()
    assert rows == [()], "its objects are deleted last"
    assert {key.split("/")[1] for key in store.objects} == {"other"}
    assert len(list_inputs(database)) == 6


def test_a_leader_that_has_lost_the_database_exports_until_its_lease_expires(database, store, monkeypatch):
    process, now_s = Process(database, store), [100.0]
    create(process.monitors, store, "m")
    monkeypatch.setattr("vfmalign.database.lease._clock_s", lambda: now_s[0])
    leader = lead(database, {"default": Tenancy(database, store, process.keeper, None)})
    labels = {"tenant": "default", "monitor": "m"}

    def read_alarm():
        return REGISTRY.get_sample_value("vfmalign_monitor_alarm", labels)

    leader._export()
    assert read_alarm() == 0
    monkeypatch.setattr(leader._monitors["default"], "list_all", MagicMock(side_effect=Unavailable("it is away")))
    for now_s[0], shown in ((159.0, 0), (161.0, None)):
        with pytest.raises(Unavailable):
            leader._export()
        assert read_alarm() == shown
    monkeypatch.undo()
    leader._export()
    assert read_alarm() == 0, "it goes on where no other process has taken over"
    metrics.export_samples(())


def make_answer(mmd2):
    shift = mmd_pb2.ShiftResult(mmd2={"value": mmd2}, p_value={"value": 0.5}, sigma=1)
    layer = mmd_pb2.LayerResult(layer="a", channels=4, raw=shift)
    return mmd_pb2.ComputeResponse(primary_layer="a", estimator=1, layers=[layer])


class Mmd(mmd_pb2_grpc.MmdServiceServicer):
    """An MMD service that answers what a test says.

    Attributes:
        answers: repeated in turn.
        rows: of both samples of each call.
    """

    def __init__(self):
        self.answers, self.rows = [make_answer(0.25)], []

    async def Compute(self, request, context):
        self.rows.append(tuple(one.inline.layers[0].features.shape[0] for one in (request.x, request.y)))
        return self.answers[(len(self.rows) - 1) % len(self.answers)]


@pytest.fixture
async def mmd():
    server, servicer = grpc.aio.server(options=[("grpc.max_receive_message_length", MESSAGE_BYTES)]), Mmd()
    mmd_pb2_grpc.add_MmdServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(mmd_address=f"127.0.0.1:{port}") as servicer.client:
        options = ComputeOptions.from_fields(pairing="independent")
        await servicer.client.mmd.compute(draw(2), draw(2), options)  # connects before a test keeps the loop busy
        servicer.rows.clear()
        yield servicer
    await server.stop(None)


async def test_nonsense_of_the_mmd_service_is_no_window_and_ends_no_round(database, store, mmd, monkeypatch):
    mmd.answers = [mmd_pb2.ComputeResponse(primary_layer="a", estimator=1), make_answer(float("nan"))]
    process = Process(database, store)
    for name in ("m", "n"):
        create(process.monitors, store, name, window_rows=16)
        process.observe(name, draw(20))
    monkeypatch.setattr(leader_module, "load_reference", lambda *_: make_reference())
    leader = lead(database, {"default": Tenancy(database, store, process.keeper, mmd.client)})
    await leader._compute_windows()
    assert len(mmd.rows) == 2
    await leader._compute_windows()
    assert len(mmd.rows) == 2, "it is asked again only after a while"
    assert all(not one.shifts for one in process.monitors.list_all())


async def test_a_monitor_whose_state_is_outdated_holds_no_other_up(database, store, mmd, monkeypatch):
    process = Process(database, store, snapshot_rows=20)
    for name in ("lost", "whole", "other"):
        create(process.monitors, store, name, window_rows=16)
    observe_many(process, "lost")
    for name in ("whole", "other"):
        process.observe(name, draw(19))
    for name in ("lost", "whole"):
        outdate(database, store, name)
    for module in (leader_module, replay):
        monkeypatch.setattr(module, "load_reference", lambda *_: make_reference())
    store.objects[UNUSED] = b""
    later = Process(database, store)
    leader = lead(database, {"default": Tenancy(database, store, later.keeper, mmd.client)})
    failures = metrics.window_failures.labels("PRECONDITION_FAILED")._value
    failed = failures.get()
    try:
        for _ in range(2):
            await leader._compute_windows()
        assert {one.id: bool(one.shifts) for one in later.monitors.list_all()} == {
            "lost": False, "other": True, "whole": True,
        }  # fmt: skip
        assert failures.get() == failed + 1, "it is tried again only after a while"
        leader._export()
        for name in ("lost", "whole", "other"):
            labels = {"tenant": "default", "monitor": name}
            assert REGISTRY.get_sample_value("vfmalign_monitor_alarm", labels) == 0
            shown = [
                REGISTRY.get_sample_value("vfmalign_monitor_log_threshold", {**labels, "component": component})
                for component in ("rows", "channels")
            ]
            assert [value is not None for value in shown] == [True, name == "other"], "as they were recorded"
        later.observe("whole", draw(1, seed=9), 19)
        leader._export()
        labels = {"tenant": "default", "monitor": "whole", "component": "channels"}
        assert REGISTRY.get_sample_value("vfmalign_monitor_log_threshold", labels) is not None
    finally:
        metrics.export_samples(())
    await leader._clean()
    assert UNUSED not in store.objects
    assert Process(database, store).observe("whole", draw(1, seed=10), 20)[0]["row"] == 21
    process.monitors.delete("lost", process.monitors.get("lost").uid)
    await leader._delete_monitors()
    assert [one.id for one in later.monitors.list_all()] == ["other", "whole"]


async def test_a_window_that_does_not_fit_into_a_message_is_compared_by_fewer_rows(database, store, mmd, monkeypatch):
    process = Process(database, store)
    create(process.monitors, store, "m", window_rows=5000)
    process.observe("m", draw(1))
    wide = np.ones((5000, 1000), np.float32)
    with database.session() as session:
        values = {"tenant": "default", "monitor_id": "m", "patient": "p", "stratum": "", "day": 0, "epoch": 1}
        session.execute(sa.delete(InputRow))
        features = save({"a": wide[0]})
        rows = [{"sequence": n, "row": n, "features": features} for n in range(1, 5001)]
        session.execute(sa.insert(INPUTS), [values | row for row in rows])
        monitor = session.scalars(sa.select(MonitorRow)).one()
        monitor.status, monitor.layers = monitor.status | {"rows": 5000}, {"a": 1000}
    reference = replace(make_reference(), layers={"a": wide})
    monkeypatch.setattr(leader_module, "load_reference", lambda *_: reference)
    monkeypatch.setattr(process.keeper, "get_channel_shifts", lambda *_: [])
    leader = lead(database, {"default": Tenancy(database, store, process.keeper, mmd.client)})
    await leader._compute_windows()
    (shift,) = process.monitors.get("m").shifts
    assert (shift["first_row"], shift["last_row"]) == (1, 5000)
    assert mmd.rows == [(shift["reference_rows"], shift["rows"])]
    assert 500 < shift["rows"] < 5000
