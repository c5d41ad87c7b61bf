"""Run a server whose calls fail as a test asks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.unit.core.rpc.misbehaving_server import Misbehaving, Running

from vfmalign.core.rpc.server import serve
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings, StoreSettings
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc


@pytest.fixture(autouse=True)
def new_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets no test find the event set by another one, whose event loop has ended."""
    monkeypatch.setattr(Misbehaving, "slow", asyncio.Event())


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    ports_file = tmp_path / "ports.json"
    settings = ServiceSettings(
        store=StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b"),
        server=ServerSettings(grpc_port=0, metrics_port=0, health_port=0, drain_s=5, ports_file=ports_file),
    )

    def add(server: grpc.aio.Server) -> list[Any]:
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(Misbehaving(), server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    task = asyncio.create_task(serve("test", settings, add))
    while not ports_file.exists():
        await asyncio.sleep(0.01)
        assert not task.done()
    yield Running(json.loads(ports_file.read_text()), task)
    if not task.done():
        os.kill(os.getpid(), signal.SIGTERM)
        await task
