"""Lists of datasets, which may be large and many: what they cost, and whether others are served."""

import asyncio
import gc
import threading
import weakref
from contextlib import AsyncExitStack

import grpc
import pytest
from grpc_health.v1 import health

from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.page_tokens import PageTokens
from vfmalign.core.rpc.server import serve_api
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings
from vfmalign.core.storage.datasets import load_dataset, save_dataset
from vfmalign.features import listing
from vfmalign.features.servicer import FeatureServicer
from vfmalign.features.settings import FeaturesOptions
from vfmalign.features.workers import Workers
from vfmalign.v1 import features_pb2, features_pb2_grpc

COPIES = 6
SERVICE = features_pb2.DESCRIPTOR.services_by_name["FeatureService"]


@pytest.fixture(scope="module")
def copies(store, dataset):
    """Several datasets; returns their names."""
    names = [f"copy-{index}" for index in range(COPIES)]
    for name in names:
        save_dataset(store, dataset.model_copy(update={"id": name}))
    return names


@pytest.fixture
async def service(store, store_settings, models):
    """A stub of the service in this process, over a socket."""
    workers = Workers(FeaturesOptions())

    def add(server):
        servicer = FeatureServicer(
            store,
            models,
            dicom=None,
            uploads=None,
            workers=workers,
            outbox=None,
            options=FeaturesOptions(),
            max_message_bytes=2**20,
        )
        features_pb2_grpc.add_FeatureServiceServicer_to_server(servicer, server)
        return [SERVICE]

    async with AsyncExitStack() as resources:
        resources.callback(workers.close)
        settings = ServiceSettings(store=store_settings, server=ServerSettings(grpc_port=0))
        _, _, port = await serve_api(settings, add, Gate("open"), health.aio.HealthServicer(), resources)
        channel = await resources.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        yield features_pb2_grpc.FeatureServiceStub(channel)


def count_cancelled_lists() -> float:
    """Calls whose end the server has noticed."""
    labels = {"grpc_service": SERVICE.full_name, "grpc_method": "ListDatasets", "grpc_code": "CANCELLED"}
    return metrics.REGISTRY.get_sample_value("grpc_server_handled_total", labels | {"grpc_type": "unary"}) or 0


def test_a_page_keeps_no_dataset_with_its_cases(store, copies, monkeypatch):
    read, alive = [], []

    def load(*arguments):
        gc.collect()
        alive.append(sum(manifest() is not None for manifest in read))
        manifest = load_dataset(*arguments)
        read.append(weakref.ref(manifest))
        return manifest

    monkeypatch.setattr(listing, "load_dataset", load)
    page = listing.list_datasets(store, listing.PageQuery(COPIES, "copy", PageTokens()))
    assert [one.dataset_id for one in page.items] == copies
    assert max(alive) <= 1, "the last one"


async def test_lists_keep_no_other_call_waiting_and_end_when_their_callers_leave(service, card, copies, monkeypatch):
    begun, release = threading.Semaphore(0), threading.Event()
    loaded = []

    def load(store, name):
        loaded.append(name)
        begun.release()
        assert release.wait(60)
        return load_dataset(store, name)

    monkeypatch.setattr(listing, "load_dataset", load)
    before = count_cancelled_lists()
    lists = [service.ListDatasets(features_pb2.ListDatasetsRequest()) for _ in range(40)]
    try:
        assert await asyncio.to_thread(begun.acquire, timeout=30)
        response = await service.GetModel(features_pb2.GetModelRequest(model_id=card.id), timeout=30)
        assert response.model.model_id == card.id
        for call in lists:
            call.cancel()
        await asyncio.gather(*lists, return_exceptions=True)
        for _ in range(3000):
            if count_cancelled_lists() == before + len(lists):
                break
            await asyncio.sleep(0.01)
    finally:
        release.set()
    monkeypatch.setattr(listing, "load_dataset", load_dataset)
    response = await service.ListDatasets(features_pb2.ListDatasetsRequest(), timeout=30)
    assert set(copies) < {one.dataset_id for one in response.datasets}
    assert len(loaded) <= 2, "each thread ends at the dataset that it was reading"
