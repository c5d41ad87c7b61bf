"""Tokens: the header of a call as a stranger sends it, and the claims of a token that an issuer has signed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.fuzz.harness import Target
from tests.token_issuer import TokenIssuer, bearer

from vfmalign.core.domain.errors import Unauthenticated
from vfmalign.core.rpc.access.authentication import Authenticator
from vfmalign.core.rpc.access.authorisation import ROLES
from vfmalign.core.runtime.auth_settings import LOCAL_ISSUER, AuthSettings

# Seeds are equal at every call, and so are keys and times.
_ISSUER = TokenIssuer(LOCAL_ISSUER, key=Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
_TIMES = {"iat": 1_700_000_000, "exp": 20_000_000_000}
_CLAIMS = b'{"iss":"vfmalign-local","aud":"vfmalign","sub":"ada","roles":["viewer"],"iat":1700000000,"exp":20000000000}'


@cache
def _open() -> Authenticator:
    with tempfile.TemporaryDirectory() as folder:
        file = _ISSUER.write_jwks(Path(folder) / "jwks.json")
        return Authenticator(AuthSettings(mode="local", jwks_file=file))


def run(data: bytes) -> None:
    """Sends bytes as a token, and as the claims of a signed one; only what is signed may be admitted."""
    with suppress(Unauthenticated):
        identity = asyncio.run(_open().authenticate(bearer(data.decode("latin-1"))))
        assert (identity.subject, identity.roles) == ("ada", {"viewer"}), "only the seed is signed"
    signed = jwt.api_jws.encode(data, _ISSUER.key, "EdDSA", {"kid": _ISSUER.key_id, "typ": "JWT"})
    with suppress(Unauthenticated):
        identity = asyncio.run(_open().authenticate(bearer(signed)))
        assert identity.issuer == LOCAL_ISSUER
        assert identity.roles <= ROLES
        assert identity.subject.isprintable()


def make_seeds() -> Mapping[str, bytes]:
    """Returns a valid token, forged ones, and claims."""
    valid = _ISSUER.sign("viewer", **_TIMES)
    header, claims, _ = valid.split(".")
    return {
        "valid": valid.encode(),
        "no-algorithm": f"eyJhbGciOiJub25lIn0.{claims}.".encode(),
        "no-signature": f"{header}.{claims}.".encode(),
        "claims": _CLAIMS,
        "claims-nested": _CLAIMS.replace(b'["viewer"]', b"[" * 500 + b"]" * 500),
        "claims-large-number": _CLAIMS.replace(b"20000000000", b"1" + b"0" * 400),
        "claims-infinity": _CLAIMS.replace(b"20000000000", b"Infinity"),
        "claims-tenants": _CLAIMS.replace(b'"sub"', b'"tenant":["a","default"],"sub"'),
    }


TARGET = Target(run, make_seeds, words=("iss", "aud", "sub", "exp", "iat", "nbf", "roles", "tenant", "alg", "kid"))
