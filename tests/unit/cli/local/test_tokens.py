"""Tokens of a local stack: who holds which, that the key is forgotten, and that services admit them."""

from __future__ import annotations

import json
from pathlib import Path

import jwt
import pytest

from vfmalign.cli.local.tokens import AUDIENCE, OWNER, ROLES, TokenFiles, renew
from vfmalign.core.rpc import authorisation
from vfmalign.core.runtime.auth_settings import LOCAL_ISSUER, AuthSettings


def read(folder: Path, holder: str) -> dict[str, object]:
    """The verified claims of a holder's token."""
    files = TokenFiles.find(folder, holder)
    token = files.token.read_text()
    (key,) = jwt.PyJWKSet.from_json(files.jwks.read_text()).keys
    assert jwt.get_unverified_header(token)["kid"] == key.key_id
    claims: dict[str, object] = jwt.decode(token, key, ["EdDSA"], audience=AUDIENCE, issuer=LOCAL_ISSUER)
    return claims


def test_every_holder_has_a_token_with_its_own_roles(tmp_path: Path) -> None:
    renew(tmp_path / "tokens")
    for holder, roles in ROLES.items():
        claims = read(tmp_path / "tokens", holder)
        assert (claims["sub"], claims["roles"], claims["tenant"]) == (holder, list(roles), "default")
    assert set(ROLES[OWNER]) == set(authorisation.PEOPLE)
    assert {role for holder, roles in ROLES.items() if holder != OWNER for role in roles} == set(authorisation.SERVICES)


def test_files_are_private_and_hold_no_private_key(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    renew(folder)
    for path in folder.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    jwks = [json.loads(path.read_text()) for path in folder.rglob("jwks.json")]
    assert len(jwks) == len(ROLES)
    assert all(entry.keys() == {"kty", "crv", "x", "kid", "alg", "use"} for keys in jwks for entry in keys["keys"])


def test_new_tokens_end_the_old_ones(tmp_path: Path) -> None:
    renew(tmp_path)
    old = TokenFiles.find(tmp_path, OWNER).token.read_text()
    renew(tmp_path)
    assert read(tmp_path, OWNER)
    (key,) = jwt.PyJWKSet.from_json(TokenFiles.find(tmp_path, "mmd").jwks.read_text()).keys
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(old, key, ["EdDSA"], audience=AUDIENCE)


def test_a_service_accepts_its_settings(tmp_path: Path) -> None:
    renew(tmp_path)
    variables = TokenFiles.find(tmp_path, "mmd").to_environment()
    fields = {name.removeprefix("VFMALIGN_AUTH__").lower(): value for name, value in variables.items()}
    settings = AuthSettings.model_validate(fields)
    assert settings.mode == "local"
    assert settings.token_file == TokenFiles.find(tmp_path, "mmd").token
