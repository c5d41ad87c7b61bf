"""Which token the clients send, and where they refuse to send one."""

from pathlib import Path

import numpy as np
import pytest

from vfmalign.client import AsyncClient, Client, ComputeOptions
from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.client.settings import load_client_settings
from vfmalign.core.domain.errors import BadOption, DeadlineExceeded, Unauthenticated, Unavailable

X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def authorizations(deployment, monkeypatch):
    """The header of every call, in their order; tokens of this machine's environment are not sent."""
    for name in ("VFMALIGN_TOKEN", "VFMALIGN_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return deployment.authorizations


async def call(**arguments):
    """One unary and one streaming call."""
    async with AsyncClient(**arguments) as client:
        await client.features.list_models()
        await client.features.extract_dataset(ExtractDatasetRequest(dataset_id="d", model_id="m", split="test"))


async def test_calls_carry_no_token_by_default(deployment, authorizations):
    await call(**deployment.addresses)
    assert set(authorizations) == {None}


async def test_every_call_carries_the_token(deployment, authorizations, monkeypatch, tmp_path):
    file = tmp_path / "token"
    file.write_text("from-file\n")
    numbers = iter(range(100))
    for token, expected in (
        ("fixed", {"Bearer fixed"}),
        (file, {"Bearer from-file"}),
        (lambda: f"call-{next(numbers)}", {"Bearer call-0", "Bearer call-1", "Bearer call-2"}),
    ):
        authorizations.clear()
        await call(**deployment.addresses, token=token)
        assert set(authorizations) == expected
    authorizations.clear()
    with Client(**deployment.addresses, token="synchronous") as client:
        client.features.list_models()
    assert set(authorizations) == {"Bearer synchronous"}
    authorizations.clear()
    monkeypatch.setenv("VFMALIGN_TOKEN_FILE", str(file))
    await call(**deployment.addresses)
    await call(**deployment.addresses, token="argument")
    assert set(authorizations) == {"Bearer from-file", "Bearer argument"}
    monkeypatch.delenv("VFMALIGN_TOKEN_FILE")
    monkeypatch.setenv("VFMALIGN_TOKEN", "from-variable")
    authorizations.clear()
    await call(**deployment.addresses)
    assert set(authorizations) == {"Bearer from-variable"}


@pytest.mark.parametrize("token", [Path("absent"), "two words", "line\nbreak", "é"])
async def test_what_is_no_token_is_an_error_before_the_call(deployment, authorizations, token):
    for call_it in (
        lambda client: client.features.list_models(),
        lambda client: client.features.extract_dataset(
            ExtractDatasetRequest(dataset_id="d", model_id="m", split="test")
        ),
    ):
        async with AsyncClient(**deployment.addresses, token=token) as client:
            with pytest.raises(Unauthenticated) as caught:
                await call_it(client)
        assert isinstance(token, Path) or token not in f"{caught.value}{caught.value.__cause__}"
    assert authorizations == []


async def test_a_token_does_not_leave_this_machine_unencrypted(authorizations, monkeypatch):
    address = {"mmd_address": "dns:///vfmalign.invalid:8001"}
    async with AsyncClient(**address, token="secret") as client:
        with pytest.raises(BadOption, match="unencrypted") as caught:
            await client.mmd.compute(X, X, ComputeOptions(pairing="paired"))
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("VFMALIGN_AUTH__ALLOW_PLAINTEXT", "true")
    async with AsyncClient(**address, token="secret") as client:
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await client.mmd.compute(X, X, ComputeOptions(pairing="paired"), timeout_s=2)


def test_a_token_file_that_does_not_exist_is_named_by_its_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("VFMALIGN_TOKEN", raising=False)
    monkeypatch.setenv("VFMALIGN_TOKEN_FILE", str(tmp_path / "absent"))
    with pytest.raises(BadOption) as caught:
        load_client_settings()
    assert str(caught.value) == ("VFMALIGN_TOKEN_FILE: there is no such file; give the path of a file that exists")
    monkeypatch.delenv("VFMALIGN_TOKEN_FILE")
    with pytest.raises(BadOption, match=r"^ca_file: there is no such file"):
        load_client_settings(ca_file=tmp_path / "absent")
