"""What the feature service gives: features of studies and datasets, models, metrics, health."""

import asyncio
import urllib.request

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from safetensors.numpy import load

from vfmalign.core.rpc.tensors import to_array
from vfmalign.core.storage.feature_sets import read_feature_set
from vfmalign.v1 import common_pb2
from vfmalign.v1 import features_pb2 as pb

MODALITIES = ("t2w", "dwi", "adc")


async def test_a_study_sent_inline(service, store, phantoms, card, expected_features, close, study_of):
    response = await service.Extract(pb.ExtractRequest(model_id="micro", study=study_of(phantoms[0])))
    assert [layer.layer for layer in response.layers] == ["stages.3"]
    actual = to_array(response.layers[0].tensor, "features")
    assert close(actual, expected_features(phantoms[0], ["stages.3"])["stages.3"])
    assert response.checkpoint_sha256 == card.checkpoint.sha256
    stages = {one.stage: one.seconds for one in response.cost.stages}
    assert set(stages) == {"load_model", "decode", "prepare", "forward"}
    assert all(seconds > 0 for seconds in stages.values())
    assert response.cost.device == "cpu"


async def test_a_stored_study_with_its_gland_and_all_layers(
    service, store, phantoms, dataset, expected_features, close
):
    refs = dataset.test[1].volumes
    stored = {k: common_pb2.ObjectRef(uri=store.uri(r.key), sha256=r.sha256) for k, r in refs.items()}
    study = pb.Study(
        volumes=[pb.StudyVolume(modality=kind, stored=stored[kind]) for kind in MODALITIES],
        gland_mask=pb.GlandMask(stored=stored["gland"]),
    )
    layers = ["pooled", "stages.0", "stages.3"]
    request = pb.ExtractRequest(model_id="micro", study=study, layers=layers, input_transform="half_resolution")
    response = await service.Extract(request)
    expected = expected_features(phantoms[1], layers, transform="half_resolution")
    for message, layer in zip(response.layers, layers, strict=True):
        assert message.layer == layer
        assert close(to_array(message.tensor, layer), expected[layer])
    assert "read" in {one.stage for one in response.cost.stages}


async def test_stage_maps_stored_out(service, store, phantoms, expected_features, close, study_of):
    layers = ["stages.1", "stages.3"]
    request = pb.ExtractRequest(
        model_id="micro",
        study=study_of(phantoms[0]),
        layers=layers,
        pooling=pb.POOLING_NONE,
        store_as="study-maps",
        store_group="patient",
    )
    response = await service.Extract(request)
    expected = expected_features(phantoms[0], layers, "none")
    for message, layer in zip(response.layers, layers, strict=True):
        ref = message.stored
        assert ref.uri == store.uri(f"features/study-maps/{layer}.safetensors")
        data = store.get(store.key(ref.uri), sha256=ref.sha256)
        assert len(data) == ref.size_bytes
        tensors = load(data)
        assert list(tensors) == [layer]
        assert close(tensors[layer], expected[layer])
    assert (await service.Extract(request)).layers[0].stored.sha256 == response.layers[0].stored.sha256


async def test_models_are_listed_and_described(service, store, card):
    response = await service.ListModels(pb.ListModelsRequest())
    assert "micro" in [model.model_id for model in response.models]
    assert "profound_conv_tiny" in response.architectures
    model = (await service.GetModel(pb.GetModelRequest(model_id="micro"))).model
    assert model.checkpoint.sha256 == card.checkpoint.sha256
    assert model.primary_layer == "stages.3"
    assert tuple(model.preprocessing.shape_dhw) == card.preprocessing.shape_dhw


async def test_datasets_are_listed_and_described(service, store, dataset):
    store.put("datasets/damaged/dataset.json", b"{}")
    response = await service.ListDatasets(pb.ListDatasetsRequest())
    assert [one.dataset_id for one in response.datasets] == ["phantoms"]
    assert [one.id for one in response.unreadable] == ["damaged"]
    assert response.unreadable[0].message == (
        "dataset damaged: dataset.json is not a datalist of this version; import the dataset again"
    )
    described = (await service.GetDataset(pb.GetDatasetRequest(dataset_id="phantoms"))).dataset
    assert described == response.datasets[0]
    assert described.dataset_digest == dataset.digest()
    assert [(one.split, one.cases, one.patients) for one in described.splits] == [(common_pb2.SPLIT_TEST, 3, 3)]
    assert list(described.modalities) == list(MODALITIES)
    assert described.held_out
    assert described.declaration.name == "prostate_mpmri"
    assert dict(described.declaration.labels[0].values) == {1: "gland"}
    for dataset_id, code in (
        ("absent", grpc.StatusCode.NOT_FOUND),
        ("damaged", grpc.StatusCode.FAILED_PRECONDITION),
        ("No Id", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.GetDataset(pb.GetDatasetRequest(dataset_id=dataset_id))
        assert caught.value.code() is code


async def test_a_dataset_becomes_a_feature_set_once(
    service, store, phantoms, dataset, expected_features, close, collect
):
    *progress, last = await collect(service, dataset_id="phantoms", dataset_digest=dataset.digest())
    assert [(p.progress.done, p.progress.total, p.progress.unit) for p in progress] == [(0, 3, "case"), (3, 3, "case")]
    assert last.computed_cases == 3
    assert (last.feature_set.rows, last.feature_set.groups) == (3, 3)
    assert {"read", "prepare", "forward", "write"} <= {one.stage for one in last.cost.stages}
    stored = read_feature_set(store, last.feature_set.feature_set_id)
    assert stored.manifest.case_ids == tuple(case.id for case in dataset.test)
    manifest = store.get(store.key(last.feature_set.manifest.uri), sha256=last.feature_set.manifest.sha256)
    assert len(manifest) == last.feature_set.manifest.size_bytes
    for row, volumes in enumerate(phantoms):
        expected = expected_features(volumes, ["stages.2", "stages.3"])
        assert all(close(stored.layers[layer][row], expected[layer]) for layer in expected)

    *_, again = await collect(service, dataset_id="phantoms")
    assert again.computed_cases == 0
    assert again.feature_set == last.feature_set


async def test_random_weights_of_the_same_architecture(service, store, dataset, collect):
    *_, trained = await collect(service, dataset_id="phantoms")
    fields = {"dataset_id": "phantoms", "initialisation": pb.INITIALISATION_RANDOM}
    sets = [(await collect(service, initialisation_seed=seed, **fields))[-1].feature_set for seed in (1, 2, 1)]
    assert sets[0] == sets[2]
    assert len({trained.feature_set.feature_set_id, *(one.feature_set_id for one in sets)}) == 3
    rows = [read_feature_set(store, one.feature_set_id).layers["stages.3"] for one in sets[:2]]
    assert not np.array_equal(*rows)


def scrape(server) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports['metrics']}/metrics") as response:
        return response.read().decode()


async def test_metrics_and_health(server, service, phantoms, study_of):
    await service.Extract(pb.ExtractRequest(model_id="micro", study=study_of(phantoms[0])))
    text = await asyncio.to_thread(scrape, server)
    for method in ("ListModels", "GetModel", "Extract", "ExtractDataset"):
        assert f'grpc_method="{method}"' in text
    assert 'vfmalign_stage_seconds_count{stage="forward"}' in text
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.ports['health']}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="vfmalign.v1.FeatureService"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
