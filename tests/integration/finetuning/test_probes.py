"""The leader's probes of the other services and of the store."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest
from tests.integration.finetuning.peers import Mmd

from vfmalign.core.domain.errors import LeaseLost
from vfmalign.core.rpc.access.credentials import BearerToken
from vfmalign.core.runtime.metrics import REGISTRY
from vfmalign.core.storage.keys import ROOM_KEY
from vfmalign.finetuning import probes
from vfmalign.finetuning.settings import FinetuningSettings
from vfmalign.v1 import (
    features_pb2,
    features_pb2_grpc,
    mmd_pb2_grpc,
    monitoring_pb2,
    monitoring_pb2_grpc,
)

SERVICES = ("features", "mmd", "monitoring", "store")


class Called(
    features_pb2_grpc.FeatureServiceServicer,
    mmd_pb2_grpc.MmdServiceServicer,
    monitoring_pb2_grpc.MonitoringServiceServicer,
):
    """Three services on one port. `hangs` names a method that does not answer, `refuses` one that rejects the token."""

    def __init__(self):
        self.hangs = self.refuses = ""
        self.requests, self.tokens, self.free = {}, set(), threading.Event()

    def answer(self, name, request, context, response):
        self.requests[name] = request
        self.tokens.add(dict(context.invocation_metadata())["authorization"])
        if name == self.refuses:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token has expired")
        if name == self.hangs:
            self.free.wait(60)
        return response

    def ListModels(self, request, context):
        return self.answer("features", request, context, features_pb2.ListModelsResponse())

    def Compute(self, request, context):
        return self.answer("mmd", request, context, Mmd(None).Compute(request, context))

    def ListMonitors(self, request, context):
        return self.answer("monitoring", request, context, monitoring_pb2.ListMonitorsResponse())


@pytest.fixture
def called():
    called, server = Called(), grpc.server(ThreadPoolExecutor(8))
    features_pb2_grpc.add_FeatureServiceServicer_to_server(called, server)
    mmd_pb2_grpc.add_MmdServiceServicer_to_server(called, server)
    monitoring_pb2_grpc.add_MonitoringServiceServicer_to_server(called, server)
    called.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield called
    called.free.set()
    server.stop(0).wait()


@pytest.fixture
def term():
    term = SimpleNamespace(remaining_s=10.0)

    def check_deadline():
        if term.remaining_s <= 0:
            raise LeaseLost("its lease has expired")

    term.check_deadline = check_deadline
    return term


@pytest.fixture
def settings(called, store_settings):
    names = ("features_address", "mmd_address", "monitoring_address")
    return FinetuningSettings(**dict.fromkeys(names, called.address), store=store_settings)


def count(outcome):
    return {
        name: REGISTRY.get_sample_value("vfmalign_probes_total", {"service": name, "outcome": outcome})
        for name in SERVICES
    }


@contextlib.asynccontextmanager
async def probing(term, settings):
    token = BearerToken(value="secret")
    running = asyncio.create_task(probes.Probes(term, settings, token, period_s=0.05).run())
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()


async def until_counted(outcome, names, number=1):
    before = count(outcome)
    while not all(count(outcome)[name] >= before[name] + number for name in names):  # noqa: ASYNC110 - a counter
        await asyncio.sleep(0.01)


async def test_every_service_is_called_with_the_service_s_own_token(called, term, settings, store):
    failed = count("failed")
    async with asyncio.timeout(60), probing(term, settings):
        await until_counted("succeeded", SERVICES, 2)
    assert count("failed") == failed
    assert called.tokens == {"Bearer secret"}
    assert called.requests["features"].page_size == called.requests["monitoring"].page_size == 1
    (layer,) = called.requests["mmd"].x.inline.layers
    assert list(layer.features.shape) == [4, 8]
    assert len(store.get(ROOM_KEY)) == 1024


@pytest.mark.parametrize("fault", ["hangs", "refuses"])
async def test_a_service_that_fails_or_hangs_delays_no_other(fault, called, term, settings, store, monkeypatch):
    monkeypatch.setattr(probes, "TIMEOUT_S", 0.5)
    setattr(called, fault, "mmd")
    others = ("features", "monitoring", "store")
    async with asyncio.timeout(60), probing(term, settings):
        succeeded = count("succeeded")
        await until_counted("failed", ["mmd"])
        after = count("succeeded")
    assert after["mmd"] == succeeded["mmd"]
    assert fault != "hangs" or all(after[name] > succeeded[name] for name in others), "they waited for it"


async def test_a_full_store_is_counted(called, term, settings, store):
    """Keys that may not write fail as a full disk does."""
    away = settings.store.model_copy(update={"bucket": "missing-bucket"})
    async with asyncio.timeout(60), probing(term, settings.model_copy(update={"store": away})):
        succeeded = count("succeeded")
        await until_counted("failed", ["store"])
    assert count("succeeded")["store"] == succeeded["store"]


async def test_no_probe_begins_after_the_lease(called, term, settings, store):
    async with asyncio.timeout(60), probing(term, settings):
        await until_counted("succeeded", SERVICES)
        term.remaining_s = -1.0
        await asyncio.sleep(0.3)  # probes that had begun
        before = count("succeeded") | {f"{name} failed": value for name, value in count("failed").items()}
        await asyncio.sleep(0.3)
        after = count("succeeded") | {f"{name} failed": value for name, value in count("failed").items()}
    assert after == before


async def test_a_service_without_an_address_is_not_probed(called, term, settings, store):
    async with asyncio.timeout(60), probing(term, settings.model_copy(update={"monitoring_address": ""})):
        await until_counted("succeeded", ["features", "mmd", "store"], 2)
    assert "monitoring" not in called.requests
