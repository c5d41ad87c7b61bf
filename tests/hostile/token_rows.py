"""Rows for tokens: forged, stolen from elsewhere, huge, or none at all."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from tests.hostile.row import Row
from tests.hostile.wire_rows import GET_JOB, raw
from tests.token_issuer import TokenIssuer, create_key

from vfmalign.core.rpc.access.authorisation import ROLES
from vfmalign.core.runtime.auth_settings import LOCAL_ISSUER
from vfmalign.v1 import finetuning_pb2

ISSUER = TokenIssuer(LOCAL_ISSUER)
"""Whose tokens the services admit."""
_TIMES = {"iat": int(time.time()), "exp": int(time.time()) + 86_400}
OWNER = ISSUER.sign(*sorted(ROLES), sub="owner", **_TIMES)
_CLAIMS = ISSUER.claims("admin", **_TIMES)
_SIGNED = {"alg": "EdDSA", "kid": ISSUER.key_id}
UNAUTHENTICATED, DENIED = "UNAUTHENTICATED", "PERMISSION_DENIED"


def _encode(part: Any) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _forge(header: Any, claims: Any, signature: bytes = b"") -> str:
    return f"{_encode(header)}.{_encode(claims)}.{_encode(signature)}"


def _sign_with_public_key(algorithm: str) -> str:
    head = f"{_encode(_SIGNED | {'alg': algorithm})}.{_encode(_CLAIMS)}"
    return f"{head}.{_encode(hmac.digest(ISSUER.to_jwks(), head.encode(), hashlib.sha256))}"


def _sign(payload: bytes) -> str:
    """Signs bytes that need not be claims, as an issuer with a fault might."""
    return jwt.api_jws.encode(payload, ISSUER.key, "EdDSA", {"kid": ISSUER.key_id, "typ": "JWT"})


def _row(name: str, token: str | None, code: str, reason: str) -> Row:
    authorization = () if token is None else (f"Bearer {token}",)
    return Row(name, GET_JOB, lambda _: finetuning_pb2.GetJobRequest(job_id="a"), code, reason, (), authorization)


ROWS = (
    _row("no token", None, UNAUTHENTICATED, "NO_TOKEN"),
    Row("16 MiB without a token", "MmdService/Compute", raw(bytes(2**24)), UNAUTHENTICATED, "NO_TOKEN", (), ()),
    _row("empty token", "", UNAUTHENTICATED, "MALFORMED_TOKEN"),
    _row("token that is no JWT", "password", UNAUTHENTICATED, "MALFORMED_TOKEN"),
    _row("token with five parts", "a.b.c.d.e", UNAUTHENTICATED, "MALFORMED_TOKEN"),
    _row("token of 12,000 characters", "a" * 12_000, UNAUTHENTICATED, "TOKEN_TOO_LONG"),
    _row("token of 64 KiB", "a" * 65_536, "RESOURCE_EXHAUSTED", "metadata"),
    _row("lists nested in the header", _forge(b"[" * 3_000, _CLAIMS), UNAUTHENTICATED, "MALFORMED_TOKEN"),
    _row("objects nested in the claims", _forge(_SIGNED, b'{"a":' * 1_100), UNAUTHENTICATED, "MALFORMED_TOKEN"),
    _row("signed lists nested in a claim", _sign(b'{"iss":' + b"[" * 4_000), UNAUTHENTICATED, "MALFORMED_TOKEN"),
    _row("claims that are a list", _forge(_SIGNED, [1]), UNAUTHENTICATED, "MALFORMED_TOKEN"),
    _row("algorithm none", _forge({"alg": "none"}, _CLAIMS), UNAUTHENTICATED, "UNSUPPORTED_ALGORITHM"),
    _row("algorithm as a list", _forge(_SIGNED | {"alg": ["EdDSA"]}, _CLAIMS), UNAUTHENTICATED, "UNSUPPORTED"),
    _row("HS256 with the public key", _sign_with_public_key("HS256"), UNAUTHENTICATED, "UNSUPPORTED_ALGORITHM"),
    _row("HMAC of the public key as EdDSA", _sign_with_public_key("EdDSA"), UNAUTHENTICATED, "BAD_SIGNATURE"),
    _row("no signature", _forge(_SIGNED, _CLAIMS), UNAUTHENTICATED, "BAD_SIGNATURE"),
    _row(
        "claims of another token",
        ".".join((OWNER.split(".")[0], _encode(_CLAIMS), OWNER.split(".")[2])),
        UNAUTHENTICATED,
        "BAD_SIGNATURE",
    ),
    _row(
        "key of a stranger",
        TokenIssuer(LOCAL_ISSUER, key=create_key("EdDSA", 1)).sign("admin", **_TIMES),
        UNAUTHENTICATED,
        "BAD_SIGNATURE",
    ),
    _row("key id with a path", ISSUER.sign("admin", headers={"kid": "../key-1"}), UNAUTHENTICATED, "UNKNOWN_KEY"),
    _row("key id that is a number", _forge(_SIGNED | {"kid": 1}, _CLAIMS), UNAUTHENTICATED, "MALFORMED_TOKEN"),
    _row("issuer of a stranger", TokenIssuer("https://evil.example").sign("admin"), UNAUTHENTICATED, "UNKNOWN_ISSUER"),
    _row("expired token", ISSUER.sign("admin", exp=1), UNAUTHENTICATED, "TOKEN_EXPIRED"),
    _row("token of tomorrow", ISSUER.sign("admin", nbf=2**33, exp=2**34), UNAUTHENTICATED, "TOKEN_NOT_YET_VALID"),
    _row("expiry of infinity", _sign(json.dumps(_CLAIMS | {"exp": 1e400}).encode()), UNAUTHENTICATED, "INVALID_TOKEN"),
    _row("expiry that is no number", _sign(json.dumps(_CLAIMS | {"exp": [1]}).encode()), UNAUTHENTICATED, "INVALID"),
    _row("another audience", ISSUER.sign("admin", aud="mail", **_TIMES), UNAUTHENTICATED, "WRONG_AUDIENCE"),
    _row("no subject", ISSUER.sign("admin", sub=None, **_TIMES), UNAUTHENTICATED, "MISSING_CLAIM"),
    _row("subject with a line break", ISSUER.sign("admin", sub="a\nb", **_TIMES), UNAUTHENTICATED, "INVALID_TOKEN"),
    _row("another tenant", ISSUER.sign("admin", tenant="ward-7", **_TIMES), DENIED, "WRONG_TENANT"),
    _row("roles that do not exist", ISSUER.sign("root", "*", "", **_TIMES), DENIED, "MISSING_ROLE"),
    _row("roles in an object", ISSUER.sign(**_TIMES | {"roles": {"admin": True}}), DENIED, "MISSING_ROLE"),
    _row("unknown role", ISSUER.sign("auditor", **_TIMES), DENIED, "MISSING_ROLE"),
    Row(
        "two tokens",
        GET_JOB,
        lambda _: finetuning_pb2.GetJobRequest(job_id="a"),
        UNAUTHENTICATED,
        "MALFORMED_TOKEN",
        (),
        (f"Bearer {OWNER}", f"Bearer {OWNER}"),
    ),
)
