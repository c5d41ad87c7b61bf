"""Verifies the bearer tokens of calls: signed JSON Web Tokens of the configured issuers (RFC 7519, RFC 9068).

Errors never contain a token or its unverified claims.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt
from cachetools import TLRUCache

from vfmalign.core.domain.errors import BadOption, Unauthenticated
from vfmalign.core.rpc.access.authorisation import ROLES, SERVICES
from vfmalign.core.rpc.access.credentials import AUTHORIZATION, MAX_TOKEN_CHARACTERS
from vfmalign.core.rpc.access.identity import Identity
from vfmalign.core.rpc.access.signing_keys import ALGORITHMS, REFRESH_S, FileKeys, ProviderKeys
from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT, AuthSettings

LEEWAY_S = 30
"""Allowed difference between the clocks of issuers and of this machine, in seconds."""
_CACHED_TOKENS = 10_000
_MAX_TEXT = 255
"""Longest `sub`, as OpenID Connect limits it."""
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""Media types of tokens in lower case; a token need not state one. Tokens for other purposes, such as logout or proof
of possession, are not credentials (RFC 9068, section 4; RFC 8725, section 3.11).
"""
_KEY_ID = re.compile(r"[A-Za-z0-9._~+/=:-]{1,64}")
_TIMES = ("exp", "iat", "nbf")
_REQUIRED = ("exp", "iat", "aud", "sub", "iss")
_MALFORMED = (jwt.PyJWTError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)

_REASONS: tuple[tuple[type[jwt.PyJWTError], str, str], ...] = (
    (jwt.ExpiredSignatureError, "TOKEN_EXPIRED", "the token has expired"),
    (jwt.ImmatureSignatureError, "TOKEN_NOT_YET_VALID", "the token is not valid yet"),
    (jwt.InvalidAudienceError, "WRONG_AUDIENCE", "the token is meant for another audience"),
    (jwt.MissingRequiredClaimError, "MISSING_CLAIM", f"the token lacks one of the claims {', '.join(_REQUIRED)}"),
    (jwt.InvalidSignatureError, "BAD_SIGNATURE", "the token's signature is wrong"),
)
_HOW_TO_SEND = (
    "send the metadata `authorization: Bearer TOKEN`, as vfmalign's client does where VFMALIGN_TOKEN_FILE names the "
    "file of a token; `vfmalign login` gets one, and a local stack keeps its own in .vfmalign/tokens/owner/token"
)


class Authenticator:
    """Identifies callers by their tokens.

    Caches verified tokens by digest until they expire, but not longer than the interval between two fetches of the
    keys.

    Args:
        settings: issuers, audience and claims that tokens must have.
        clock: function that returns the time in seconds since the epoch.

    Raises:
        BadOption: a key file cannot be used, or a subject has an unknown role.
    """

    def __init__(self, settings: AuthSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._keys = _open_keys(settings)
        _check_roles(settings)
        self._owner = Identity("anonymous", "", frozenset(settings.tenants), ROLES)
        self._verified: TLRUCache[bytes, tuple[Identity, float]] = TLRUCache(
            _CACHED_TOKENS, ttu=lambda _, entry, __: entry[1], timer=clock
        )

    async def authenticate(self, metadata: Iterable[tuple[str, str | bytes]]) -> Identity:
        """Returns the identity that a call's metadata prove. In mode `off`, returns an anonymous owner with all roles.

        Raises:
            Unauthenticated: there is no valid token.
            Unavailable: the issuer's keys cannot be fetched.
        """
        if self._settings.mode == "off":
            return self._owner
        token = _get_token(metadata)
        digest = hashlib.sha256(token.encode()).digest()
        entry = self._verified.get(digest)
        if entry is None:
            entry = await self._verify(token)
            self._verified[digest] = entry
        return entry[0]

    async def _verify(self, token: str) -> tuple[Identity, float]:
        """Returns the identity of a token and the time until which it may be remembered."""
        try:
            unverified = jwt.decode_complete(token, options={"verify_signature": False})
            header, issuer = unverified["header"], unverified["payload"].get("iss")
            algorithm, key_id = header.get("alg"), header.get("kid")
        except _MALFORMED:
            raise _invalid("MALFORMED_TOKEN", "the credential is not a signed JSON Web Token") from None
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise _invalid("UNSUPPORTED_ALGORITHM", f"the token is not signed by {', '.join(sorted(ALGORITHMS))}")
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise _invalid("WRONG_TYPE", "the token is not an access token: its `typ` is neither at+jwt nor JWT")
        if not isinstance(issuer, str) or issuer not in self._keys:
            raise _invalid("UNKNOWN_ISSUER", "this deployment does not trust the issuer of the token")
        if not isinstance(key_id, str | None):
            raise _invalid("MALFORMED_TOKEN", "the key id of the token is not a text")
        claims = self._decode(token, await self._keys[issuer].get(key_id), issuer)
        if not all(isinstance(claims.get(name, 0), int | float) for name in _TIMES):  # PyJWT reads texts as well
            raise _invalid("INVALID_TOKEN", f"one of the claims {', '.join(_TIMES)} is not a number")
        # An ID token tells a client who logged in; it has a hash of its access token, or the type that Keycloak writes.
        if "at_hash" in claims or claims.get("typ") == "ID":
            remedy = "send the access token of the same login, such as the one that `vfmalign login` keeps"
            raise _invalid("WRONG_TYPE", "the token is an ID token, not an access token", remedy)
        return self._to_identity(claims), min(int(claims["exp"]) + LEEWAY_S, self._clock() + REFRESH_S)

    def _decode(self, token: str, key: jwt.PyJWK, issuer: str) -> dict[str, Any]:
        try:
            # The key determines the algorithm: the token's header cannot change it.
            return jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._settings.audience,
                issuer=issuer,
                leeway=LEEWAY_S,
                options={"require": list(_REQUIRED)},
            )
        except _MALFORMED as error:
            for kind, reason, message in _REASONS:
                if isinstance(error, kind):
                    raise _invalid(reason, message) from None
            raise _invalid("INVALID_TOKEN", "the token or one of its claims is invalid") from None

    def _to_identity(self, claims: Mapping[str, Any]) -> Identity:
        subject = claims["sub"]
        if not (isinstance(subject, str) and 0 < len(subject) <= _MAX_TEXT and subject.isprintable()):
            raise _invalid("INVALID_TOKEN", f"the token's subject is not a text of 1 to {_MAX_TEXT} characters")
        by_subject = self._settings.subject_roles.get(claims["iss"])
        granted = (
            _to_texts(_find(claims, self._settings.roles_claim)) if by_subject is None else by_subject.get(subject)
        )
        roles = ROLES.intersection(granted or ())
        claim = _find(claims, self._settings.tenant_claim)
        tenants = self._find_tenants(roles, has_settings=by_subject is not None) if claim is None else _to_texts(claim)
        return Identity(subject, claims["iss"], frozenset(self._settings.tenants).intersection(tenants), roles)

    def _find_tenants(self, roles: frozenset[str], *, has_settings: bool) -> Sequence[str]:
        """Returns the tenants for a token that names no tenant.

        Args:
            roles: roles of the subject.
            has_settings: whether this deployment's settings give the issuer's subjects their roles.
        """
        served = self._settings.tenants
        if roles.intersection(SERVICES):  # a service calls others for every tenant
            return served
        return served if has_settings and len(served) == 1 else (DEFAULT_TENANT,)


