"""The device authorization flow, refresh and revocation, against a server."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.cli.login.conftest import CLIENT, OpenIdProvider

from vfmalign.cli.login.provider import Provider, ProviderClient
from vfmalign.core.domain.errors import BadOption, DeadlineExceeded, Unauthenticated, Unavailable


def connect(provider: OpenIdProvider, **changes: str) -> Provider:
    return Provider(ProviderClient(**{"issuer": provider.issuer, "client_id": CLIENT} | changes))


def test_tokens_come_once_the_user_has_confirmed(provider: OpenIdProvider) -> None:
    provider.errors = ["authorization_pending", "slow_down", "authorization_pending"]
    client = connect(provider, scope="openid", resource="https://vfmalign.example")
    authorization = client.start_device_authorization()
    assert authorization.user_code == "BCDF-GHJK"
    assert provider.posts[0][1] == {"client_id": CLIENT, "scope": "openid", "resource": "https://vfmalign.example"}
    pauses: list[float] = []
    tokens = client.wait_for_tokens(authorization, sleep=pauses.append)
    assert pauses == [0.0, 0.0, 5.0, 5.0], "each slow_down adds five seconds"
    assert tokens.refresh_token == "refresh-0"
    assert tokens.expires_in == 3600


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("access_denied", Unauthenticated),
        ("invalid_grant", Unauthenticated),
        ("expired_token", DeadlineExceeded),
        ("<script>", Unauthenticated),
    ],
)
def test_a_refusal_ends_the_wait(provider: OpenIdProvider, code: str, error: type[Exception]) -> None:
    provider.errors = ["authorization_pending", code, "authorization_pending"]
    client = connect(provider)
    with pytest.raises(error) as caught:
        client.wait_for_tokens(client.start_device_authorization(), sleep=lambda _: None)
    assert provider.polls() == 2
    assert "vfmalign login" in str(caught.value)
    assert "script" not in str(caught.value)
    assert "not shown" not in str(caught.value)


def test_a_provider_that_comes_back_is_asked_again_more_slowly(
    provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(provider)
    authorization = client.start_device_authorization()
    post, failures = client._post, [Unavailable("down"), Unavailable("down")]

    def fail_first(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return post(*arguments)

    monkeypatch.setattr(client, "_post", fail_first)
    pauses: list[float] = []
    assert client.wait_for_tokens(authorization, sleep=pauses.append).access_token
    assert pauses == [0.0, 2.0, 4.0]


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://other.example"},
        {"device_authorization_endpoint": None},
        {"device_authorization_endpoint": "http://other.example/device"},
        {"device_authorization_endpoint": 5},
    ],
)
def test_a_provider_that_cannot_be_trusted_gets_no_request(provider: OpenIdProvider, metadata: dict[str, Any]) -> None:
    provider.metadata = metadata
    with pytest.raises(BadOption) as caught:
        connect(provider).start_device_authorization()
    assert caught.value.field == "--issuer"
    assert provider.posts == []


@pytest.mark.parametrize("issuer", ["http://idp.example", "ftp://127.0.0.1", "", "https://a@idp.example"])
def test_an_issuer_is_encrypted_or_on_this_machine(issuer: str) -> None:
    with pytest.raises(BadOption, match="https"):
        Provider(ProviderClient(issuer=issuer, client_id=CLIENT))


def test_a_client_that_the_provider_does_not_know_is_named(provider: OpenIdProvider) -> None:
    with pytest.raises(BadOption, match="invalid_client") as caught:
        connect(provider, client_id="another").start_device_authorization()
    assert caught.value.field == "--client-id"


def test_an_answer_that_is_not_as_the_rfc_says_shows_no_token(provider: OpenIdProvider) -> None:
    provider.tokens = {"access_token": ["secret-token"]}
    client = connect(provider)
    with pytest.raises(Unavailable, match="access_token") as caught:
        client.wait_for_tokens(client.start_device_authorization(), sleep=lambda _: None)
    assert "secret-token" not in str(caught.value)


def test_a_refresh_token_is_exchanged_and_a_provider_that_does_not_rotate_it_keeps_it(provider: OpenIdProvider) -> None:
    client = connect(provider)
    assert client.refresh("refresh-0").refresh_token == "refresh-1"
    with pytest.raises(Unauthenticated, match="invalid_grant"):
        client.refresh("refresh-0")
    provider.tokens = {"refresh_token": ""}
    assert client.refresh("refresh-1").refresh_token == "refresh-1"


def test_a_login_is_revoked_where_the_provider_can(provider: OpenIdProvider) -> None:
    assert connect(provider).revoke("refresh-0")
    assert provider.posts == [("/revoke", {"client_id": CLIENT, "token": "refresh-0"})]
    provider.metadata = {"revocation_endpoint": None}
    assert not connect(provider).revoke("refresh-0")


def test_a_provider_that_is_down_is_unavailable(provider: OpenIdProvider) -> None:
    issuer = provider.issuer
    provider.close()
    with pytest.raises(Unavailable, match="does not answer"):
        Provider(ProviderClient(issuer=issuer, client_id=CLIENT))
