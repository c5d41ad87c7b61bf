"""Tokens that are admitted, and those that are not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.token_issuer import TokenIssuer, bearer, create_key, to_jwk

from vfmalign.core.domain.errors import BadOption, Unauthenticated
from vfmalign.core.rpc.access.authentication import LEEWAY_S, Authenticator, get_key_id
from vfmalign.core.rpc.access.authorisation import ROLES
from vfmalign.core.rpc.access.credentials import MAX_TOKEN_CHARACTERS
from vfmalign.core.runtime.auth_settings import AuthSettings

ISSUER = "https://idp.hospital.example"


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer(ISSUER)


def create(issuer: TokenIssuer, folder: Path, clock: Any = time.time, **settings: Any) -> Authenticator:
    file = issuer.write_jwks(folder / "jwks.json")
    return Authenticator(AuthSettings(**{"mode": "oidc", "issuers": (ISSUER,), "jwks_file": file, **settings}), clock)


async def refuse(authenticator: Authenticator, token: str) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as caught:
        await authenticator.authenticate(bearer(token))
    assert len(token) < 20 or token not in f"{caught.value!r}{caught.value}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_token_proves_who_calls(tmp_path: Path, algorithm: str) -> None:
    issuer = TokenIssuer(ISSUER, algorithm)
    token = issuer.sign("researcher", "viewer", "janitor", sub="ada", tenant="default")
    identity = await create(issuer, tmp_path).authenticate(bearer(token))
    assert (identity.subject, identity.issuer, identity.tenants) == ("ada", ISSUER, {"default"})
    assert identity.roles == {"researcher", "viewer"}  # of those that exist
    assert identity.key == f"{ISSUER}#ada"


async def test_mode_off_admits_everybody_as_an_owner_with_every_role() -> None:
    identity = await Authenticator(AuthSettings(tenants=("ward-7", "default"))).authenticate([])
    assert (identity.subject, identity.issuer, identity.roles) == ("anonymous", "", ROLES)
    assert identity.tenants == {"ward-7", "default"}


async def test_mode_local_admits_tokens_of_its_key(tmp_path: Path) -> None:
    issuer = TokenIssuer("vfmalign-local")
    authenticator = create(issuer, tmp_path, mode="local", issuers=())
    assert (await authenticator.authenticate(bearer(issuer.sign("admin")))).roles == {"admin"}
    assert (await refuse(authenticator, TokenIssuer(ISSUER).sign("admin"))).reason == "UNKNOWN_ISSUER"


PAST, FUTURE = 10**9, 4 * 10**9
"""Times that are the same in every process that collects the tests: in the years 2001 and 2096."""
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"exp": PAST}, "TOKEN_EXPIRED"),
    ({"nbf": FUTURE}, "TOKEN_NOT_YET_VALID"),
    ({"iat": FUTURE}, "TOKEN_NOT_YET_VALID"),
    ({"aud": "another"}, "WRONG_AUDIENCE"),
    ({"aud": ["another", "third"]}, "WRONG_AUDIENCE"),
    ({"iss": "https://evil.example"}, "UNKNOWN_ISSUER"),
    ({"iss": f"{ISSUER}/"}, "UNKNOWN_ISSUER"),
    ({"iss": [ISSUER]}, "UNKNOWN_ISSUER"),
    *[({claim: None}, "MISSING_CLAIM") for claim in ("exp", "iat", "aud", "sub")],
    ({"iss": None}, "UNKNOWN_ISSUER"),
    ({"sub": ""}, "INVALID_TOKEN"),
    ({"sub": 7}, "INVALID_TOKEN"),
    ({"sub": "a" * 256}, "INVALID_TOKEN"),
    ({"sub": 'ada\n{"level":"error"}'}, "INVALID_TOKEN"),
    ({"exp": "soon"}, "INVALID_TOKEN"),
    ({"exp": str(FUTURE)}, "INVALID_TOKEN"),
    ({"iat": str(PAST)}, "INVALID_TOKEN"),
    ({"nbf": str(PAST)}, "INVALID_TOKEN"),
    ({"exp": float("inf")}, "INVALID_TOKEN"),
    ({"exp": float("nan")}, "INVALID_TOKEN"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED, ids=str)
async def test_a_signed_token_with_wrong_claims_is_refused(
    issuer: TokenIssuer, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    authenticator = create(issuer, tmp_path)
    token = jwt.api_jws.encode(
        json.dumps(issuer.claims("viewer", **changes)).encode(), issuer.key, "EdDSA", {"kid": "key-1", "typ": "JWT"}
    )
    assert (await refuse(authenticator, token)).reason == reason


TYPES: list[tuple[Any, bool]] = [
    ("JWT", True),
    ("jwt", True),
    ("at+jwt", True),
    ("AT+JWT", True),
    ("application/at+jwt", True),
    (None, True),
    ("logout+jwt", False),
    ("dpop+jwt", False),
    ("secevent+jwt", False),
    ("id_token", False),
    ("", False),
    (["JWT"], False),
    (7, False),
]


@pytest.mark.parametrize(("kind", "admitted"), TYPES, ids=str)
async def test_a_token_of_another_purpose_is_no_credential(
    issuer: TokenIssuer, tmp_path: Path, kind: Any, admitted: bool
) -> None:
    authenticator = create(issuer, tmp_path)
    header = {"alg": "EdDSA", "kid": "key-1"} | ({} if kind is None else {"typ": kind})
    head = f"{encode(header)}.{encode(issuer.claims('viewer'))}"
    token = f"{head}.{encode(issuer.key.sign(head.encode()))}"
    if admitted:
        assert (await authenticator.authenticate(bearer(token))).subject == "ada"
    else:
        assert (await refuse(authenticator, token)).reason == "WRONG_TYPE"


@pytest.mark.parametrize("claims", [{"at_hash": "x"}, {"at_hash": ""}, {"typ": "ID"}], ids=str)
async def test_an_id_token_is_refused_and_told_what_to_send(
    issuer: TokenIssuer, tmp_path: Path, claims: dict[str, Any]
) -> None:
    error = await refuse(create(issuer, tmp_path), issuer.sign("admin", **claims))
    assert error.reason == "WRONG_TYPE"
    assert "the token is an ID token" in str(error)
    assert "send the access token" in str(error)


@pytest.mark.parametrize("claims", [{"typ": "Bearer"}, {"typ": ["ID"]}, {"nonce": "x"}], ids=str)
async def test_an_access_token_may_have_other_claims(
    issuer: TokenIssuer, tmp_path: Path, claims: dict[str, Any]
) -> None:
    assert await create(issuer, tmp_path).authenticate(bearer(issuer.sign("admin", **claims)))


async def test_a_token_may_be_valid_for_longer_than_a_float_can_tell(issuer: TokenIssuer, tmp_path: Path) -> None:
    assert await create(issuer, tmp_path).authenticate(bearer(issuer.sign(exp=10**400)))


async def test_clocks_may_differ_a_little(issuer: TokenIssuer, tmp_path: Path) -> None:
    authenticator = create(issuer, tmp_path)
    now = int(time.time())
    await authenticator.authenticate(bearer(issuer.sign(exp=now - LEEWAY_S + 10, iat=now - 60)))
    await authenticator.authenticate(bearer(issuer.sign(iat=now + LEEWAY_S - 10, nbf=now + LEEWAY_S - 10)))
    expired = issuer.sign(exp=now - LEEWAY_S - 5, iat=now - 60)
    assert (await refuse(authenticator, expired)).reason == "TOKEN_EXPIRED"
    early = issuer.sign(nbf=now + LEEWAY_S + 60)
    assert (await refuse(authenticator, early)).reason == "TOKEN_NOT_YET_VALID"


def encode(part: Any) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(header: Any, claims: Any, signature: bytes = b"") -> str:
    return f"{encode(header)}.{encode(claims)}.{encode(signature)}"


async def test_no_token_can_be_forged(issuer: TokenIssuer, tmp_path: Path) -> None:
    authenticator = create(issuer, tmp_path)
    claims = issuer.claims("admin")
    header = {"alg": "none", "kid": "key-1"}
    for algorithm in ("none", "None", "HS256", "RS512", "PS256", "ES384", ["EdDSA"], None, 7):
        forged = await refuse(authenticator, forge(header | {"alg": algorithm}, claims, b"x"))
        assert forged.reason in {"UNSUPPORTED_ALGORITHM", "MALFORMED_TOKEN"}, algorithm
    assert (await refuse(authenticator, forge(header, claims))).reason == "UNSUPPORTED_ALGORITHM"
    for algorithm in ("EdDSA", "RS256", "ES256"):
        assert (await refuse(authenticator, forge(header | {"alg": algorithm}, claims, bytes(64)))).reason in {
            "BAD_SIGNATURE",
            "INVALID_TOKEN",
        }
    valid = issuer.sign("viewer")
    head, _, signature = valid.split(".")
    for token in (valid[:-8] + "AAAAAAAA", f"{head}.{encode(claims)}.{signature}"):
        assert (await refuse(authenticator, token)).reason == "BAD_SIGNATURE"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_the_public_key_is_no_secret_to_sign_with(tmp_path: Path, algorithm: str) -> None:
    issuer = TokenIssuer(ISSUER, algorithm)
    authenticator = create(issuer, tmp_path)
    public = issuer.key.public_key()
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        issuer.to_jwks(),
    ):
        for alg in ("HS256", algorithm):
            head = f"{encode({'alg': alg, 'kid': 'key-1'})}.{encode(issuer.claims('admin'))}"
            token = f"{head}.{encode(hmac.digest(secret, head.encode(), hashlib.sha256))}"
            assert (await refuse(authenticator, token)).reason in {
                "UNSUPPORTED_ALGORITHM",
                "BAD_SIGNATURE",
                "INVALID_TOKEN",
            }


async def test_a_key_of_somebody_else_signs_nothing(issuer: TokenIssuer, tmp_path: Path) -> None:
    authenticator = create(issuer, tmp_path)
    stranger = TokenIssuer(ISSUER, key=create_key("EdDSA", 1))
    assert (await refuse(authenticator, stranger.sign("admin"))).reason == "BAD_SIGNATURE"
    for key_id in ("key-2", "", "../key-1"):
        token = stranger.sign("admin", headers={"kid": key_id})
        assert (await refuse(authenticator, token)).reason == "UNKNOWN_KEY"
    without_id = stranger.sign("admin", headers={"kid": None})
    assert (await refuse(authenticator, without_id)).reason == "BAD_SIGNATURE"


def test_the_key_id_of_a_token_is_logged_only_where_it_can_be_one(issuer: TokenIssuer) -> None:
    stranger = TokenIssuer(ISSUER, key=create_key("EdDSA", 1))
    assert get_key_id(bearer(stranger.sign("admin"))) == "key-1"
    for key_id in (None, "", "k" * 65, "key 1", "key\n1", "kéy"):
        assert get_key_id(bearer(issuer.sign("admin", headers={"kid": key_id}))) == ""
    claims = issuer.claims("admin")
    for token in ("", "x", "x.y.z", forge({"alg": "EdDSA", "kid": 7}, claims), forge([], claims), forge({}, claims)):
        assert get_key_id(bearer(token)) == ""
    assert get_key_id([]) == get_key_id([("authorization", b"\xff")]) == ""


async def test_an_only_key_needs_no_id(issuer: TokenIssuer, tmp_path: Path) -> None:
    authenticator = create(issuer, tmp_path)
    token = issuer.sign("viewer", headers={"kid": None})
    assert (await authenticator.authenticate(bearer(token))).roles == {"viewer"}
    keys = [to_jwk(issuer.key, "key-1"), to_jwk(create_key("EdDSA", 1), "key-2")]
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": keys}))
    other = issuer.sign("admin", headers={"kid": None})
    assert (await refuse(authenticator, other)).reason == "UNKNOWN_KEY"


SIGNED = {"alg": "EdDSA", "kid": "key-1"}
GARBAGE = ["", "a", "a.b", "a.b.c", "....", "Bearer", "é" * 10, "\0" * 10, encode(SIGNED) + ".."]
GARBAGE += [forge([], {}), forge({}, []), forge(b"\xff", b"\xff"), forge(b"{", b"{")]
GARBAGE += [forge(b"[" * 3_000, b"[" * 3_000), forge(SIGNED, b'{"a":' * 1_000)]
GARBAGE += [forge(SIGNED | {"kid": 7}, {"iss": ISSUER}), forge(SIGNED | {"crit": ["x"]}, {"iss": ISSUER})]


@pytest.mark.parametrize("token", GARBAGE, ids=lambda token: token[:40])
async def test_garbage_is_refused(issuer: TokenIssuer, tmp_path: Path, token: str) -> None:
    error = await refuse(create(issuer, tmp_path), token)
    assert error.reason in {"MALFORMED_TOKEN", "UNKNOWN_KEY", "INVALID_TOKEN", "UNSUPPORTED_ALGORITHM"}


async def test_a_huge_token_is_refused_before_it_is_parsed(
    issuer: TokenIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator = create(issuer, tmp_path)
    monkeypatch.setattr(jwt, "decode_complete", None)
    assert (await refuse(authenticator, "a" * (MAX_TOKEN_CHARACTERS + 1))).reason == "TOKEN_TOO_LONG"


async def test_a_call_has_one_bearer_token(issuer: TokenIssuer, tmp_path: Path) -> None:
    authenticator = create(issuer, tmp_path)
    token = issuer.sign("viewer")
    cases: list[tuple[list[tuple[str, str | bytes]], str]] = [
        ([], "NO_TOKEN"),
        ([("authorization-bin", f"Bearer {token}".encode())], "NO_TOKEN"),
        ([("authorization", f"Basic {token}")], "MALFORMED_TOKEN"),
        ([("authorization", token)], "MALFORMED_TOKEN"),
        ([("authorization", f"Bearer {token}".encode())], "MALFORMED_TOKEN"),
        ([("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")], "MALFORMED_TOKEN"),
        ([("authorization", f"Bearer {token}, Bearer {token}")], "MALFORMED_TOKEN"),
    ]
    for metadata, reason in cases:
        with pytest.raises(Unauthenticated) as caught:
            await authenticator.authenticate(metadata)
        assert caught.value.reason == reason
        assert reason != "NO_TOKEN" or "`authorization: Bearer TOKEN`" in caught.value.remedy
    assert await authenticator.authenticate([("x-other", "1"), ("authorization", f"bearer {token}")])


@pytest.mark.parametrize(
    ("claim", "claims", "roles"),
    [
        ("roles", {"roles": ["viewer", "admin"]}, {"viewer", "admin"}),
        ("roles", {"roles": "viewer admin"}, {"viewer", "admin"}),
        ("roles", {"roles": ["viewer", 7, None, ["admin"]]}, {"viewer"}),
        ("roles", {"roles": {"admin": True}}, set()),
        ("roles", {"roles": None}, set()),
        ("realm_access.roles", {"realm_access": {"roles": ["viewer"]}}, {"viewer"}),
        ("realm_access.roles", {"realm_access": "admin"}, set()),
        ("https://vfmalign.example/roles", {"https://vfmalign.example/roles": ["viewer"]}, {"viewer"}),
    ],
)
async def test_roles_come_from_the_claim_that_is_set(
    issuer: TokenIssuer, tmp_path: Path, claim: str, claims: dict[str, Any], roles: set[str]
) -> None:
    authenticator = create(issuer, tmp_path, roles_claim=claim)
    assert (await authenticator.authenticate(bearer(issuer.sign(**claims)))).roles == roles


@pytest.mark.parametrize(
    ("served", "claim", "expected"),
    [
        ("default", None, "default"),
        ("default", "default", "default"),
        ("default", {"ward-7": 1}, ""),
        ("default", [], ""),
        ("default", "ward-7", ""),
        ("ward-7", None, ""),
        ("ward-7", "ward-7", "ward-7"),
        ("ward-7", ["ward-8", "ward-7"], "ward-7"),
        ("ward-7", ["ward-8", "ward-9"], ""),
        ("ward-7", {"ward-7": 1}, ""),
        ("default ward-7 ward-8", None, "default"),
        ("default ward-7 ward-8", "ward-7", "ward-7"),
        ("default ward-7 ward-8", "ward-9 ward-7", "ward-7"),
        ("default ward-7 ward-8", ["ward-8", "ward-7"], "ward-7 ward-8"),
        ("ward-7 ward-8", None, ""),
    ],
)
async def test_tenants_come_from_their_claim(
    issuer: TokenIssuer, tmp_path: Path, served: str, claim: Any, expected: str
) -> None:
    authenticator = create(issuer, tmp_path, tenants=tuple(served.split()))
    identity = await authenticator.authenticate(bearer(issuer.sign("researcher", "admin", tenant=claim)))
    assert identity.tenants == set(expected.split())


async def test_a_service_acts_for_every_tenant_unless_its_token_names_some(issuer: TokenIssuer, tmp_path: Path) -> None:
    authenticator = create(issuer, tmp_path, tenants=("ward-7", "ward-8"))
    for claim, expected in ((None, {"ward-7", "ward-8"}), ("ward-8", {"ward-8"}), ("ward-9", set())):
        identity = await authenticator.authenticate(bearer(issuer.sign("finetuning", tenant=claim)))
        assert identity.tenants == expected


async def test_a_token_is_verified_once_while_it_is_valid(
    issuer: TokenIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]
    authenticator = create(issuer, tmp_path, lambda: now[0])
    token = issuer.sign("viewer", exp=int(now[0]) + 600)
    first = await authenticator.authenticate(bearer(token))
    verified: list[str] = []
    decode = jwt.decode

    def count(*arguments: Any, **options: Any) -> Any:
        verified.append("")
        return decode(*arguments, **options)

    monkeypatch.setattr(jwt, "decode", count)
    now[0] += 299
    assert await authenticator.authenticate(bearer(token)) is first
    assert not verified
    now[0] += 2  # after five minutes it is verified again, in case its key was withdrawn
    assert await authenticator.authenticate(bearer(token)) == first
    assert len(verified) == 1


async def test_an_expired_token_is_not_remembered(issuer: TokenIssuer, tmp_path: Path) -> None:
    now = [time.time()]
    authenticator = create(issuer, tmp_path, lambda: now[0])
    token = issuer.sign("viewer", exp=int(now[0]) - LEEWAY_S + 5)
    await authenticator.authenticate(bearer(token))
    now[0] += 6
    assert authenticator._verified.get(hashlib.sha256(token.encode()).digest()) is None


async def test_a_withdrawn_key_counts_until_its_tokens_are_verified_again(issuer: TokenIssuer, tmp_path: Path) -> None:
    now = [time.time()]
    authenticator = create(issuer, tmp_path, lambda: now[0])
    token = issuer.sign("viewer", exp=int(now[0]) + 3600)
    await authenticator.authenticate(bearer(token))
    TokenIssuer(ISSUER, key_id="key-2", key=create_key("EdDSA", 1)).write_jwks(tmp_path / "jwks.json")
    now[0] += 301
    assert (await refuse(authenticator, token)).reason == "UNKNOWN_KEY"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"keys": []}', '{"keys": [7]}', '{"keys": 7}', "[" * 100_000])
def test_a_file_without_keys_ends_the_process_with_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(text)
    with pytest.raises(BadOption, match="VFMALIGN_AUTH__JWKS_FILE"):
        Authenticator(AuthSettings(mode="local", jwks_file=file))