def get_key_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Returns the key id that the token of a call states, for the log of denials.

    The id is not verified. The result is empty if the key id is missing, or does not consist of 1 to 64 usual
    characters.
    """
    try:
        key_id = jwt.get_unverified_header(_get_token(metadata)).get("kid")
    except (*_MALFORMED, Unauthenticated):
        return ""
    return key_id if isinstance(key_id, str) and _KEY_ID.fullmatch(key_id) else ""


def _open_keys(settings: AuthSettings) -> dict[str, FileKeys | ProviderKeys]:
    if settings.mode == "off":
        return {}
    files = dict(settings.jwks_files)
    if settings.jwks_file is not None:
        files[settings.issuers[0]] = settings.jwks_file
    return {
        issuer: _open_file(files[issuer]) if issuer in files else ProviderKeys(issuer, settings.ca_file)
        for issuer in settings.issuers
    }


def _open_file(path: Path) -> FileKeys:
    try:
        return FileKeys(path)
    except (OSError, ValueError) as error:
        raise BadOption(
            f"the file of keys cannot be used: {error.strerror if isinstance(error, OSError) else error}",
            subject="VFMALIGN_AUTH__JWKS_FILE",
            remedy="set it to the JWKS document of the issuer",
        ) from None


def _check_roles(settings: AuthSettings) -> None:
    granted = {role for subjects in settings.subject_roles.values() for roles in subjects.values() for role in roles}
    if unknown := granted - ROLES:
        raise BadOption(
            f"there is no role {min(unknown)}",
            subject="VFMALIGN_AUTH__SUBJECT_ROLES",
            remedy=f"choose among {', '.join(sorted(ROLES))}",
        )


def _get_token(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    values = [value for key, value in metadata if key == AUTHORIZATION]
    if not values:
        raise _invalid("NO_TOKEN", "the call carries no token", _HOW_TO_SEND)
    scheme, _, token = values[0].partition(" ") if isinstance(values[0], str) else ("", "", "")
    if len(values) > 1 or scheme.lower() != "bearer":
        raise _invalid("MALFORMED_TOKEN", "the call must carry one header `authorization: Bearer <token>`")
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise _invalid("TOKEN_TOO_LONG", f"the token has more than {MAX_TOKEN_CHARACTERS} characters")
    return token


def _find(claims: Mapping[str, object], name: str) -> object:
    """Returns a claim, or None if the claim is absent. Dots lead into objects, as in `realm_access.roles`."""
    value: object = claims
    for part in [name] if name in claims else name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _to_texts(value: object) -> list[str]:
    """Returns the texts of a claim, which may be a list, or one text with spaces as in the claim `scope`."""
    if isinstance(value, str):
        return value.split()
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _invalid(
    reason: str, message: str, remedy: str = "log in, or renew the token of the calling service"
) -> Unauthenticated:
    return Unauthenticated(message, subject=AUTHORIZATION, remedy=remedy, reason=reason)
