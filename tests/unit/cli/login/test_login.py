"""`vfmalign login`, `logout` and `whoami`, and the token that commands send."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from tests.unit.cli.login.conftest import CLIENT, OpenIdProvider, make_token

from vfmalign.cli import exits
from vfmalign.cli.login.stored_login import LoginFile
from vfmalign.cli.target import Target
from vfmalign.core.domain.errors import PreconditionFailed, Unauthenticated


@pytest.fixture
def log_in(invoke, provider: OpenIdProvider):
    """Logs in; returns the exit code and what was printed."""

    def call() -> tuple[int, str, str]:
        return invoke("login", "--issuer", provider.issuer, "--client-id", CLIENT)

    return call


def test_a_login_is_shown_renewed_and_ended(
    invoke, log_in, provider: OpenIdProvider, config_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = log_in()
    assert code == exits.OK, err
    assert "BCDF-GHJK" in err
    assert f"{provider.issuer}/confirm?code=BCDF-GHJK" in err
    assert "secret-device-code" not in out + err
    assert (config_folder / "login.json").stat().st_mode & 0o777 == 0o600
    assert config_folder.stat().st_mode & 0o777 == 0o700

    code, out, err = invoke("whoami", "--json")
    shown = json.loads(out)
    assert shown == {
        "source": f"login at {provider.issuer}",
        "readable": True,
        "calls_for": None,
        "subject": "ada",
        "tenant": None,
        "roles": ["researcher"],
        "issuer": provider.issuer,
        "expires": "2096-10-02T07:06:40+00:00",
    }
    login = LoginFile().read()
    assert login is not None
    assert login.access_token not in out + err + repr(login)
    assert login.refresh_token not in out + err + repr(login)
    assert "researcher" in invoke("whoami")[1]
    monkeypatch.setenv("VFMALIGN_TENANT", "ward-7")
    assert json.loads(invoke("whoami", "--json")[1])["calls_for"] == "ward-7"

    assert json.loads(invoke("logout", "--json")[1]) == {"was_logged_in": True, "revoked": True}
    assert provider.refresh_token == ""
    assert not (config_folder / "login.json").exists()
    code, out, err = invoke("whoami")
    assert code == exits.REFUSED
    assert "`vfmalign login`" in err
    assert json.loads(invoke("logout", "--json")[1]) == {"was_logged_in": False, "revoked": False}


def test_a_second_login_needs_no_options(invoke, log_in, provider: OpenIdProvider) -> None:
    for arguments in ((), ("--issuer", provider.issuer)):
        code, _, err = invoke("login", *arguments)
        assert code == exits.BAD_INPUT
        assert "required for the first login" in err
    log_in()
    first = LoginFile().read()
    assert invoke("login")[0] == exits.OK
    second = LoginFile().read()
    assert first is not None
    assert second is not None
    assert second.client == first.client
    assert second.access_token != first.access_token


def test_a_logout_needs_no_provider(invoke, log_in, provider: OpenIdProvider, config_folder: Path) -> None:
    log_in()
    provider.close()
    code, _, err = invoke("logout")
    assert code == exits.OK
    assert "could not be ended at the provider" in err
    assert not (config_folder / "login.json").exists()


def test_a_refused_login_leaves_none(log_in, provider: OpenIdProvider, config_folder: Path) -> None:
    provider.errors = ["access_denied"]
    code, _, err = log_in()
    assert code == exits.REFUSED
    assert "access_denied" in err
    assert not config_folder.exists()


def test_a_token_that_expires_is_renewed_once(log_in, provider: OpenIdProvider) -> None:
    provider.lifetime_s = 30
    log_in()
    provider.lifetime_s = 3600
    first = LoginFile().read()
    tokens: list[str] = []
    threads = [threading.Thread(target=lambda: tokens.append(LoginFile().get_access_token())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == 4
    assert len(set(tokens)) == 1
    assert first is not None
    assert tokens[0] != first.access_token
    assert provider.refresh_token == "refresh-1", "a refresh token may be good for one use"


def test_an_expired_login_says_how_to_go_on(log_in, provider: OpenIdProvider) -> None:
    provider.lifetime_s, provider.refresh_token = 0, ""
    log_in()
    with pytest.raises(Unauthenticated, match="`vfmalign login`") as caught:
        LoginFile().get_access_token()
    assert caught.value.reason == "LOGIN_EXPIRED"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604])
def test_a_file_that_others_can_read_is_refused(log_in, config_folder: Path, mode: int) -> None:
    log_in()
    (config_folder / "login.json").chmod(mode)
    with pytest.raises(PreconditionFailed, match="other users") as caught:
        LoginFile().get_access_token()
    assert caught.value.reason == "NOT_PRIVATE"


def test_a_damaged_file_is_named(config_folder: Path) -> None:
    config_folder.mkdir(parents=True)
    path = config_folder / "login.json"
    path.write_text('{"access_token": "secret-token"}')
    path.chmod(0o600)
    with pytest.raises(PreconditionFailed, match=r"login\.json") as caught:
        LoginFile().read()
    assert "secret-token" not in str(caught.value)


def test_writing_again_closes_a_file_that_was_open_to_others(log_in, config_folder: Path) -> None:
    log_in()
    path = config_folder / "login.json"
    path.chmod(0o644)

    log_in()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_environment_comes_before_the_login(
    invoke, log_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in()
    for service in ("FEATURES", "MMD", "FINETUNING"):
        monkeypatch.setenv(f"VFMALIGN_{service}_ADDRESS", "127.0.0.1:9")
    token_file = tmp_path / "token"
    token_file.write_text(make_token({"sub": "batch", "realm_access": {"roles": ["viewer"]}}))
    assert json.loads(invoke("whoami", "--json")[1])["subject"] == "ada"
    monkeypatch.setenv("VFMALIGN_TOKEN_FILE", str(token_file))
    shown = json.loads(invoke("whoami", "--json", "--roles-claim", "realm_access.roles")[1])
    assert (shown["source"], shown["subject"], shown["roles"]) == ("VFMALIGN_TOKEN_FILE", "batch", ["viewer"])
    monkeypatch.setenv("VFMALIGN_TOKEN", "opaque")
    code, _, err = invoke("whoami")
    assert code == exits.BAD_INPUT
    assert "VFMALIGN_TOKEN and VFMALIGN_TOKEN_FILE" in err
    monkeypatch.delenv("VFMALIGN_TOKEN_FILE")
    assert json.loads(invoke("whoami", "--json")[1]) == {
        "source": "VFMALIGN_TOKEN",
        "readable": False,
        "calls_for": None,
    }
    target = Target.from_environment()
    assert target is not None
    assert target.credential is not None
    assert target.credential.token == "opaque"
    assert "opaque" not in repr(target)
