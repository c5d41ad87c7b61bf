"""The servicer's own part of a call: what it tells the work on its threads."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from vfmalign.core.domain.errors import Cancelled
from vfmalign.core.runtime.work_context import limit_work
from vfmalign.features import servicer as module
from vfmalign.features.servicer import FeatureServicer
from vfmalign.features.settings import FeaturesOptions
from vfmalign.features.workers import Workers
from vfmalign.v1 import features_pb2 as pb


async def test_a_study_that_is_being_prepared_stops_when_its_caller_leaves(monkeypatch):
    """Otherwise it blocks the only thread of studies until it is done."""
    started, ended = threading.Event(), []

    def prepare(*_, context):
        started.set()
        try:
            for _ in range(3000):
                context.checkpoint()
                time.sleep(0.01)
        except Cancelled as error:
            ended.append(error)

    monkeypatch.setattr(module, "prepare_sources", prepare)
    monkeypatch.setattr(module, "check_layers", lambda *_: None)
    card = SimpleNamespace(
        primary_layer="stages.3",
        checkpoint=SimpleNamespace(sha256="a" * 64),
        preprocessing=SimpleNamespace(content_digest=lambda: "b" * 64, patch_shape_dhw=None),
    )
    models = SimpleNamespace(device=torch.device("cpu"), get=lambda *_: (None, card))
    workers = Workers(FeaturesOptions())
    service = FeatureServicer(
        SimpleNamespace(key=str),
        models,
        dicom=None,
        uploads=SimpleNamespace(get_prefix=str),
        workers=workers,
        outbox=None,
        options=FeaturesOptions(),
        max_message_bytes=2**20,
    )

    async def extract():
        with limit_work(remaining_s=60):
            await service.Extract(pb.ExtractRequest(model_id="micro"), None)

    call = asyncio.ensure_future(extract())
    await asyncio.to_thread(started.wait, 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    for _ in range(1000):
        if not workers.studies.depth:
            break
        await asyncio.sleep(0.01)
    workers.close()
    assert len(ended) == 1
