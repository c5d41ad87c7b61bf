"""Tokens of a local stack: one for its owner and one for each service.

The tokens are signed by a key that is then discarded. A folder of tokens contains one folder for each holder, such as
`owner` or `mmd`. A holder's folder contains the holder's token, and the public key as a JWKS document.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from vfmalign.cli.extras import needs_extra
from vfmalign.cli.private_files import read_private, write_private
from vfmalign.core.domain.errors import PreconditionFailed
from vfmalign.core.runtime.auth_settings import LOCAL_ISSUER

AUDIENCE = "vfmalign"
TENANT = "default"
OWNER = "owner"
ROLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        OWNER: ("viewer", "researcher", "curator", "admin", "router"),
        "features": ("features",),
        "mmd": ("mmd",),
        "finetuning": ("finetuning",),
        "monitoring": ("monitoring",),
    }
)
"""Roles by holder of a token."""
_VALIDITY = timedelta(days=3650)
"""The same as the validity of the S3 server's certificates."""
_RENEWED_BEFORE = timedelta(days=365)
"""A token that expires sooner is replaced at the next start, because the stack may then run for months."""
_LEEWAY = timedelta(minutes=5)
"""The clock may be set back a little."""


class TokenFiles(NamedTuple):
    """The files of one holder of a token.

    Attributes:
        token: file of the holder's token.
        jwks: file of the public key for all tokens of the folder, as a JWKS document.
    """

    token: Path
    jwks: Path

    @classmethod
    def find(cls, folder: Path, holder: str) -> TokenFiles:
        """Returns the files of a holder in a folder of tokens."""
        return cls(folder / holder / "token", folder / holder / "jwks.json")

    def to_environment(self) -> dict[str, str]:
        """Returns the variables that let a service accept these tokens and send its own token to other services."""
        return {
            "VFMALIGN_AUTH__MODE": "local",
            "VFMALIGN_AUTH__JWKS_FILE": str(self.jwks),
            "VFMALIGN_AUTH__TOKEN_FILE": str(self.token),
        }


def ensure(folder: Path) -> None:
    """Creates tokens if the folder contains no valid tokens. Copied tokens thus stay valid when the stack restarts.

    Raises:
        PreconditionFailed: a package is not installed.
    """
    if not _are_valid(folder):
        renew(folder)


def _are_valid(folder: Path) -> bool:
    """Whether every holder has a private token with its present roles, and one key signed all of them."""
    with needs_extra("local", "a local stack"):
        import jwt
    try:
        documents = {read_private(TokenFiles.find(folder, holder).jwks) for holder in ROLES}
        (key,) = jwt.PyJWKSet.from_json(documents.pop().decode()).keys
        if documents:  # a renewal was interrupted
            return False
        for holder, roles in ROLES.items():
            token = read_private(TokenFiles.find(folder, holder).token)
            claims = jwt.decode(token, key, ["EdDSA"], audience=AUDIENCE, issuer=LOCAL_ISSUER)
            stated = (claims.get("sub"), claims.get("roles"), claims.get("tenant"))
            is_stale = claims["exp"] < time.time() + _RENEWED_BEFORE.total_seconds()
            if is_stale or stated != (holder, list(roles), TENANT):
                return False
    except (OSError, ValueError, KeyError, PreconditionFailed, jwt.PyJWTError):
        return False
    return True


def renew(folder: Path) -> None:
    """Replaces all tokens of a folder by new tokens, signed by a new key. Files have mode 0600, folders 0700.

    The private key is discarded, so that nobody can issue another token.

    Raises:
        PreconditionFailed: a package is not installed.
    """
    with needs_extra("local", "a local stack"):
        import jwt
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from jwt.algorithms import OKPAlgorithm

    key, key_id = Ed25519PrivateKey.generate(), secrets.token_hex(8)
    public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": key_id, "alg": "EdDSA", "use": "sig"}
    jwks = json.dumps({"keys": [public]}).encode()
    now = datetime.now(UTC)
    times = {"iat": now - _LEEWAY, "exp": now + _VALIDITY}
    for holder, roles in ROLES.items():
        claims = {"iss": LOCAL_ISSUER, "aud": AUDIENCE, "sub": holder, "roles": roles, "tenant": TENANT, **times}
        files = TokenFiles.find(folder, holder)
        files.token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(files.jwks, jwks)
        write_private(files.token, jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": key_id}).encode())
