"""Tokens of a real OpenID provider, whose keys the service fetches itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health
from tests.openid_provider import OpenIdProvider
from tests.token_issuer import TokenIssuer, bearer

from vfmalign.core.domain.errors import Forbidden, Unauthenticated, Unavailable, VfmalignError
from vfmalign.core.rpc.access import signing_keys
from vfmalign.core.rpc.access.identity import current_identity
from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.server import serve_api
from vfmalign.core.runtime.auth_settings import AuthSettings
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings, StoreSettings
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc


class WhoCalls(mmd_pb2_grpc.MmdServiceServicer):
    """Answers with the caller's subject."""

    async def Compute(self, request: mmd_pb2.ComputeRequest, context: Any) -> mmd_pb2.ComputeResponse:
        identity = current_identity.get()
        return mmd_pb2.ComputeResponse(primary_layer=identity.subject if identity else "nobody")


def add(server: grpc.aio.Server) -> list[Any]:
    mmd_pb2_grpc.add_MmdServiceServicer_to_server(WhoCalls(), server)
    return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]


@asynccontextmanager
async def serve(issuer: str, **auth: Any) -> AsyncIterator[str]:
    """Runs a service that trusts an issuer, and yields its address."""
    settings = ServiceSettings(
        store=StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b"),
        server=ServerSettings(grpc_port=0),
        auth=AuthSettings(mode="oidc", issuers=(issuer,), **auth),
    )
    async with AsyncExitStack() as resources:
        _, _, port = await serve_api(settings, add, Gate("open"), health.aio.HealthServicer(), resources)
        yield f"127.0.0.1:{port}"


async def call(address: str, token: str) -> str:
    async with connect(address) as channel:
        stub: Any = mmd_pb2_grpc.MmdServiceStub(channel)
        return str((await stub.Compute(mmd_pb2.ComputeRequest(), metadata=bearer(token))).primary_layer)


async def refuse(address: str, token: str, kind: type[VfmalignError]) -> str:
    """Returns the reason why a call is refused."""
    with pytest.raises(kind) as caught:
        await call(address, token)
    assert token not in str(caught.value)
    return caught.value.reason


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenIdProvider]:
    provider = OpenIdProvider(tmp_path_factory.mktemp("provider"))
    provider.start()
    yield provider
    provider.stop()


async def test_roles_and_tenants_of_the_provider_count(provider: OpenIdProvider) -> None:
    async with serve(provider.issuer, tenants=("ward-7",), roles_claim="realm_access.roles") as address:
        researcher = {"realm_access": {"roles": ["researcher"]}, "tenant": "ward-7"}
        assert await call(address, provider.log_in("ada", **researcher)) == "ada"
        id_token = provider.log_in("ada", at_hash="x", **researcher)
        assert await refuse(address, id_token, Unauthenticated) == "WRONG_TYPE"
        viewer = {"realm_access": {"roles": ["viewer"]}, "tenant": "ward-7"}
        assert await refuse(address, provider.log_in("bob", **viewer), Forbidden) == "MISSING_ROLE"
        for tenant in ({"tenant": "ward-8"}, {"tenant": None}):
            foreign = provider.log_in("eve", **(researcher | tenant))
            assert await refuse(address, foreign, Forbidden) == "WRONG_TENANT"
        other_client = provider.log_in("ada", client="another", **researcher)
        assert await refuse(address, other_client, Unauthenticated) == "WRONG_AUDIENCE"


async def test_a_provider_that_is_not_trusted_admits_nobody(provider: OpenIdProvider) -> None:
    async with serve("http://127.0.0.1:9") as address:
        token = provider.log_in("ada", roles=["researcher"])
        assert await refuse(address, token, Unauthenticated) == "UNKNOWN_ISSUER"


async def test_keys_rotate_and_the_provider_fails_without_a_restart_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = OpenIdProvider(tmp_path)
    forged = TokenIssuer(provider.issuer).sign("researcher")
    try:
        # The provider's tokens do not name their key, so that only the age of the keys tells the service to ask again.
        monkeypatch.setattr(signing_keys, "PAUSE_S", 0.0)
        monkeypatch.setattr(signing_keys, "REFRESH_S", 0.0)
        async with serve(provider.issuer) as address:
            assert await refuse(address, forged, Unavailable) == "PROVIDER_UNAVAILABLE"
            provider.start()
            assert await refuse(address, forged, Unauthenticated) == "UNKNOWN_KEY"
            first = provider.log_in("ada", roles=["researcher"])
            assert await call(address, first) == "ada"
            later = provider.log_in("cy", roles=["researcher"])
            provider.stop()
            assert await call(address, first) == "ada"
            assert await call(address, later) == "cy"  # by the last keys
            provider.start("--token-max-age", "-100")
            assert (
                await refuse(address, provider.log_in("ada", roles=["researcher"]), Unauthenticated) == "TOKEN_EXPIRED"
            )
    finally:
        provider.stop()
