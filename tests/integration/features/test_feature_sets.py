"""Lists of feature sets: pages, filters, damaged and unfinished sets, tokens and ids."""

from datetime import timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from vfmalign.client import Client
from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.core.storage.keys import manifest_key
from vfmalign.v1 import features_pb2 as pb

ABSENT = "0" * 32


@pytest.fixture(scope="module")
def sets(server, card, dataset):
    """Two sets of the model and a set of its architecture with random weights, as ExtractDataset returns them."""
    transforms = (
        {},
        {"input_transform": "half_resolution"},
        {"initialisation": "random", "initialisation_seed": 7},
    )
    return [extract(server, **fields) for fields in transforms]


def extract(server, **fields):

    request = ExtractDatasetRequest(model_id="micro", dataset_id="phantoms", split="test", **fields)
    with Client(features_address=server.address) as client:
        return client.features.extract_dataset(request).feature_set.to_proto()


async def list_all(service, page_size=0, **filters):
    found, token = [], ""
    while True:
        request = pb.ListFeatureSetsRequest(page_size=page_size, page_token=token, **filters)
        page = await service.ListFeatureSets(request)
        assert len(page.feature_sets) <= (page_size or 100)
        found += page.feature_sets
        if not (token := page.next_page_token):
            return found


async def refuse(call, code, field=""):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value.details()
    details = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"]).details
    info = error_details_pb2.ErrorInfo()
    assert details[0].Unpack(info)
    if field:
        assert info.metadata["subject"] == field
    return info.metadata["message"]


async def test_sets_are_listed_with_everything_that_determines_them(service, sets):
    listed = {one.feature_set_id: one for one in await list_all(service)}
    assert sorted(listed) == sorted(one.feature_set_id for one in sets)
    for extracted in sets:
        one = listed[extracted.feature_set_id]
        described = (
            await service.GetFeatureSet(pb.GetFeatureSetRequest(feature_set_id=one.feature_set_id))
        ).feature_set
        assert described == one
        assert one.HasField("create_time")
        one.ClearField("create_time")
        assert one == extracted
    assert listed[sets[0].feature_set_id].input_transform == "identity"
    assert listed[sets[1].feature_set_id].input_transform == "half_resolution"
    random = listed[sets[2].feature_set_id]
    assert (random.initialisation, random.initialisation_seed) == (pb.INITIALISATION_RANDOM, 7)
    assert (random.model_id, random.dataset_id) == ("micro", "phantoms")


async def test_pages_are_in_order_of_id_beside_studies_and_unfinished_sets(service, store, sets, phantoms):
    store.put(f"features/{ABSENT}/part-00000.safetensors", b"unfinished")
    for study in ("0-study", "a", "f" * 31, "zz"):
        store.put(f"features/{study}/stages.3.safetensors", b"x")
    expected = sorted(one.feature_set_id for one in sets)
    for page_size in (1, 2, 3, 0):
        assert [one.feature_set_id for one in await list_all(service, page_size)] == expected


async def test_a_damaged_set_hides_no_other(service, store, sets):
    damaged = "1" * 32
    store.put(manifest_key(damaged), b"{}")
    try:
        page = await service.ListFeatureSets(pb.ListFeatureSetsRequest())
        assert [one.id for one in page.unreadable] == [damaged]
        assert len(page.feature_sets) == len(sets)
        await refuse(service.GetFeatureSet(pb.GetFeatureSetRequest(feature_set_id=damaged)), grpc.StatusCode.DATA_LOSS)
    finally:
        store.delete(manifest_key(damaged))


async def test_filters(service, sets):
    everything = await list_all(service)
    assert await list_all(service, model_id="micro", dataset_id="phantoms") == everything
    assert await list_all(service, model_id="other") == []
    assert await list_all(service, 1, dataset_id="other") == []
    last = max(one.create_time.ToDatetime() for one in everything)
    after = Timestamp()
    after.FromDatetime(last + timedelta(seconds=1))
    assert await list_all(service, created_after=after) == []
    assert await list_all(service, created_before=after) == everything
    first = min((one.create_time for one in everything), key=lambda time: time.ToDatetime())
    assert await list_all(service, created_after=first) == everything
    assert await list_all(service, created_before=first) == []


async def test_a_token_belongs_to_its_method_and_filters(service, sets, card):
    token = (await service.ListFeatureSets(pb.ListFeatureSetsRequest(page_size=1))).next_page_token
    assert token
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    call = service.ListModels(pb.ListModelsRequest(page_token=token))
    assert "another method than ListModels" in await refuse(call, invalid, "page_token")
    call = service.ListFeatureSets(pb.ListFeatureSetsRequest(page_token=token, model_id="micro"))
    assert "ListFeatureSets with other filters" in await refuse(call, invalid, "page_token")
    for bad in ("x", "!!!", "WyJMaXN0RmVhdHVyZVNldHMiXQ==", sets[0].feature_set_id):
        call = service.ListFeatureSets(pb.ListFeatureSetsRequest(page_token=bad))
        await refuse(call, invalid, "page_token")


@pytest.mark.parametrize(
    ("method", "request_type", "field"),
    [
        ("GetModel", pb.GetModelRequest, "model_id"),
        ("GetDataset", pb.GetDatasetRequest, "dataset_id"),
        ("GetFeatureSet", pb.GetFeatureSetRequest, "feature_set_id"),
    ],
)
async def test_ids_are_checked_alike(service, method, request_type, field):
    get = getattr(service, method)
    for bad in ("", "No Id", "../x", "a" * 129):
        await refuse(get(request_type(**{field: bad})), grpc.StatusCode.INVALID_ARGUMENT, field)
    for absent in (ABSENT, "a" * 128):
        await refuse(get(request_type(**{field: absent})), grpc.StatusCode.NOT_FOUND)


def test_the_client_joins_pages(server, sets):
    with Client(features_address=server.address) as client:
        listed = client.features.list_feature_sets(model_id="micro")
        assert [one.feature_set_id for one in listed.feature_sets] == sorted(one.feature_set_id for one in sets)
        one = client.features.get_feature_set(sets[0].feature_set_id)
        assert one in listed.feature_sets
        assert client.features.list_feature_sets(created_before=one.create_time - timedelta(days=1)).feature_sets == ()
