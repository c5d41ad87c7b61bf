"""Public keys that verify tokens, from a file or from an OpenID provider's discovery document.

PyJWT's `PyJWKClient` requests the keys again for every unknown key id, although callers can invent key ids. While the
provider is down, `PyJWKClient` has no keys. This module sends one request to the provider at a time, and pauses before
the next request. During an outage of the provider, this module uses the last keys for a limited time.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import jwt
from pydantic import JsonValue

from vfmalign.core.domain.errors import Unauthenticated, Unavailable
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.auth_settings import is_secure_url
from vfmalign.core.runtime.threads import Threads

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
REFRESH_S = 300.0
"""Age of keys in seconds after which a provider is asked again."""
MAX_AGE_S = 3600.0
"""Age of keys in seconds up to which they are used while the provider does not answer."""
PAUSE_S = 10.0
"""Minimum time between two requests to a provider, in seconds, whatever callers send."""
TIMEOUT_S = 5.0
"""Time limit of a call that waits for a provider, of a connection, and of a document, in seconds each."""
_MAX_DOCUMENT_BYTES = 256 * 2**10
_MAX_KEYS = 100
_MIN_RSA_BITS = 2048

Keys = Mapping[str, jwt.PyJWK]
_log = logs.get(__name__)


def parse_keys(document: bytes) -> Keys:
    """Returns the keys of a JWKS document that may sign tokens, by key id. Omits all other keys.

    The id of a key without an id is an empty text.

    Raises:
        ValueError: the document is not a JWKS document, or has no key that may sign tokens.
    """
    content = parse_json(document, _MAX_DOCUMENT_BYTES)
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWKS document")
    usable = [entry for entry in entries if isinstance(entry, dict) and entry.get("use", "sig") == "sig"]
    parsed = [(entry.get("kid", ""), _parse_key(entry)) for entry in usable[:_MAX_KEYS]]
    keys = {key_id: key for key_id, key in parsed if key is not None and isinstance(key_id, str)}
    if not keys:
        raise ValueError("no key for RS256, ES256 or EdDSA")
    return keys


def _find(keys: Keys, key_id: str | None) -> jwt.PyJWK | None:
    """Returns the key of an id; a token without one may have been signed by an issuer's only key (RFC 7515, 4.1.4)."""
    if key_id is None:
        return next(iter(keys.values())) if len(keys) == 1 else None
    return keys.get(key_id)


def _parse_key(entry: dict[str, JsonValue]) -> jwt.PyJWK | None:
    try:
        key = jwt.PyJWK(entry)
        is_short = key.algorithm_name == "RS256" and key.key.key_size < _MIN_RSA_BITS
    except Exception:  # an unsupported or damaged key: the others stay in use
        return None
    return key if key.algorithm_name in ALGORITHMS and not is_short else None


