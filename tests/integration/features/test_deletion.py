"""Deletion through the API of a service's process: datasets, models, feature sets and stored studies."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tests.integration.features.conftest import INPUT

from vfmalign.client import Client
from vfmalign.client.messages.common import Deletion
from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.core.domain.errors import BadOption, NotFound, PreconditionFailed, Unavailable
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.deletion import check_not_deleted
from vfmalign.core.storage.keys import deletion_key, features_prefix, uses_prefix, volumes_prefix
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state
from vfmalign.v1 import features_pb2 as pb
from vfmalign.v1 import features_pb2_grpc


@pytest.fixture
def client(server):
    with Client(features_address=server.address) as client:
        yield client.features


@pytest.fixture
def read_all(store):
    """Returns the bytes of all objects that are not below these prefixes."""
    return lambda *prefixes: {key: store.get(key) for key in store.list("") if not key.startswith(prefixes)}


def measure(store, *prefixes):
    sizes = [size for prefix in prefixes for size in store.sizes_bytes(prefix).values()]
    return Deletion(objects=len(sizes), size_bytes=sum(sizes))


def test_a_dataset_goes_with_its_volumes_and_what_was_made_of_it_stays(
    client, store, upload, dataset, phantoms, read_all
):
    upload("gone", phantoms[:2])
    request = ExtractDatasetRequest(model_id="micro", dataset_id="gone", split="test")
    made = client.extract_dataset(request).feature_set.feature_set_id
    prefixes = ("datasets/gone/", volumes_prefix("gone"))
    others, expected = read_all(*prefixes), measure(store, *prefixes)
    assert expected.objects > 6
    assert client.delete_dataset("gone", dry_run=True) == expected
    assert client.get_dataset("gone").dataset_id == "gone"
    assert client.delete_dataset("gone") == expected
    for call in (client.get_dataset, client.delete_dataset):
        with pytest.raises(NotFound):
            call("gone")
    assert read_all() == others
    assert client.get_feature_set(made).dataset_id == "gone"
    upload("gone", phantoms[:1])
    assert client.get_dataset("gone").dataset_id == "gone", "the id is free again"
    client.delete_dataset("gone")
    client.delete_feature_set(made)


def test_a_model_in_the_cache_is_not_used_after_its_deletion(client, store, dataset):
    state = random_state(ARCHITECTURES["profound_conv_micro"], 9)
    publish(store, "gone", state, architecture="profound_conv_micro", objective="random", preprocessing=INPUT)
    request = ExtractDatasetRequest(model_id="gone", dataset_id="phantoms", split="test")
    made = client.extract_dataset(request).feature_set.feature_set_id
    expected = measure(store, "models/gone/")
    assert expected.objects == 2
    assert client.delete_model("gone") == expected
    with pytest.raises(NotFound):
        client.extract_dataset(request)
    assert client.get_model("micro").model_id == "micro"
    client.delete_feature_set(made)


def test_a_deleted_feature_set_is_extracted_again_with_the_same_bytes(client, store, dataset):
    request = ExtractDatasetRequest(model_id="micro", dataset_id="phantoms", split="test")
    first = client.extract_dataset(request).feature_set
    expected = measure(store, features_prefix(first.feature_set_id))
    assert client.delete_feature_set(first.feature_set_id) == expected
    with pytest.raises(NotFound):
        client.get_feature_set(first.feature_set_id)
    assert client.extract_dataset(request).feature_set.manifest.sha256 == first.manifest.sha256


def test_an_extraction_in_progress_is_not_a_set_and_a_stored_study_is(client, store):
    unfinished = "0" * 32
    store.put(f"{features_prefix(unfinished)}part-00000.safetensors", b"12345")
    with pytest.raises(NotFound, match="no such feature set"):
        client.delete_feature_set(unfinished)
    store.put(f"{features_prefix('study-1')}stages.3.safetensors", b"12345")
    assert client.delete_feature_set("study-1") == Deletion(objects=1, size_bytes=5)
    assert store.exists(f"{features_prefix(unfinished)}part-00000.safetensors")


@pytest.mark.parametrize(("kind", "name"), [("datasets", "phantoms"), ("models", "micro")])
def test_an_input_of_unfinished_work_refuses_with_the_name_of_the_work(client, store, dataset, card, kind, name):
    mark = f"{uses_prefix(kind, name)}check/c1"
    store.put(mark, b"")
    delete = client.delete_dataset if kind == "datasets" else client.delete_model
    for dry_run in (True, False):
        with pytest.raises(PreconditionFailed, match="the check c1 uses it") as caught:
            delete(name, dry_run=dry_run)
        assert caught.value.reason == "IN_USE"
    store.delete(mark)
    assert delete(name, dry_run=True).objects > 1, "it was not touched"
    assert not store.exists(deletion_key(kind, name))


def test_a_bad_id_names_its_field(client):
    for delete, field in (
        (client.delete_dataset, "dataset_id"), (client.delete_model, "model_id"),
        (client.delete_feature_set, "feature_set_id"),
    ):  # fmt: skip
        for name in ("", "../models", "A", "a" * 129):
            with pytest.raises(BadOption) as caught:
                delete(name)
            assert caught.value.field == field


async def test_a_killed_service_completes_its_deletions_when_it_starts_again(start_server, store, dataset, read_all):
    others = read_all()
    store.put("datasets/large/dataset.json", b"{}")
    keys = [f"volumes/large/case-{case:04d}/t2w.nii.gz" for case in range(1600)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: store.put(key, b"123"), keys))
    killed = start_server()
    async with grpc.aio.insecure_channel(killed.address) as channel:
        stub = features_pb2_grpc.FeatureServiceStub(channel)
        call = asyncio.ensure_future(stub.DeleteDataset(pb.DeleteDatasetRequest(dataset_id="large")).code())
        while store.exists(keys[0]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        killed.kill()
        assert await call is grpc.StatusCode.UNAVAILABLE
    assert store.sizes_bytes("volumes/large/"), "killed too late to prove anything"
    with pytest.raises(NotFound):
        load_dataset(store, "large")
    with pytest.raises(Unavailable):
        check_not_deleted(store, "datasets", "large")
    start_server()
    end = time.monotonic() + 60
    while store.exists(deletion_key("datasets", "large")):
        assert time.monotonic() < end, "the deletion was not completed"
        await asyncio.sleep(0.1)
    assert read_all() == others
