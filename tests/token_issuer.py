"""An issuer of tokens with keys of its own, for tests that need tokens which no provider would issue."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "vfmalign"


@cache
def create_key(algorithm: str, number: int = 0) -> Any:
    """Returns the private key of this number; making an RSA key takes a while."""
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


def to_jwk(key: Any, key_id: str, **fields: str) -> dict[str, Any]:
    """Returns the public part of a key as an entry of a JWKS document."""
    kinds = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    kind = next((value for cls, value in kinds.items() if isinstance(key, cls)), OKPAlgorithm)
    return json.loads(kind.to_jwk(key.public_key())) | {"kid": key_id, **fields}


@dataclass
class TokenIssuer:
    """Signs tokens.

    Attributes:
        issuer: value of `iss`.
        algorithm: RS256, ES256 or EdDSA.
        key_id: of the current key.
        key: private key.
    """

    issuer: str
    algorithm: str = "EdDSA"
    key_id: str = "key-1"
    key: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.key = self.key or create_key(self.algorithm)

    def to_jwks(self) -> bytes:
        """Returns the JWKS document with the current key."""
        return json.dumps({"keys": [to_jwk(self.key, self.key_id, use="sig")]}).encode()

    def write_jwks(self, path: Path) -> Path:
        """Writes the JWKS document in one step, and returns its path."""
        partial = path.with_suffix(".partial")
        partial.write_bytes(self.to_jwks())
        return partial.replace(path)

    def claims(self, *roles: str, **changes: Any) -> dict[str, Any]:
        """Returns the claims of a valid token; changes that are None leave a claim out."""
        now = int(time.time())
        times = {"iat": now, "exp": now + 7200}  # tokens of module constants outlast a run of all tests
        claims = {"iss": self.issuer, "aud": AUDIENCE, "sub": "ada", "roles": list(roles), **times, **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def sign(self, *roles: str, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """Returns a token."""
        header = {"kid": self.key_id, **(headers or {})}
        header = {name: value for name, value in header.items() if value is not None}
        return jwt.encode(self.claims(*roles, **changes), self.key, self.algorithm, headers=header)


def bearer(token: str) -> list[tuple[str, str]]:
    """Returns the metadata of a call with a token."""
    return [("authorization", f"Bearer {token}")]