class FileKeys:
    """The keys in a file. The file is read again when it changes.

    Args:
        path: JWKS document.

    Raises:
        ValueError: the file is not a JWKS document with a usable key.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = self._get_version()
        self._keys = parse_keys(path.read_bytes())

    async def get(self, key_id: str | None) -> jwt.PyJWK:
        """Returns the key with this id. If the id is None, returns the only key.

        Raises:
            Unauthenticated: no key has this id.
        """
        try:
            version = self._get_version()
            if version != self._version:
                self._keys, self._version = parse_keys(self._path.read_bytes()), version
                _log.info("keys_renewed", keys=len(self._keys))
        except (OSError, ValueError):
            _log.warning("keys_unreadable")  # the file may be half written: keep the last keys
        key = _find(self._keys, key_id)
        if key is None:
            raise _unknown_key()
        return key

    def _get_version(self) -> tuple[int, int, int]:
        info = self._path.stat()
        return info.st_mtime_ns, info.st_ino, info.st_size


class ProviderKeys:
    """The keys of an OpenID provider.

    The keys are fetched at the first use, and again when they are old or a key id is unknown.

    Args:
        issuer: URL of the provider.
        ca_file: PEM file of the authorities that sign the provider's certificate. The default is the system's
            authorities.
        clock: function that returns the time in seconds.
    """

    def __init__(self, issuer: str, ca_file: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._clock = clock
        self._ca_file = ca_file
        self._thread = Threads(1, "keys")
        self._keys: Keys = {}
        self._fetched_at = self._requested_at = float("-inf")
        self._request: asyncio.Task[None] | None = None

    async def get(self, key_id: str | None) -> jwt.PyJWK:
        """Returns the key with this id. If the id is None, returns the only key.

        Raises:
            Unauthenticated: the provider has no key with this id.
            Unavailable: the provider does not answer, and the last keys are too old or do not contain this id.
        """
        if self._get_age() > REFRESH_S or _find(self._keys, key_id) is None:
            await self._refresh()
        key = _find(self._keys, key_id) if self._get_age() <= MAX_AGE_S else None
        if key is None and self._fetched_at < self._requested_at:
            raise Unavailable(
                "the provider that issued the token does not answer",
                subject=self._issuer,
                remedy="try again later, or ask the operator to check the provider",
                reason="PROVIDER_UNAVAILABLE",
            )
        if key is None:
            raise _unknown_key()
        return key

    def _get_age(self) -> float:
        return self._clock() - self._fetched_at

    async def _refresh(self) -> None:
        """Asks the provider, unless it was asked a moment ago, and waits a limited time for the answer."""
        if self._request is None or self._request.done():
            if self._clock() - self._requested_at < PAUSE_S:
                return
            self._requested_at = self._clock()
            self._request = asyncio.create_task(self._fetch(), name="signing-keys")
        # A caller that leaves does not end the request, for which others may wait.
        await asyncio.wait({self._request}, timeout=TIMEOUT_S)

    async def _fetch(self) -> None:
        try:
            self._keys = await self._thread.run(_fetch_keys, self._issuer, self._ca_file)
        except (OSError, ValueError, http.client.HTTPException) as error:
            _log.warning("keys_not_fetched", issuer=self._issuer, error=f"{type(error).__name__}: {error}")
        else:
            self._fetched_at = self._clock()


def _unknown_key() -> Unauthenticated:
    return Unauthenticated(
        "the token was signed by a key that its issuer does not publish",
        subject="authorization",
        remedy="log in again",
        reason="UNKNOWN_KEY",
    )


def _fetch_keys(issuer: str, ca_file: Path | None) -> Keys:
    """Reads the discovery document of an issuer, and the keys that it refers to.

    Source: OpenID Connect Discovery 1.0, section 4.
    """
    tls = ssl.create_default_context(cafile=ca_file)
    discovery = parse_json(_read(tls, issuer.rstrip("/") + "/.well-known/openid-configuration"), _MAX_DOCUMENT_BYTES)
    if not isinstance(discovery, dict) or discovery.get("issuer") != issuer:
        raise ValueError("the discovery document names another issuer")
    address = discovery.get("jwks_uri")
    if not isinstance(address, str) or not is_secure_url(address):
        raise ValueError("the discovery document has no https URL of keys")
    return parse_keys(_read(tls, address))


def _read(tls: ssl.SSLContext, url: str) -> bytes:
    """Reads a document of bounded size in bounded time, without following redirects."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=tls)
    with closing(connection):
        connection.request("GET", f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}")
        data, end_s = bytearray(), time.monotonic() + TIMEOUT_S
        with connection.getresponse() as response:
            if response.status != 200:
                raise ValueError(f"the provider answers with status {response.status}")
            while len(data) <= _MAX_DOCUMENT_BYTES and (chunk := response.read1(_MAX_DOCUMENT_BYTES)):
                data += chunk
                if time.monotonic() > end_s:  # the connection's timeout begins again with every byte
                    raise TimeoutError("the document did not arrive in time")
    if len(data) > _MAX_DOCUMENT_BYTES:
        raise ValueError(f"the document exceeds {_MAX_DOCUMENT_BYTES} bytes")
    return bytes(data)
