"""The token that a command sends: its source, its claims, and the remedy if a service refuses the token."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vfmalign.cli.login.stored_login import LoginFile
from vfmalign.client.settings import ClientSettings, Token
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.core.rpc.access.credentials import MAX_TOKEN_CHARACTERS, BearerToken

LOGIN_REMEDY = "run `vfmalign login`, or set VFMALIGN_TOKEN_FILE to a file that holds an access token"


@dataclass(frozen=True)
class Credential:
    """The token that a command sends.

    Attributes:
        token: the token, its file, or a function that returns it.
        source: description of where the token comes from.
        remedy: what the user can do if a service refuses the token.
    """

    token: Token = field(repr=False)
    source: str
    remedy: str

    @classmethod
    def from_stack(cls, token_file: Path, remedy: str) -> Credential:
        """Returns the token of a local stack's owner."""
        return cls(token_file, "owner of the local stack", remedy)

    @classmethod
    def find(cls, settings: ClientSettings) -> Credential | None:
        """Returns the token from the environment, else the token of this user's login, else None.

        Raises:
            PreconditionFailed: other users can read the file of the login.
        """
        if settings.token_file is not None:
            return cls(settings.token_file, "VFMALIGN_TOKEN_FILE", "write a new token to VFMALIGN_TOKEN_FILE")
        if token := settings.token.get_secret_value():
            return cls(token, "VFMALIGN_TOKEN", "set VFMALIGN_TOKEN to a new token")
        file = LoginFile()
        login = file.read()
        if login is None:
            return None
        return cls(file.get_access_token, f"login at {login.client.issuer}", "run `vfmalign login` again")

    def read_claims(self) -> Mapping[str, object] | None:
        """Returns the claims of the token without verifying them, or None if the token is not a JWT.

        Raises:
            Unauthenticated: there is no token, or the token cannot be renewed.
        """
        bearer = ClientSettings().to_bearer_token(self.token)
        return None if bearer is None else _decode(bearer)


def get_claim(claims: Mapping[str, object], path: str) -> object:
    """Returns the claim at a path such as `realm_access.roles`, or None if the claim is absent."""
    value: object = claims.get(path)
    if value is None:
        value = claims
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _decode(bearer: BearerToken) -> Mapping[str, object] | None:
    _, header = bearer.get_metadata()
    parts = header.removeprefix("Bearer ").split(".")
    if len(parts) != 3:
        return None
    try:
        claims = parse_json(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), MAX_TOKEN_CHARACTERS)
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None
