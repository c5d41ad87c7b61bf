"""Tokens of a Kubernetes cluster beside those of a provider: keys from a file, and roles by ServiceAccount."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.token_issuer import TokenIssuer, bearer, create_key

from vfmalign.core.domain.errors import BadOption, Unauthenticated
from vfmalign.core.rpc.access.authentication import Authenticator
from vfmalign.core.runtime.auth_settings import AuthSettings

PEOPLE, CLUSTER = "https://idp.hospital.example", "https://kubernetes.default.svc.cluster.local"
ACCOUNT = "system:serviceaccount:vfmalign:vfmalign-finetuning"


@pytest.fixture
def people() -> TokenIssuer:
    return TokenIssuer(PEOPLE)


@pytest.fixture
def cluster() -> TokenIssuer:
    return TokenIssuer(CLUSTER, "RS256", "cluster-1")


@pytest.fixture
def settings(people: TokenIssuer, cluster: TokenIssuer, tmp_path: Path) -> dict[str, Any]:
    return {
        "mode": "oidc",
        "issuers": (PEOPLE, CLUSTER),
        "jwks_files": {
            PEOPLE: people.write_jwks(tmp_path / "people.json"),
            CLUSTER: cluster.write_jwks(tmp_path / "cluster.json"),
        },
        "subject_roles": {CLUSTER: {ACCOUNT: ("finetuning",)}},
    }


async def test_an_account_has_the_roles_of_the_settings_and_none_of_its_token(
    settings: dict[str, Any], people: TokenIssuer, cluster: TokenIssuer
) -> None:
    authenticator = Authenticator(AuthSettings(**settings))
    service = await authenticator.authenticate(bearer(cluster.sign("admin", sub=ACCOUNT)))
    assert service.roles == {"finetuning"}
    other = await authenticator.authenticate(bearer(cluster.sign("admin", sub="system:serviceaccount:default:default")))
    assert other.roles == set()
    person = await authenticator.authenticate(bearer(people.sign("viewer", sub=ACCOUNT)))
    assert person.roles == {"viewer"}, "the provider of people may use the same subjects"


async def test_accounts_belong_to_the_tenant_of_the_deployment(
    settings: dict[str, Any], people: TokenIssuer, cluster: TokenIssuer
) -> None:
    roles = {CLUSTER: {ACCOUNT: ("finetuning",), "viewer": ("viewer",)}}

    async def find(served: tuple[str, ...], token: str) -> set[str]:
        authenticator = Authenticator(AuthSettings(**settings | {"tenants": served, "subject_roles": roles}))
        return set((await authenticator.authenticate(bearer(token))).tenants)

    one, two = ("radiology",), ("radiology", "ward-7")
    for subject in (ACCOUNT, "viewer"):
        assert await find(one, cluster.sign(sub=subject)) == {"radiology"}
        assert await find(one, cluster.sign(sub=subject, tenant="other")) == set()
    assert await find(one, people.sign("viewer")) == set()
    assert await find(two, cluster.sign(sub=ACCOUNT)) == {"radiology", "ward-7"}, "the service acts for all"
    assert await find(two, cluster.sign(sub="viewer")) == set(), "nothing says which of them is meant"


async def test_each_issuer_signs_with_its_own_keys_alone(settings: dict[str, Any], people: TokenIssuer) -> None:
    authenticator = Authenticator(AuthSettings(**settings))
    forged = TokenIssuer(CLUSTER, people.algorithm, people.key_id, people.key).sign(sub=ACCOUNT)
    with pytest.raises(Unauthenticated) as caught:
        await authenticator.authenticate(bearer(forged))
    assert caught.value.reason == "UNKNOWN_KEY"


async def test_rotated_keys_of_the_cluster_are_read_again(settings: dict[str, Any], tmp_path: Path) -> None:
    authenticator = Authenticator(AuthSettings(**settings))
    renewed = TokenIssuer(CLUSTER, "RS256", "cluster-2", create_key("RS256", 1))
    renewed.write_jwks(tmp_path / "cluster.json")
    assert (await authenticator.authenticate(bearer(renewed.sign(sub=ACCOUNT)))).roles == {"finetuning"}


@pytest.mark.parametrize("name", ["jwks_files", "subject_roles"])
def test_a_setting_for_another_issuer_is_refused(settings: dict[str, Any], name: str) -> None:
    changed = {"https://other.example": next(iter(settings[name].values()))}
    with pytest.raises(ValidationError, match="names an issuer that is not in VFMALIGN_AUTH__ISSUERS"):
        AuthSettings(**settings | {name: changed})


def test_a_role_that_does_not_exist_is_named(settings: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match="there is no role root"):
        Authenticator(AuthSettings(**settings | {"subject_roles": {CLUSTER: {ACCOUNT: ("root",)}}}))


def test_a_file_without_keys_is_named(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text("{}")
    with pytest.raises(BadOption, match="the file of keys"):
        Authenticator(AuthSettings(**settings))
