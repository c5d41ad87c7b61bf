"""Monitors whose states an earlier version stored, after the process has been replaced: on SQLite and PostgreSQL."""

from __future__ import annotations

import json

import pytest
from tests.integration.monitoring.conftest import LAYERS, draw, rows_of, store_set
from tests.integration.monitoring.test_leader import read_metrics, until
from tests.integration.monitoring.test_service import both_databases, evidence_of
from tests.outdated_states import outdate

from vfmalign.client import MonitorReference
from vfmalign.core.domain.errors import PreconditionFailed
from vfmalign.monitoring.sequential import Monitor, MonitorOptions
from vfmalign.monitoring.tables import MonitorRow


@both_databases
async def test_a_running_monitor_goes_on_and_its_alarm_stays(service, store, database):
    reference, layers = draw(90, seed=1), draw(150, seed=2, shift=1.5)
    feature_set, stream = store_set(store, reference, "ref"), store_set(store, layers, "stream")
    await service.create("m", feature_set, stratum="scanner", alpha=0.05, seed=3)
    await rows_of(service, "m", stream, rows=120)
    await service.monitors.acknowledge("m", 1, "seen")
    before = await service.monitors.get("m")
    assert before.epoch.alarm is not None
    await service.kill()
    outdate(database, store, "m")
    await service.start()

    shown = await service.monitors.get("m")
    kept = {"components", "peak"}
    assert shown.model_dump(exclude=kept) == before.model_dump(exclude=kept)
    assert await service.create("m", feature_set, stratum="scanner", alpha=0.05, seed=3) == shown
    assert f"Alarm since row {before.epoch.alarm.row} of 120" in (await service.monitors.get_report("m")).decode()
    assert all(one.duplicate for one in await rows_of(service, "m", stream, rows=120))
    results = await rows_of(service, "m", stream, start=120)
    assert [(one.outcome, one.row, one.raised_alarm) for one in results] == [
        ("entered", row, False) for row in range(121, 151)
    ]
    monitor = await service.monitors.get("m")
    scanners, names = ["AB"[row % 2] for row in range(150)], [f"stream-p{row}" for row in range(150)]
    patients = [f"ref-p{row}" for row in range(90)]
    library = Monitor(MonitorOptions(alpha=0.05, seed=3), reference[LAYERS[0]], patients, scanners[:90])
    library.observe(layers[LAYERS[0]], names, names, scanners)
    assert evidence_of(monitor) == list(library.status.log_evidence.values())
    assert monitor.epoch.alarm == before.epoch.alarm
    assert monitor.epoch.rows == 150
    assert (monitor.mix.rows, monitor.mix.reference_rows) == ({"A": 75, "B": 75}, library.status.reference_strata)
    events = [line["event"] for line in service.log()]
    assert events.count("state_made_anew") == 1
    assert not {"replay_differs", "round_failed"} & set(events)


async def test_a_monitor_whose_log_is_not_whole_is_refused_with_the_remedy_and_holds_no_other_up(
    service, store, reference, database
):
    settings = {"VFMALIGN_MONITORING__SNAPSHOT_ROWS": "10", "VFMALIGN_MONITORING__KEPT_WINDOWS": "1"}
    await service.kill()
    await service.start(**settings)
    for name in ("m", "other"):
        await service.create(name, reference, window_rows=16, alpha=0.05)
    layers = draw(60, seed=2, shift=2.0)

    async def get_earlier():
        with database.snapshot() as session:
            earlier = session.get_one(MonitorRow, ("default", "m")).earlier_snapshot
        return 0 if earlier is None else earlier["sequence"]

    for stop in range(10, 61, 10):
        await service.observe("m", {name: array[:stop] for name, array in layers.items()}, start=stop - 10)
    await service.observe("other", draw(20, seed=3))
    await until(get_earlier, lambda one: one > 0)
    before = await service.monitors.get("m")
    assert before.epoch.alarm is not None
    await service.kill()
    outdate(database, store, "m")
    await service.start(**settings)

    other = MonitorReference(feature_set_id=store_set(store, draw(90, seed=4), "new"))
    for call in (
        lambda: service.observe("m", draw(1, seed=5), prefix="later"),
        lambda: service.observe("m", layers),
        lambda: service.monitors.replace_reference("m", 1, None, "reset"),
        lambda: service.monitors.replace_reference("m", 1, other, "fixed"),
    ):
        with pytest.raises(PreconditionFailed, match="its state is from an earlier version") as caught:
            await call()
        assert caught.value.subject == "m"
        assert caught.value.remedy == "note its alarm, delete it, and create it again; its evidence then starts over"
    assert {one.outcome for one in await service.observe("other", draw(40, seed=3), start=20)} == {"entered"}
    kept = {"components", "peak"}
    shown = await service.monitors.get("m")
    assert shown.model_dump(exclude=kept) == before.model_dump(exclude=kept)
    assert [one.monitor_id for one in await service.monitors.list()] == ["other", "m"]
    page = (await service.monitors.get_report("m")).decode()
    assert f"Alarm since row {before.epoch.alarm.row} of 60" in page
    assert json.loads(await service.monitors.get_report("m", "json"))["alarm"]["row"] == before.epoch.alarm.row
    names = [f'vfmalign_monitor_alarm{{monitor="{name}",tenant="default"}}' for name in ("m", "other")]
    exported = await until(lambda: read_metrics(service), lambda one: all(name in one for name in names))
    assert exported[names[0]] == 1
    assert (await service.monitors.acknowledge("m", 1, "noted")).epoch.alarm.note == "noted"
    await until(lambda: read_metrics(service), lambda one: one.get(names[0]) == 0)
    await service.monitors.delete("m")
    await service.create("m", reference, window_rows=16, alpha=0.05)
    assert (await service.observe("m", draw(1, seed=5)))[0].row == 1
    assert not [line for line in service.log() if line["event"] in {"round_failed", "call_failed"}]
