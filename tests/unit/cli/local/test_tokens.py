"""Tokens of a local stack: who holds which, that the key is forgotten, and that services admit them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import jwt
import pytest

from vfmalign.cli.local import tokens
from vfmalign.cli.local.tokens import AUDIENCE, OWNER, ROLES, TokenFiles, ensure, renew
from vfmalign.core.rpc.access import authorisation
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


def test_valid_tokens_are_kept(tmp_path: Path) -> None:
    ensure(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ensure(tmp_path)
    assert before == {path: path.read_bytes() for path in before}
    assert len(before) == 2 * len(ROLES)


def copy_key_of_another_folder(folder: Path) -> None:
    renew(folder.parent / "other")
    TokenFiles.find(folder, "mmd").jwks.write_bytes(TokenFiles.find(folder.parent / "other", "mmd").jwks.read_bytes())


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "one is missing": lambda folder: TokenFiles.find(folder, "mmd").token.unlink(),
    "one is damaged": lambda folder: TokenFiles.find(folder, OWNER).token.write_text("damaged"),
    "others can read one": lambda folder: TokenFiles.find(folder, OWNER).token.chmod(0o644),
    "a renewal was interrupted": copy_key_of_another_folder,
}


@pytest.mark.parametrize("spoil", UNUSABLE.values(), ids=UNUSABLE)
def test_tokens_are_drawn_anew_where(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    folder = tmp_path / "tokens"
    ensure(folder)
    old = TokenFiles.find(folder, "features").token.read_text()
    spoil(folder)
    ensure(folder)
    assert TokenFiles.find(folder, "features").token.read_text() != old
    assert all(read(folder, holder)["sub"] == holder for holder in ROLES)
    assert TokenFiles.find(folder, OWNER).token.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("change", ["roles", "validity"])
def test_tokens_of_other_roles_or_of_little_time_are_drawn_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with monkeypatch.context() as earlier:
        if change == "roles":
            earlier.setattr(tokens, "ROLES", ROLES | {OWNER: ("viewer",)})
        else:
            earlier.setattr(tokens, "_VALIDITY", timedelta(days=300))
        renew(tmp_path)
    old = TokenFiles.find(tmp_path, OWNER).token.read_text()
    ensure(tmp_path)
    assert TokenFiles.find(tmp_path, OWNER).token.read_text() != old
    assert read(tmp_path, OWNER)["roles"] == list(ROLES[OWNER])


def test_a_service_accepts_its_settings(tmp_path: Path) -> None:
    renew(tmp_path)
    variables = TokenFiles.find(tmp_path, "mmd").to_environment()
    fields = {name.removeprefix("VFMALIGN_AUTH__").lower(): value for name, value in variables.items()}
    settings = AuthSettings.model_validate(fields)
    assert settings.mode == "local"
    assert settings.token_file == TokenFiles.find(tmp_path, "mmd").token
