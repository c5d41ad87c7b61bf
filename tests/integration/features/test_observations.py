"""Extract with an observation: the process, a real store, and a MonitoringService over a real socket."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import grpc
import numpy as np
import pytest
from tests.integration.features.conftest import Server
from tests.observing_service import MonitoringServer, run_monitoring

from vfmalign.client import Client
from vfmalign.client.messages.common import ObservedStudy
from vfmalign.client.messages.features import StudyObservation
from vfmalign.client.messages.monitors import FeatureOrigin
from vfmalign.core.domain.errors import BadTensor, BadVolume
from vfmalign.core.rpc.tensors import to_array
from vfmalign.core.storage.keys import OUTBOX
from vfmalign.imaging.volumes import encode
from vfmalign.models.cards import load_encoder, publish
from vfmalign.v1 import common_pb2, features_pb2_grpc
from vfmalign.v1 import features_pb2 as pb
from vfmalign.v1 import monitoring_pb2 as pb_monitoring

MODALITIES = ("t2w", "dwi", "adc")
SECRET = "hmac-of-nobody"


@pytest.fixture(scope="module")
def monitoring() -> Iterator[MonitoringServer]:
    with run_monitoring() as running:
        yield running


@pytest.fixture(scope="module")
def server(store, card, store_environment, python, tmp_path_factory, monitoring) -> Iterator[Server]:
    settings = {"VFMALIGN_MONITORING_ADDRESS": monitoring.address}
    running = Server(python, store_environment, tmp_path_factory.mktemp("observations"), **settings)
    yield running
    assert running.end() == 0, running.log.read_text()
    log = running.log.read_text()
    assert "Traceback" not in log, log
    assert SECRET not in log
    assert "study-" not in log


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(features_address=server.address) as opened:
        yield opened


def observe(number: int, **fields: Any) -> StudyObservation:
    study = ObservedStudy(observation_id=f"study-{number:03d}", group=SECRET, strata={"scanner": "A"})
    return StudyObservation(**{"monitor_id": "m", "study": study} | fields)


def wait_for(monitoring: MonitoringServer, number: int) -> pb_monitoring.Observation:
    """Returns an observation once it is recorded."""
    name = observe(number).study.observation_id
    for _ in range(600):
        if (observation := monitoring.servicer.recorded.get("m", {}).get(name)) is not None:
            return observation
        time.sleep(0.05)
    raise AssertionError(f"{name} was not recorded")


def get_metrics(server: Server) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports['metrics']}/metrics") as response:
        return response.read().decode()


def test_the_monitor_observes_the_features_that_the_caller_gets(client, server, monitoring, card, phantoms) -> None:
    volumes = {kind: encode(phantoms[0][kind]) for kind in MODALITIES}
    layers = ("stages.2", "stages.3")
    plain = client.features.extract("micro", volumes, layers=layers)
    assert plain.observation is None
    features = client.features.extract("micro", volumes, layers=layers, observation=observe(0))
    assert features.observation is not None
    assert (features.observation.delivery, features.observation.reason) == ("queued", "")
    assert features.preprocessing_sha256 == plain.preprocessing_sha256 == card.preprocessing.content_digest()
    observation = wait_for(monitoring, 0)
    request = monitoring.servicer.requests[-1]
    expected = FeatureOrigin(
        checkpoint_sha256=card.checkpoint.sha256,
        preprocessing_sha256=features.preprocessing_sha256,
        input_transform="identity",
    )
    assert FeatureOrigin.from_proto(request.origin) == expected
    assert ObservedStudy.from_proto(observation.study) == observe(0).study
    observed = {one.layer: to_array(one.tensor, one.layer) for one in observation.layers}
    assert list(observed) == list(layers)
    assert all(np.array_equal(observed[layer], features.layers[layer]) for layer in layers)


def test_stored_features_are_observed_as_well(client, server, monitoring, phantoms) -> None:
    volumes = {kind: encode(phantoms[0][kind]) for kind in MODALITIES}
    features = client.features.extract(
        "micro", volumes, store_as="observed", store_group="patient", observation=observe(1)
    )
    assert features.stored
    assert features.observation is not None
    assert features.observation.delivery == "queued"
    wait_for(monitoring, 1)
    assert "observe" in {timing.stage for timing in features.cost.stages}


def test_an_outage_of_monitoring_fails_no_extraction_and_loses_nothing(
    client, server, monitoring, store, phantoms
) -> None:
    volumes = {kind: encode(phantoms[0][kind]) for kind in MODALITIES}
    monitoring.stop()
    answers = [client.features.extract("micro", volumes, observation=observe(number)) for number in range(10, 15)]
    assert [answer.observation.delivery for answer in answers if answer.observation] == ["queued"] * 5
    assert 'vfmalign_outbox_observations{tenant="default"} 5.0' in get_metrics(server)
    monitoring.start()
    for _ in range(600):
        if not list(store.list(OUTBOX)):
            break
        time.sleep(0.05)
    assert monitoring.servicer.get_ids()[-5:] == [f"study-{number:03d}" for number in range(10, 15)]
    page = get_metrics(server)
    assert 'vfmalign_observations_delivered_total{delivery="recorded",reason=""}' in page


def test_features_that_are_not_finite_are_observed_although_the_extraction_fails(
    client, server, monitoring, store, card, phantoms
) -> None:
    state = {name: tensor.clone() for name, tensor in load_encoder(store, "micro")[0].state_dict().items()}
    state["downsample_layers.3.1.weight"] *= 1e38  # finite, and its products are not
    publish(
        store,
        "broken",
        state,
        architecture="profound_conv_micro",
        objective="contrastive",
        preprocessing=card.preprocessing,
    )
    volumes = {kind: encode(phantoms[0][kind]) for kind in MODALITIES}
    layers = ("stages.2", "stages.3")
    for number, fields in enumerate(({"store_as": "broken", "store_group": "patient"}, {}), 30):
        with nullcontext() if fields else pytest.raises(BadTensor, match="NaN or infinite"):
            client.features.extract("broken", volumes, layers=layers, observation=observe(number), **fields)
        observation = wait_for(monitoring, number)
        observed = {one.layer: np.isfinite(to_array(one.tensor, one.layer)).all() for one in observation.layers}
        assert observed == {"stages.2": True, "stages.3": False}


def test_a_study_that_fails_is_not_observed(client, monitoring, store, phantoms) -> None:
    volumes = {kind: encode(phantoms[0][kind]) for kind in MODALITIES} | {"adc": b"no volume"}
    with pytest.raises(BadVolume, match="not a NIfTI file"):
        client.features.extract("micro", volumes, observation=observe(20))
    assert not list(store.list(OUTBOX))
    assert "study-020" not in monitoring.servicer.get_ids()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"pooling": pb.POOLING_NONE}, "pooling"),
        ({"layers": [f"stages.{place}" for place in range(33)]}, "layers"),
        ({"strata": {"scanner": ""}}, "observation.study.strata"),
        ({"strata": {"scanner": "A\u200b"}}, "observation.study.strata"),
        ({"seconds": 10**15}, "observation.study.acquire_time"),
        ({"seconds": 0}, "observation.study.acquire_time"),
        ({"monitor_id": "../m"}, "observation.monitor_id"),
        ({"group": ""}, "observation.study.group"),
    ],
)
async def test_a_malformed_observation_is_refused_before_any_work(service, phantoms, study_of, change, field) -> None:
    study = common_pb2.ObservedStudy(observation_id="study-900", group=change.get("group", "g"))
    study.strata.update(change.get("strata", {}))
    if "seconds" in change:
        study.acquire_time.seconds = change["seconds"]
    request = pb.ExtractRequest(
        model_id="no-such-model",
        study=study_of(phantoms[0]),
        layers=change.get("layers", ()),
        pooling=change.get("pooling", pb.POOLING_MEAN),
        observation=pb.StudyObservation(monitor_id=change.get("monitor_id", "m"), study=study),
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.Extract(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (caught.value.details() or "")


async def test_a_service_without_monitoring_says_so(start_server, phantoms, study_of) -> None:
    server = start_server()
    async with grpc.aio.insecure_channel(server.address) as channel:
        service = features_pb2_grpc.FeatureServiceStub(channel)
        request = pb.ExtractRequest(model_id="micro", study=study_of(phantoms[0]), observation=observe(0).to_proto())
        delivered = (await service.Extract(request)).observation
        assert (delivered.delivery, delivered.reason) == (pb.OBSERVATION_DELIVERY_DROPPED, "NO_MONITORING")


def test_a_token_that_would_leave_unencrypted_stops_the_process(store_environment, python, tmp_path) -> None:
    token = tmp_path / "token"
    token.write_text("a.b.c")
    settings = {"VFMALIGN_MONITORING_ADDRESS": "monitoring.example:8001", "VFMALIGN_AUTH__TOKEN_FILE": str(token)}
    with pytest.raises(AssertionError, match="VFMALIGN_AUTH__ALLOW_PLAINTEXT"):
        Server(python, store_environment, tmp_path, **settings)
