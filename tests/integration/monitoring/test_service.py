"""Monitors from their creation to their deletion, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import math
import signal
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import sqlalchemy as sa
from tests.integration.monitoring.conftest import (
    CHANNELS,
    LAYERS,
    ORIGIN,
    both_databases,
    draw,
    evidence_of,
    observe_alone,
    rows_of,
    store_set,
)

from vfmalign.client import FeatureOrigin, MonitorReference, MonitorSpec, Observation, ObservedStudy
from vfmalign.core.domain.errors import (
    BadOption,
    BadTensor,
    Conflict,
    Exhausted,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    TooLarge,
)
from vfmalign.monitoring.sequential import Monitor, MonitorOptions
from vfmalign.monitoring.service import references
from vfmalign.monitoring.tables import InputRow, ObservationRow


@both_databases
async def test_the_evidence_is_that_of_the_library_and_an_alarm_is_raised_once_and_acknowledged(service, store):
    reference = draw(90, seed=1)
    feature_set = store_set(store, reference, "a")
    created = await service.create("m", feature_set, alpha=0.05, seed=3, title="t")
    assert (created.state, created.epoch.number, created.epoch.has_guarantee, created.channels) == (
        "active",
        1,
        True,
        CHANNELS,
    )
    assert created.spec.layer == LAYERS[0]
    assert created.spec.reference.manifest_sha256
    assert await service.create("m", feature_set, alpha=0.05, seed=3, title="t") == created
    with pytest.raises(Conflict):
        await service.create("m", feature_set, alpha=0.01, seed=3, title="t")

    layers = draw(150, seed=2, shift=1.0)
    results = await service.observe("m", layers)
    library, observed = observe_alone(reference, [f"a-p{row}" for row in range(90)], layers, "o", alpha=0.05, seed=3)
    assert [(one.row, one.p_value, one.raised_alarm) for one in results] == [
        (one.row, one.p_value, one.raised_alarm) for one in observed
    ]
    monitor = await service.monitors.get("m")
    assert evidence_of(monitor) == list(library.status.log_evidence.values())
    alarm = monitor.epoch.alarm
    assert (alarm.row, alarm.observation_id) == (library.status.alarm.row, library.status.alarm.observation)
    assert alarm.acknowledge_time is None
    assert sum(one.raised_alarm for one in results) == 1

    with pytest.raises(PreconditionFailed, match="current epoch"):
        await service.monitors.acknowledge("m", 2)
    first = (await service.monitors.acknowledge("m", 1, "coil replaced")).epoch.alarm
    second = (await service.monitors.acknowledge("m", 1, "again")).epoch.alarm
    assert first.note == "coil replaced"
    assert first == second


async def test_the_first_patients_raise_the_alarm_when_they_are_complete(service, store):
    feature_set = store_set(store, draw(90, seed=1), "f")
    with pytest.raises(BadOption, match=r"spec\.first_patients: the test of the first patients needs an alpha"):
        await service.create("m", feature_set, alpha=0.0001, first_patients=20)
    await service.create("m", feature_set, alpha=0.02, first_patients=20)
    layers = draw(20, seed=2, shift=0.5)
    await service.observe("m", {name: array[:19] for name, array in layers.items()})
    monitor = await service.monitors.get("m")
    assert monitor.epoch.alarm is None
    assert (monitor.components[-1].component, monitor.components[-1].log_evidence) == ("first_patients", 0.0)
    await service.kill()
    await service.start()
    await service.observe("m", layers)
    monitor = await service.monitors.get("m")
    assert (monitor.epoch.alarm.row, monitor.epoch.alarm.components) == (20, ("first_patients",))
    assert monitor.components[-1].log_evidence == pytest.approx(np.log(2000))


async def test_an_observation_is_recorded_once_whatever_is_sent_again(service, reference, database):
    await service.create("m", reference)
    layers = draw(8, seed=5)
    first = await service.observe("m", layers)
    again = await service.observe("m", layers)
    assert [one.duplicate for one in again] == [True] * 8
    assert [one.model_copy(update={"duplicate": False}) for one in again] == list(first)
    changed = await service.observe("m", draw(8, seed=6))
    assert {one.outcome for one in changed} == {"conflict"}
    study = ObservedStudy(observation_id="twice", group="twice")
    row = {name: array[0] for name, array in layers.items()}
    twice = await service.monitors.observe("m", [Observation(study, row), Observation(study, row)], ORIGIN)
    assert [(one.outcome, one.duplicate, one.row) for one in twice] == [("entered", False, 9), ("entered", True, 9)]
    monitor = await service.monitors.get("m")
    assert monitor.outcomes == {"entered": 9, "duplicate": 9, "conflict": 8}
    with database.snapshot() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(ObservationRow)) == 9


async def test_each_arrival_has_its_outcome(service, store):
    groups = [f"ref{row}" for row in range(90)]
    feature_set = store_set(store, draw(90, seed=1), "s", groups)
    await service.create("m", feature_set, stratum="scanner", patient_window_days=30)
    now = datetime.now(UTC)
    layers = draw(7, seed=4)
    layers[LAYERS[0]][3] = np.nan

    async def send(row, group, acquired, prefix="o"):
        study = ObservedStudy(
            observation_id=f"{prefix}-{row}", group=group, strata={"scanner": "B"}, acquire_time=acquired
        )
        observation = Observation(study, {name: array[row] for name, array in layers.items()})
        return (await service.monitors.observe("m", [observation], ORIGIN))[0]

    assert (await send(0, "p0", now - timedelta(days=40))).outcome == "entered"
    assert (await send(1, "p0", now - timedelta(days=39))).outcome == "repeated_patient"
    late = await send(2, "p2", now - timedelta(days=50))
    assert (late.outcome, late.late) == ("entered", True)
    assert (await send(3, "p3", now)).outcome == "not_finite"
    assert (await send(4, "p0", now)).outcome == "entered", "after the window of days"
    assert (await send(5, "ref7", now)).outcome == "reference_patient"
    future = await send(6, "p6", now + timedelta(hours=1))
    assert (future.outcome, future.late) == ("entered", False)
    await service.monitors.pause("m")
    paused = await send(0, "p9", now, "paused")
    assert (paused.outcome, paused.row) == ("paused", 0)
    await service.monitors.resume("m")
    assert (await send(0, "p9", now, "paused")).duplicate
    monitor = await service.monitors.get("m")
    assert monitor.outcomes == {
        "entered": 4, "repeated_patient": 1, "not_finite": 1, "reference_patient": 1, "paused": 1, "duplicate": 1,
    }  # fmt: skip
    assert (monitor.late_observations, monitor.future_observations) == (1, 1)
    assert monitor.last_acquire_time <= now + timedelta(seconds=1)
    assert monitor.mix.rows["B"] == 4
    await service.kill()
    await service.start()
    await service.observe("m", draw(1, seed=8), prefix="more", acquire_time=now)
    assert (await service.monitors.get("m")).outcomes["entered"] == 5


async def test_a_stratum_that_the_reference_lacks_is_counted_by_its_name(service, store):
    reference, patients = draw(90, seed=1), [f"a-p{row}" for row in range(90)]
    created = await service.create("m", store_set(store, reference, "a"), stratum="scanner", alpha=0.05)
    library = Monitor(MonitorOptions(alpha=0.05), reference[LAYERS[0]], patients, ["AB"[row % 2] for row in range(90)])
    calibration = dict(created.mix.reference_rows)
    assert set(calibration) == {"A", "B"}
    assert sum(calibration.values()) == 60
    layers = draw(40, seed=2)
    for start, strata, expected in (
        (0, {"scanner": "A"}, {"A": 10, "B": 0}),
        (10, {"scanner": "C 3T"}, {"A": 10, "B": 0, "C 3T": 10}),
        (20, {}, {"A": 10, "B": 0, "C 3T": 10, "": 10}),
        (30, {"scanner": "C 3T"}, {"A": 10, "B": 0, "C 3T": 20, "": 10}),
    ):
        rows = {name: array[: start + 10] for name, array in layers.items()}
        results = await service.observe("m", rows, start=start, strata=strata)
        names = [f"o-{row}" for row in range(start, start + 10)]
        observed = library.observe(
            layers[LAYERS[0]][start : start + 10], names, names, [strata.get("scanner", "")] * 10
        )
        assert [(one.row, one.p_value) for one in results] == [(one.row, one.p_value) for one in observed]
        monitor = await service.monitors.get("m")
        assert (monitor.mix.rows, monitor.mix.reference_rows) == (expected, calibration)
    assert evidence_of(monitor) == list(library.status.log_evidence.values())
    document = json.loads(await service.monitors.get_report("m", "json"))
    assert {one["name"]: (one["reference"], one["stream"]) for one in document["mix"]["strata"]} == {
        "A": (calibration["A"], 10), "B": (calibration["B"], 0), "C 3T": (0, 20), "": (0, 10),
    }  # fmt: skip
    assert "C 3T" in (await service.monitors.get_report("m")).decode()
    await service.kill()
    await service.start()
    await service.observe("m", draw(1, seed=3), prefix="later", strata={"scanner": "C 3T"})
    assert (await service.monitors.get("m")).mix.rows["C 3T"] == 21


async def test_rows_of_a_feature_set_are_observed_in_slices(service, store, reference):
    await service.create("m", reference, stratum="scanner")
    stream = store_set(store, draw(150, seed=7), "stream")
    parts = [await rows_of(service, "m", stream, start, 60) for start in (0, 60, 120)]
    assert [len(part) for part in parts] == [60, 60, 30]
    assert [one.row for part in parts for one in part] == list(range(1, 151))
    assert (await service.monitors.get("m")).mix.rows == {"A": 75, "B": 75}
    assert all(one.duplicate for one in await rows_of(service, "m", stream, 100))
    with pytest.raises(BadOption, match="150 rows"):
        await rows_of(service, "m", stream, 151)
    assert not await rows_of(service, "m", stream, 150)
    other = store_set(store, draw(70, seed=8), "other", sha256="7" * 64)
    with pytest.raises(PreconditionFailed):
        await rows_of(service, "m", other)


def test_a_reference_whose_rows_do_not_fit_is_refused_before_they_are_read(store, monkeypatch):
    monkeypatch.setattr(references, "MAX_REFERENCE_BYTES", 4 * 70 * CHANNELS - 1)
    large = MonitorReference(feature_set_id=store_set(store, draw(70), "large"))
    with pytest.raises(TooLarge, match="one row of each patient takes 1,680 bytes, and at most 1,679 are read"):
        references.load_reference(store, large, LAYERS[0], (), "")
    monkeypatch.setattr(references, "MAX_CHANNELS", CHANNELS - 1)
    with pytest.raises(TooLarge, match=f"layer `{LAYERS[0]}` has {CHANNELS} channels"):
        references.load_reference(store, large, LAYERS[0], (), "")


async def test_what_cannot_be_created_or_observed_is_named(service, store, reference):
    with pytest.raises(NotFound):
        await service.create("m", "0" * 32)
    with pytest.raises(BadOption, match="no layer"):
        await service.create("m", reference, layer="nowhere")
    with pytest.raises(InvalidInput, match="stratum"):
        await service.create("m", reference, stratum="site")
    with pytest.raises(InvalidInput, match="30 patients"):
        await service.create("m", store_set(store, draw(30), "few"))
    with pytest.raises(InvalidInput, match="random weights"):
        await service.create("m", store_set(store, draw(70), "rand", initialisation="random"))
    with pytest.raises(NotFound, match="no such monitor"):
        await service.observe("m", draw(1))
    await service.create("m", reference, descriptive_layers=(LAYERS[1],))
    wrong = FeatureOrigin(checkpoint_sha256="9" * 64, preprocessing_sha256=ORIGIN.preprocessing_sha256)
    study = ObservedStudy(observation_id="a", group="a")
    observations = [Observation(study, {LAYERS[0]: np.zeros(6)})]
    with pytest.raises(PreconditionFailed) as caught:
        await service.monitors.observe("m", observations, wrong)
    assert caught.value.reason == "WRONG_ORIGIN"
    assert caught.value.message == "the monitor watches features of other weights"
    another = {"preprocessing_sha256": "8" * 64, "input_transform": "halved"}
    with pytest.raises(PreconditionFailed, match="of another preprocessing and another input transform;"):
        await service.monitors.observe("m", observations, ORIGIN.model_copy(update=another))
    with pytest.raises(BadTensor, match="6 channels"):
        await service.monitors.observe("m", [Observation(study, {LAYERS[0]: np.zeros(5)})], ORIGIN)
    with pytest.raises(BadOption, match="missing"):
        await service.monitors.observe("m", [Observation(study, {LAYERS[1]: np.zeros(6)})], ORIGIN)
    assert (await service.monitors.get("m")).outcomes == {}
    with pytest.raises(PreconditionFailed, match="no alarm"):
        await service.monitors.acknowledge("m", 1)


async def test_monitors_are_listed_watched_and_deleted_within_their_quota(service, store, reference, database):
    await service.kill(signal.SIGTERM)
    await service.start(VFMALIGN_QUOTA__MONITORS="2")
    for name in ("m1", "m2"):
        await service.create(name, reference)
    with pytest.raises(Exhausted, match="quota is 2"):
        await service.create("m3", reference)
    await service.monitors.pause("m1")
    assert [one.monitor_id for one in await service.monitors.list()] == ["m2", "m1"]
    assert [one.monitor_id for one in await service.monitors.list(["paused"])] == ["m1"]
    assert [one.monitor_id for one in await service.monitors.list(limit=1)] == ["m2"]
    first, last = [(await service.monitors.get(name)).create_time for name in ("m1", "m2")]
    model_id = (await service.monitors.get("m1")).model_id
    assert [one.monitor_id for one in await service.monitors.list(model_id=model_id)] == ["m2", "m1"]
    assert await service.monitors.list(model_id="other") == []
    assert [one.monitor_id for one in await service.monitors.list(created_after=last)] == ["m2"]
    assert [one.monitor_id for one in await service.monitors.list(created_after=first, created_before=last)] == ["m1"]
    for bad in ("", "No Id", "a" * 129):
        with pytest.raises(BadOption, match="monitor_id"):
            await service.monitors.get(bad)

    seen = []

    async def watch():
        async for monitor in service.monitors.watch("m2"):
            seen.append(monitor.epoch.rows)
            if len(seen) == 1:
                await service.observe("m2", draw(3, seed=1))
            if monitor.epoch.rows == 3:
                return

    await asyncio.wait_for(watch(), 60)
    assert seen[0] == 0
    await service.monitors.delete("m2")
    with pytest.raises(NotFound):
        await service.monitors.get("m2")
    with pytest.raises(NotFound):
        await service.observe("m2", draw(1))
    assert not list(store.list("monitors/m2/"))
    with database.snapshot() as session:
        for table in (ObservationRow, InputRow):
            assert session.scalar(sa.select(sa.func.count()).select_from(table)) == 0
    await service.create("m2", reference)
    assert (await service.monitors.get("m2")).epoch.rows == 0


async def test_the_report_is_a_page_and_json(service, reference):
    await service.create("m", reference, title="Lesion model, site A", alpha=0.05)
    await service.observe("m", draw(100, seed=2, shift=2.0))
    page = (await service.monitors.get_report("m")).decode()
    assert "Lesion model, site A" in page
    document = json.loads(await service.monitors.get_report("m", "json"))
    assert document["alarm"]["row"] > 0
    assert document["rows"] == 100
    assert len(document["history"]) == 100
    with pytest.raises(NotFound):
        await service.monitors.get_report("n")


async def test_specs_go_through_unchanged(service, reference):
    spec = MonitorSpec(
        reference=MonitorReference(feature_set_id=reference),
        layer=LAYERS[1],
        descriptive_layers=(LAYERS[0],),
        run_length=1000,
        max_silence_hours=5,
        window_rows=64,
    )
    created = await service.monitors.create("m", spec)
    assert created.spec.run_length == 1000
    assert created.components[0].log_evidence is None, "R is 0 before the first row"
    assert created.components[0].log_threshold == pytest.approx(math.log(1000 / 0.4))
    assert (created.spec.layer, created.spec.descriptive_layers) == (LAYERS[1], (LAYERS[0],))
