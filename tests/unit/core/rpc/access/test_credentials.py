"""Tokens of outgoing calls, over real sockets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from vfmalign.core.domain.errors import BadOption, Unauthenticated
from vfmalign.core.rpc.access.credentials import AUTHORIZATION, MAX_TOKEN_CHARACTERS, BearerToken
from vfmalign.core.runtime.auth_settings import AuthSettings
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc


class Echo(mmd_pb2_grpc.MmdServiceServicer):
    """Answers with the header that it received."""

    async def Compute(self, request: mmd_pb2.ComputeRequest, context: Any) -> mmd_pb2.ComputeResponse:
        return mmd_pb2.ComputeResponse(primary_layer=dict(context.invocation_metadata()).get(AUTHORIZATION, "none"))


@pytest.fixture
async def address() -> AsyncIterator[str]:
    server = grpc.aio.server()
    mmd_pb2_grpc.add_MmdServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def send(address: str, token: BearerToken) -> str:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        return str((await stub.Compute(mmd_pb2.ComputeRequest(), metadata=[token.get_metadata()])).primary_layer)


def replace(file: Path, text: str) -> None:
    """Replaces a file as the kubelet and `vfmalign up` do."""
    partial = file.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, file)


async def test_a_call_carries_the_token_and_a_later_one_that_of_the_changed_file(address: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    replace(file, "first\n")
    token = BearerToken(file=file)
    assert await send(address, token) == "Bearer first"
    replace(file, "other")
    assert await send(address, token) == "Bearer other"
    assert await send(address, BearerToken(value="fixed")) == "Bearer fixed"


async def test_the_last_token_stays_while_the_file_is_gone_or_holds_none(tmp_path: Path) -> None:
    file = tmp_path / "token"
    replace(file, "first")
    token = BearerToken(file=file)
    token.get_metadata()
    for text in ("", "two words", "é", "a" * (MAX_TOKEN_CHARACTERS + 1), None):
        if text is None:
            file.unlink()
        else:
            replace(file, text)
        assert token.get_metadata() == (AUTHORIZATION, "Bearer first")


@pytest.mark.parametrize("text", [None, "", "se cret", "secret\nsecret", "s" * (MAX_TOKEN_CHARACTERS + 1)])
def test_a_file_without_a_token_is_an_error_that_does_not_repeat_it(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)
    with pytest.raises(Unauthenticated) as caught:
        BearerToken(file=file).get_metadata()
    assert caught.value.reason == "NO_TOKEN"
    shown = f"{caught.value}{caught.value.__cause__}"
    assert "secret" not in shown
    assert "sss" not in shown


def test_a_function_is_asked_for_every_call() -> None:
    tokens = iter(["first", "other"])
    token = BearerToken(function=lambda: next(tokens))
    assert [token.get_metadata()[1] for _ in range(2)] == ["Bearer first", "Bearer other"]


def test_a_token_of_the_longest_size_may_end_in_a_line_break(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s" * MAX_TOKEN_CHARACTERS + "\n")
    assert BearerToken(file=tmp_path / "token").get_metadata()[1] == "Bearer " + "s" * MAX_TOKEN_CHARACTERS


LOCAL = ["127.0.0.1:8001", "127.8.9.10:1", "localhost:8001", "[::1]:8001", "dns:///localhost:8001", "dns:127.0.0.1:1"]
LOCAL += ["ipv4:127.0.0.1:80,127.0.0.2:80", "ipv6:[::1]:80", "unix:/run/socket", "unix-abstract:socket", "localhost"]
REMOTE = ["features:8001", "dns:///features:8001", "10.0.0.1:8001", "0.0.0.0:8001", "[2001:db8::1]:8001", "", ":80"]
REMOTE += ["ipv4:127.0.0.1:80,10.0.0.1:80", "dns://10.0.0.1/localhost:80", "localhost.example:80", "xds:///localhost"]


@pytest.mark.parametrize("address", LOCAL)
def test_this_machine_gets_the_token_in_plaintext(address: str) -> None:
    BearerToken(value="t").check_channel(address, encrypted=False)


@pytest.mark.parametrize("address", REMOTE)
def test_another_machine_gets_the_token_encrypted_or_where_a_setting_allows_it(address: str) -> None:
    with pytest.raises(BadOption, match="VFMALIGN_CA_FILE") as caught:
        BearerToken(value="secret").check_channel(address, encrypted=False)
    assert "secret" not in str(caught.value)
    BearerToken(value="t").check_channel(address, encrypted=True)
    BearerToken(value="t", allow_plaintext=True).check_channel(address, encrypted=False)


def test_settings_without_a_file_have_no_token(tmp_path: Path) -> None:
    assert BearerToken.from_settings(AuthSettings()) is None
    (tmp_path / "token").write_text("t")
    token = BearerToken.from_settings(AuthSettings(token_file=tmp_path / "token", allow_plaintext=True))
    assert token is not None
    token.check_channel("features:8001", encrypted=False)
    assert token.get_metadata()[1] == "Bearer t"


def test_clients_need_no_package_of_servers() -> None:
    packages = {"jwt", "cachetools", "cryptography"}
    code = f"import sys, vfmalign.client.async_client; print(*sorted({packages} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
