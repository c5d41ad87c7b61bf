"""A server whose calls fail as a test asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from vfmalign.core.domain import errors
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc


class Misbehaving(mmd_pb2_grpc.MmdServiceServicer):
    """Raises what a test asks for by the name of the primary layer."""

    slow = asyncio.Event()
    refusals = 0

    async def Compute(self, request: mmd_pb2.ComputeRequest, context: Any) -> mmd_pb2.ComputeResponse:
        if request.primary_layer == "fault":
            raise ZeroDivisionError("patient SURNAME^GIVEN")
        if request.primary_layer == "slow":
            self.slow.set()
            await asyncio.sleep(0.5)
            return mmd_pb2.ComputeResponse(primary_layer="done")
        if request.primary_layer in {"later", "never"}:
            error = errors.Exhausted("too much", subject="object x", remedy="mend it")
            error.retry_after_s = 12.5 if request.primary_layer == "later" else None
            raise error
        if request.primary_layer.startswith("full ") and Misbehaving.refusals:
            Misbehaving.refusals -= 1
            full = errors.Exhausted("no place", subject="queue", remedy="wait", reason="QUEUE_FULL")
            full.retry_after_s = float(request.primary_layer.removeprefix("full "))
            raise full
        if request.primary_layer.startswith("full "):
            return mmd_pb2.ComputeResponse(primary_layer="done")
        if request.primary_layer.startswith("long "):
            text = request.primary_layer[-1] * 3000
            raise errors.BadVolume(text, field="study.dicom", remedy=text)
        cls = getattr(errors, request.primary_layer)
        if issubclass(cls, errors.InvalidInput):
            raise cls("it is bad", field="study.volumes[0]", remedy="mend it")
        raise cls("it is bad", subject="object x", remedy="mend it")

    async def ComputeBatch(
        self, request: mmd_pb2.ComputeBatchRequest, context: Any
    ) -> AsyncIterator[mmd_pb2.ComputeBatchResponse]:
        yield mmd_pb2.ComputeBatchResponse(index=0)
        raise errors.Exhausted("too much", subject="batch", remedy="send less")


class Running:
    def __init__(self, ports: dict[str, int], task: asyncio.Task[None]) -> None:
        self.ports, self.task = ports, task


def plain(running: Running) -> grpc.aio.Channel:
    """A channel as a foreign client has it: statuses come through as they are."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{running.ports['grpc']}")
