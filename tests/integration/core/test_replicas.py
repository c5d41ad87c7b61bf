"""A replica is killed while it answers: with the service config of docs/api.md, the other one answers in its place."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from vfmalign.core.rpc import channels

ROOT = Path(__file__).resolve().parents[3]
REPLICA = """
import asyncio, sys, grpc

async def answer(request, context):
    print("asked", flush=True)
    if sys.argv[1] == "hangs":
        await asyncio.sleep(600)
    return sys.argv[1].encode()

async def main():
    server = grpc.aio.server()
    handlers = {"Call": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Service", handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
"""


def read_page() -> str:
    page = (ROOT / "docs/api.md").read_text().partition("### Deadlines and retries")[2]
    return page.partition("```json")[2].partition("```")[0]


def read_example() -> str:
    """Returns the service config of the Python example, which runs up to its first function."""
    namespace: dict[str, Any] = {}
    exec((ROOT / "examples/python/plain_grpc.py").read_text().partition("\ndef ")[0], namespace)
    return str(dict(namespace["OPTIONS"])["grpc.service_config"])


@pytest.fixture
async def replicas() -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Returns a replica that hangs and one that answers."""
    started = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", REPLICA, kind), stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
        )
        for kind in ("hangs", "answers")
    ]
    yield started
    for replica in started:
        if replica.returncode is None:
            replica.kill()
        await replica.wait()


async def call_while_one_is_killed(replicas: list[asyncio.subprocess.Process], config: str) -> list[str]:
    """Makes calls to both replicas, kills the one that hangs, and returns how the calls ended."""
    outputs = [replica.stdout for replica in replicas]
    ports = [int(await output.readline()) for output in outputs if output is not None]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    async with grpc.aio.insecure_channel(target, [("grpc.service_config", config)]) as channel:
        method = channel.unary_unary("/Service/Call")

        async def call() -> str:
            try:
                answer: bytes = await method(b"", timeout=60, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
            return answer.decode()

        calls = []
        asked = asyncio.ensure_future(outputs[0].readline()) if outputs[0] is not None else None
        assert asked is not None
        while not asked.done():  # round_robin calls a replica only once it is connected
            calls.append(asyncio.ensure_future(call()))
            await asyncio.wait([asked, calls[-1]], return_when=asyncio.FIRST_COMPLETED, timeout=1)
        assert asked.result() == b"asked\n"
        replicas[0].kill()
        return await asyncio.gather(*calls)


async def test_a_channel_without_retries_loses_the_calls_of_a_killed_replica(
    replicas: list[asyncio.subprocess.Process],
) -> None:
    config = json.loads(read_page())
    del config["methodConfig"]
    assert "UNAVAILABLE" in await call_while_one_is_killed(replicas, json.dumps(config))


@pytest.mark.parametrize("read", [read_page, read_example])
async def test_with_the_documented_config_no_call_of_a_killed_replica_is_lost(
    replicas: list[asyncio.subprocess.Process], read: Any
) -> None:
    assert set(await call_while_one_is_killed(replicas, read())) == {"answers"}


def test_every_program_has_the_documented_config() -> None:
    documented = json.loads(read_page())
    assert json.loads(read_example()) == documented
    go = (ROOT / "examples/go/main.go").read_text().partition("const serviceConfig = `")[2].partition("`")[0]
    assert json.loads(go) == documented
    assert documented["methodConfig"][0]["retryPolicy"] == channels._RETRY_POLICY
