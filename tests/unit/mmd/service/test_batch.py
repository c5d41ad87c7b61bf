"""A batch whose pairs find no place: a pair of a batch that has begun waits for one."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from typing import Any

import numpy as np

from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.service.pipelines import Pipelines
from vfmalign.mmd.service.servicer import MmdServicer
from vfmalign.v1 import mmd_pb2

CONTEXT: Any = None


async def test_a_pair_without_a_place_waits_for_one() -> None:
    layer = mmd_pb2.InlineLayer(features=to_tensor(np.random.default_rng(0).normal(size=(8, 4))))
    sample = mmd_pb2.FeatureSource(inline=mmd_pb2.InlineFeatures(layers=[layer]))
    kernel = mmd_pb2.Kernel(fixed_sigma=1.0)
    pair = mmd_pb2.ComputeRequest(x=sample, y=sample, pairing=mmd_pb2.PAIRING_INDEPENDENT, kernel=kernel)
    request = mmd_pb2.ComputeBatchRequest(requests=[pair, pair])
    pipelines, go_on = Pipelines(1), threading.Event()
    servicer = MmdServicer(None, None, ComputeConfig(), pipelines, cache_bytes=0)
    async with asyncio.timeout(30), aclosing(servicer.ComputeBatch(request, CONTEXT)) as answers:
        assert (await anext(answers)).WhichOneof("outcome") == "response"
        others = [asyncio.create_task(pipelines.short.run(go_on.wait, 30)) for _ in range(2)]
        await asyncio.sleep(0)
        second = asyncio.ensure_future(anext(answers))
        try:
            await asyncio.sleep(0.3)
            assert not second.done(), "both places are taken"
        finally:
            go_on.set()
        assert (await second).WhichOneof("outcome") == "response"
        await asyncio.gather(*others)
        third = await asyncio.gather(*(pipelines.short.run(int) for _ in range(3)), return_exceptions=True)
        assert [getattr(one, "reason", "") for one in third] == ["", "", "QUEUE_FULL"]
    pipelines.close()
