"""`client.monitors` against a server: what is sent, what comes back, and what failures become."""

import asyncio
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest
import torch
from tests.monitor_records import REFERENCE, SHA256
from tests.monitoring_service import PAGE

from vfmalign.client import Client, FeatureOrigin, FeatureSetRows, MonitorReference, MonitorSpec, Observation
from vfmalign.client.messages.common import ObjectRef, ObservedStudy
from vfmalign.client.messages.monitors import EvidencePeak, Monitor, ObservationResult
from vfmalign.core.domain.errors import (
    BadOption,
    BadTensor,
    Conflict,
    Internal,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from vfmalign.core.rpc.tensors import to_array

SPEC = MonitorSpec.from_fields(reference=REFERENCE, layer="stages.3", alpha=0.05, patient_window_days=30)
ORIGIN = FeatureOrigin(checkpoint_sha256="c" * 64, preprocessing_sha256="d" * 64)


@pytest.fixture
def monitoring(deployment):
    return deployment.monitoring


async def test_a_monitor_is_created_once_found_paused_resumed_and_deleted(client, monitoring):
    for _ in range(2):
        created = await client.monitors.create("m1", SPEC)
        assert (created.monitor_id, created.spec, created.spec.run_length) == ("m1", SPEC, 0)
    assert len(monitoring.monitors) == 1
    with pytest.raises(Conflict, match="m1: another monitor has this id"):
        await client.monitors.create("m1", SPEC.model_copy(update={"seed": 1}))
    assert isinstance(await client.monitors.get("m1"), Monitor)
    assert (await client.monitors.pause("m1")).state == "paused"
    assert (await client.monitors.resume("m1")).state == "active"
    updated = (await client.monitors.update("m1", max_silence_hours=3, title="t")).spec
    assert updated == SPEC.model_copy(update={"max_silence_hours": 3, "title": "t"})
    assert (await client.monitors.update("m1", max_silence_hours=0)).spec.title == "t"
    assert await client.monitors.delete("m1") is None
    with pytest.raises(NotFound, match="m1: there is no such monitor"):
        await client.monitors.get("m1")


async def test_a_list_takes_every_page_and_stops_at_its_limit(client, monitoring):
    for number in range(5):
        monitoring.add(f"m{number}", state="paused" if number == 3 else "active")
    assert [one.monitor_id for one in await client.monitors.list()] == ["m0", "m1", "m2", "m3", "m4"]
    assert [one.monitor_id for one in await client.monitors.list(limit=3)] == ["m0", "m1", "m2"]
    assert [one.monitor_id for one in await client.monitors.list(["paused"])] == ["m3"]
    with pytest.raises(BadOption, match="limit: must be positive"):
        await client.monitors.list(limit=0)


async def test_observations_are_sent_in_order_with_everything_that_is_known_of_them(client, monitoring):
    monitoring.add("m1", alarm=False)
    monitoring.alarm_at = 2
    studies = [
        ObservedStudy(observation_id=name, group="g1", strata={"scanner": "A"}, acquire_time="2026-03-01T07:30:00Z")
        for name in ("b", "a")
    ]
    stored = ObjectRef(uri="s3://b/features/x.safetensors", sha256="a" * 64)
    features = {"stages.3": np.array([1, np.nan, np.inf], "f4"), "stages.1": stored}
    observations = [Observation(study, features) for study in studies]
    results = await client.monitors.observe("m1", observations, ORIGIN)
    assert [(one.observation_id, one.outcome, one.row, one.raised_alarm) for one in results] == [
        ("b", "entered", 1, False),
        ("a", "entered", 2, True),
    ]
    assert isinstance(results[0], ObservationResult)
    (request,) = monitoring.requests
    assert request.origin == ORIGIN.to_proto()
    sent = request.inline.observations[0]
    assert ObservedStudy.from_proto(sent.study) == studies[0]
    assert [layer.layer for layer in sent.layers] == ["stages.3", "stages.1"]
    np.testing.assert_array_equal(to_array(sent.layers[0].tensor), features["stages.3"])
    assert sent.layers[1].stored.uri == stored.uri
    assert all(one.duplicate for one in await client.monitors.observe("m1", observations, ORIGIN))
    other = [Observation(studies[0], {"stages.3": np.zeros(3, "f4")})]
    (conflict,) = await client.monitors.observe("m1", other, ORIGIN)
    assert (conflict.outcome, conflict.row, conflict.p_value) == ("conflict", 0, None)


async def test_an_observation_that_cannot_be_sent_is_refused_before_the_call(client, monitoring):
    monitoring.add("m1", alarm=False)
    observation = Observation(ObservedStudy(observation_id="a", group="g"), {"stages.3": np.zeros(3, "i8")})
    with pytest.raises(BadTensor, match="int64 cannot be sent"):
        await client.monitors.observe("m1", [observation], ORIGIN)
    with pytest.raises(BadOption) as caught:
        ObservedStudy.from_fields(observation_id="Anna Muster", group="g")
    assert (caught.value.field, "Anna" in str(caught.value)) == ("observation_id", False)
    assert monitoring.requests == []


@pytest.mark.parametrize(
    "time",
    [
        datetime(2026, 3, 1),
        date(2026, 3, 1),
        "2026-03-01T07:30:00",
        "20260301",
        20260301,
        "01.03.2026",
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_a_time_of_which_the_moment_is_unknown_is_refused(time):
    with pytest.raises(BadOption) as caught:
        ObservedStudy.from_fields(observation_id="a", group="g", acquire_time=time)
    assert (caught.value.field, "2026-03-01T07:30:00Z" in caught.value.remedy) == ("acquire_time", True)


def test_a_time_with_any_zone_is_sent():
    moment = datetime(2026, 3, 1, 7, 30, tzinfo=UTC)
    for time in (moment, moment.astimezone(timezone(timedelta(hours=2))), "2026-03-01 09:30:00+02:00"):
        study = ObservedStudy.from_fields(observation_id="a", group="g", acquire_time=time)
        assert study.to_proto().acquire_time.ToDatetime(UTC) == moment


async def test_features_are_taken_as_whatever_becomes_an_array(client, monitoring):
    monitoring.add("m1", alarm=False)
    study = ObservedStudy(observation_id="a", group="g")
    for features in ([0.5, 1.5], torch.tensor([0.5, 1.5])):
        await client.monitors.observe("m1", [Observation(study, {"stages.3": features})], ORIGIN)
        sent = monitoring.requests[-1].inline.observations[0].layers[0].tensor
        np.testing.assert_array_equal(to_array(sent), [0.5, 1.5])


async def test_an_unknown_choice_is_refused_with_those_that_there_are(client, monitoring):
    monitoring.add("m1")
    with pytest.raises(BadOption, match="start: unknown value; choose from fixed, unseen_reference, reset"):
        await client.monitors.replace_reference("m1", 1, MonitorReference(feature_set_id="f2"), "unseen")
    with pytest.raises(BadOption, match="states: unknown value; choose from active, paused"):
        await client.monitors.list("active")
    with pytest.raises(BadOption, match="report_format: unknown value; choose from html, json"):
        await client.monitors.get_report("m1", "pdf")


async def test_features_of_another_origin_are_refused(client, monitoring):
    monitoring.add("m1", alarm=False)
    observation = Observation(ObservedStudy(observation_id="a", group="g"), {"stages.3": np.zeros(3, "f4")})
    with pytest.raises(PreconditionFailed, match="another origin"):
        await client.monitors.observe("m1", [observation], ORIGIN.model_copy(update={"input_transform": "blur"}))


async def test_rows_of_a_feature_set_are_named_by_their_place(client, monitoring):
    monitoring.add("m1", alarm=False)
    monitoring.feature_sets["f1"] = ["a", "b", "c"]
    results = await client.monitors.observe_feature_set(
        "m1", FeatureSetRows(feature_set_id="f1", manifest_sha256=SHA256, start=1, rows=2)
    )
    assert [one.observation_id for one in results] == ["b", "c"]
    (request,) = monitoring.requests
    assert not request.HasField("origin")
    assert request.feature_set.manifest_sha256 == SHA256


async def test_an_alarm_is_acknowledged_and_its_reference_replaced(client, monitoring):
    monitoring.add("m1")
    acknowledged = await client.monitors.acknowledge("m1", 1, "coil replaced")
    assert acknowledged.epoch.alarm.note == "coil replaced"
    assert (await client.monitors.acknowledge("m1", 1, "again")).epoch.alarm.note == "coil replaced"
    replaced = await client.monitors.replace_reference(
        "m1", 1, MonitorReference(feature_set_id="f2"), "unseen_reference"
    )
    assert (replaced.epoch.number, replaced.epoch.start, replaced.epoch.alarm) == (2, "unseen_reference", None)
    assert replaced.earlier_epochs[0].alarm.note == "coil replaced"
    reset = await client.monitors.replace_reference("m1", 2, None, "reset")
    assert (reset.epoch.reference, reset.epoch.has_guarantee) == (replaced.epoch.reference, False)
    with pytest.raises(PreconditionFailed, match="another epoch has begun"):
        await client.monitors.acknowledge("m1", 1)
    with pytest.raises(PreconditionFailed, match="the epoch has no alarm"):
        await client.monitors.acknowledge("m1", 3)


async def test_the_highest_evidence_is_a_record_of_its_component(client, monitoring):
    monitoring.add("m1", peak=EvidencePeak(row=217, component="channels", log_evidence=13.0))
    monitor = await client.monitors.get("m1")
    assert monitor.peak == EvidencePeak(row=217, component="channels", log_evidence=13.0)
    assert [one.component for one in monitor.components] == ["rows", "blocks_of_4", "blocks_of_16", "channels"]
    monitoring.add("m2", peak=None)
    assert (await client.monitors.get("m2")).peak is None


async def test_a_report_comes_in_parts(client, monitoring):
    monitoring.add("m1")
    assert await client.monitors.get_report("m1") == PAGE
    assert await client.monitors.get_report("m1", "json") == b'{"version":1}'
    with pytest.raises(NotFound):
        await client.monitors.get_report("absent")


async def test_a_watch_goes_on_after_the_service_restarts_and_ends_with_the_monitor(client, deployment, monitoring):
    monitoring.add("m1", alarm=False)
    lost, lates = [], []

    async def watch():
        async for monitor in client.monitors.watch("m1", on_disconnect=lost.append):
            lates.append(monitor.late_observations)
            if len(lates) == 1:
                await asyncio.to_thread(monitoring.change, "m1", late_observations=8)
            elif len(lates) == 2:
                await asyncio.to_thread(deployment.stop)
                monitoring.change("m1", late_observations=9)
                await asyncio.to_thread(deployment.start)
            else:
                await client.monitors.delete("m1")

    with pytest.raises(NotFound):
        await watch()
    assert lates == [7, 8, 9]
    assert [type(one) for one in lost] == [Unavailable]


async def test_a_service_that_stays_away_ends_the_watch(client, deployment, monitoring):
    monitoring.add("m1")
    await asyncio.to_thread(deployment.stop)
    with pytest.raises(Unavailable):
        async for _ in client.monitors.watch("m1", reconnect_s=0.0):
            pass


async def test_a_response_of_a_newer_service_is_not_taken_for_a_wrong_option(client, monitoring):
    monitoring.add("m1").components[0].component = 99
    with pytest.raises(Internal, match="cannot read the service's response"):
        await client.monitors.get("m1")


def test_the_synchronous_client_gives_the_same(deployment, monitoring):
    with Client(**deployment.addresses) as client:
        client.monitors.create("m1", SPEC)
        observation = Observation(ObservedStudy(observation_id="a", group="g"), {"stages.3": np.zeros(3, "f4")})
        assert [one.row for one in client.monitors.observe("m1", [observation], ORIGIN)] == [1]
        monitoring.feature_sets["f1"] = ["b"]
        assert [one.row for one in client.monitors.observe_feature_set("m1", FeatureSetRows(feature_set_id="f1"))] == [
            2
        ]
        assert client.monitors.get("m1").spec == SPEC
        assert [one.monitor_id for one in client.monitors.list()] == ["m1"]
        for monitor in client.monitors.watch("m1"):
            assert monitor.monitor_id == "m1"
            break
        assert monitoring.left.wait(10), "leaving a watch ends its call"
        assert client.monitors.pause("m1").state == "paused"
        assert client.monitors.resume("m1").state == "active"
        assert client.monitors.get_report("m1").startswith(b"<!doctype html>")
        replaced = client.monitors.replace_reference("m1", 1, MonitorReference(feature_set_id="f2"), "reset")
        assert replaced.epoch.has_guarantee is False
        with pytest.raises(PreconditionFailed):
            client.monitors.acknowledge("m1", 2)
        client.monitors.delete("m1")
        assert client.monitors.list() == []
