"""Settings of authentication: what contradicts itself ends the process with one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfmalign.core.runtime.auth_settings import LOCAL_ISSUER, AuthSettings, is_loopback, is_secure_url
from vfmalign.core.runtime.settings import ServiceSettings, load

ISSUER = "https://idp.hospital.example/realm"
PREFIX = "VFMALIGN_AUTH__"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000")
    return monkeypatch


def load_with(environment: pytest.MonkeyPatch, **settings: str) -> AuthSettings:
    for name, value in settings.items():
        environment.setenv(PREFIX + name, value)
    return load(ServiceSettings).auth


def test_nothing_is_needed_on_the_loopback_interface(environment: pytest.MonkeyPatch) -> None:
    auth = load_with(environment)
    assert (auth.mode, auth.audience, auth.tenants, auth.token_file) == ("off", "vfmalign", ("default",), None)


@pytest.mark.parametrize("text", [f"{ISSUER},http://127.0.0.1:5", f'["{ISSUER}", "http://127.0.0.1:5"]'])
def test_issuers_are_separated_by_commas_or_a_json_list(environment: pytest.MonkeyPatch, text: str) -> None:
    assert load_with(environment, MODE="oidc", ISSUERS=text).issuers == (ISSUER, "http://127.0.0.1:5")


@pytest.mark.parametrize("text", ["ward-7,default", '["ward-7", "default"]'])
def test_tenants_are_separated_by_commas_or_a_json_list(environment: pytest.MonkeyPatch, text: str) -> None:
    assert load_with(environment, TENANTS=text).tenants == ("ward-7", "default")


def test_mode_local_has_one_issuer_with_a_name(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text("{}")
    assert load_with(environment, MODE="local", JWKS_FILE=str(file)).issuers == (LOCAL_ISSUER,)
    assert load_with(environment, ISSUERS="ward-7").issuers == ("ward-7",)


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"MODE": "on"}, "MODE"),
        ({"MODE": "oidc"}, "ISSUERS"),
        ({"MODE": "oidc", "ISSUERS": "[]"}, "ISSUERS"),
        ({"MODE": "oidc", "ISSUERS": "[half"}, "ISSUERS"),
        ({"MODE": "oidc", "ISSUERS": "http://idp.hospital.example"}, "ISSUERS"),
        ({"MODE": "oidc", "ISSUERS": "https://user:secret@idp.hospital.example"}, "ISSUERS"),
        ({"MODE": "oidc", "ISSUERS": f"{ISSUER}?secret=1"}, "ISSUERS"),
        ({"MODE": "oidc", "ISSUERS": f"{ISSUER},https://"}, "ISSUERS"),
        ({"MODE": "oidc", "ISSUERS": ",".join([ISSUER] * 17)}, "ISSUERS"),
        ({"MODE": "oidc", "ISSUERS": f"{ISSUER},{ISSUER}/b", "JWKS_FILE": __file__}, "JWKS_FILE"),
        ({"MODE": "oidc", "ISSUERS": ISSUER, "JWKS_FILE": "/none"}, "JWKS_FILE"),
        ({"MODE": "oidc", "ISSUERS": ISSUER, "CA_FILE": "/none"}, "CA_FILE"),
        ({"MODE": "local"}, "JWKS_FILE"),
        ({"MODE": "local", "ISSUERS": "a,b", "JWKS_FILE": __file__}, "ISSUERS"),
        ({"TENANTS": "Ward 7"}, "TENANTS"),
        ({"TENANTS": "ward_7"}, "TENANTS"),
        ({"TENANTS": "a" * 41}, "TENANTS"),
        ({"TENANTS": "a,b,a"}, "TENANTS"),
        ({"TENANTS": "[]"}, "TENANTS"),
        ({"TENANTS": ",".join(f"t{i}" for i in range(17))}, "TENANTS"),
        ({"AUDIENCE": ""}, "AUDIENCE"),
    ],
)
def test_a_contradiction_ends_the_process_with_one_sentence(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: dict[str, str], variable: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        load_with(environment, **settings)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"{PREFIX}{variable} ")
    assert printed.count("\n") == 1
    assert "secret" not in printed


@pytest.mark.parametrize(
    ("roles", "reference"),
    [
        ('{"$(CLUSTER_ISSUER)": {"system:serviceaccount:a:b": ["viewer"]}}', "CLUSTER_ISSUER"),
        (f'{{"{ISSUER}": {{"system:serviceaccount:$(NAMESPACE):b": ["viewer"]}}}}', "NAMESPACE"),
    ],
)
def test_a_variable_that_kubernetes_left_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], roles: str, reference: str
) -> None:
    with pytest.raises(SystemExit):
        load_with(environment, MODE="oidc", ISSUERS=ISSUER, SUBJECT_ROLES=roles)
    expected = f"VFMALIGN_AUTH__SUBJECT_ROLES is wrong: $({reference}) looks unexpanded"
    assert expected in (printed := capsys.readouterr().err)
    assert f"lists {reference} before this one" in printed


def test_the_loopback_interface_is_known_by_address() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "features")))


def test_keys_come_over_https_or_from_this_machine() -> None:
    assert all(map(is_secure_url, ("https://a.example", "http://127.0.0.1:1/x", "http://[::1]/x")))
    refused = ("http://a.example", "https://user@a.example", "https://", "file:///etc/passwd", "http://[::1", "")
    assert not any(map(is_secure_url, refused))
