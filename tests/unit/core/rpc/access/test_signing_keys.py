"""Keys of a provider, over HTTP on the loopback interface, and of a file."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tests.token_issuer import TokenIssuer, create_key, to_jwk

from vfmalign.core.domain.errors import Unauthenticated, Unavailable
from vfmalign.core.rpc.access import signing_keys
from vfmalign.core.rpc.access.signing_keys import MAX_AGE_S, PAUSE_S, REFRESH_S, FileKeys, ProviderKeys, parse_keys

DISCOVERY, JWKS = "/.well-known/openid-configuration", "/keys"


class Provider:
    """An HTTP server with the documents of a provider.

    Attributes:
        documents: status and body by path.
        paths: what was asked for.
        drips: by path, what begins an answer whose last byte is repeated without end, a little slower than it is read.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.documents: dict[str, tuple[int, bytes]] = {}
        self.drips: dict[str, bytes] = {}
        self.paths: list[str] = []
        self.asked, self.held, self.closing = threading.Event(), threading.Event(), threading.Event()
        self.held.set()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.paths.append(self.path)
                provider.asked.set()
                provider.held.wait(20)
                if drip := provider.drips.get(self.path):
                    provider.send_slowly(self.wfile, drip)
                    return
                status, body = provider.documents.get(self.path, (404, b""))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if status == 302:
                    self.send_header("Location", body.decode())
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Prints nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.issuer = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self.publish(TokenIssuer(self.issuer))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def publish(self, issuer: TokenIssuer, discovery: Mapping[str, Any] = MappingProxyType({})) -> None:
        document = {"issuer": self.issuer, "jwks_uri": self.issuer + JWKS, **discovery}
        self.documents[DISCOVERY] = 200, json.dumps(document).encode()
        self.documents[JWKS] = 200, issuer.to_jwks()

    def send_slowly(self, out: BinaryIO, start: bytes) -> None:
        """Sends bytes until the client leaves; each arrives long before the timeout of a socket."""
        with suppress(OSError):
            out.write(start)
            while not self.closing.wait(signing_keys.TIMEOUT_S / 20):
                out.write(start[-1:])

    def count(self) -> int:
        """Returns how often the keys were asked for."""
        return self.paths.count(DISCOVERY)

    def close(self) -> None:
        self.closing.set()
        self.held.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_keys_are_fetched_when_they_are_needed_and_again_when_they_are_old(provider: Provider) -> None:
    clock = Clock()
    keys = ProviderKeys(provider.issuer, None, clock)
    assert provider.count() == 0
    first = await keys.get("key-1")
    clock.now += REFRESH_S - 1
    assert await keys.get("key-1") is first
    assert provider.count() == 1
    clock.now += 2
    assert await keys.get("key-1") is not first
    assert provider.count() == 2


async def test_calls_at_once_share_one_request(provider: Provider) -> None:
    keys = ProviderKeys(provider.issuer, None)
    results = await asyncio.gather(*(keys.get("key-1") for _ in range(50)))
    assert len(set(map(id, results))) == 1
    assert provider.count() == 1


async def test_a_caller_that_leaves_does_not_end_the_request(provider: Provider) -> None:
    keys = ProviderKeys(provider.issuer, None)
    provider.held.clear()
    first, other = asyncio.create_task(keys.get("key-1")), asyncio.create_task(keys.get("key-1"))
    await asyncio.to_thread(provider.asked.wait, 20)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    provider.held.set()
    assert (await other).key_id == "key-1"
    assert provider.count() == 1


async def test_rotated_keys_are_found_at_once(provider: Provider) -> None:
    clock = Clock()
    keys = ProviderKeys(provider.issuer, None, clock)
    await keys.get("key-1")
    provider.publish(TokenIssuer(provider.issuer, key_id="key-2", key=create_key("EdDSA", 1)))
    clock.now += PAUSE_S
    assert (await keys.get("key-2")).key_id == "key-2"
    with pytest.raises(Unauthenticated):  # withdrawn
        await keys.get("key-1")


async def test_unknown_keys_cause_no_storm_of_requests(provider: Provider) -> None:
    clock = Clock()
    keys = ProviderKeys(provider.issuer, None, clock)
    await keys.get("key-1")
    for number in range(100):
        clock.now += PAUSE_S / 50
        with pytest.raises(Unauthenticated) as caught:
            await keys.get(f"stranger-{number}")
        assert caught.value.reason == "UNKNOWN_KEY"
    assert 1 < provider.count() <= 4
    assert (await keys.get("key-1")).key_id == "key-1"


async def test_a_provider_that_is_down_from_the_start_makes_the_service_unavailable(provider: Provider) -> None:
    clock = Clock()
    keys = ProviderKeys(provider.issuer, None, clock)
    documents, provider.documents = provider.documents, {}
    for _ in range(10):
        with pytest.raises(Unavailable) as caught:
            await keys.get("key-1")
        assert caught.value.reason == "PROVIDER_UNAVAILABLE"
    assert provider.count() == 1
    provider.documents = documents
    clock.now += PAUSE_S
    assert (await keys.get("key-1")).key_id == "key-1"


async def test_the_last_keys_are_used_for_a_limited_time_while_the_provider_is_down(provider: Provider) -> None:
    clock = Clock()
    keys = ProviderKeys(provider.issuer, None, clock)
    await keys.get("key-1")
    provider.close()
    clock.now += MAX_AGE_S - 1
    assert (await keys.get("key-1")).key_id == "key-1"
    with pytest.raises(Unavailable):  # it may have been added since
        await keys.get("key-2")
    clock.now += 2
    with pytest.raises(Unavailable):
        await keys.get("key-1")


async def test_a_provider_that_hangs_delays_a_call_for_a_limited_time(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    keys = ProviderKeys(provider.issuer, None, clock)
    await keys.get("key-1")
    monkeypatch.setattr(signing_keys, "TIMEOUT_S", 0.2)
    provider.held.clear()
    clock.now += REFRESH_S + 1
    assert (await keys.get("key-1")).key_id == "key-1"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n"
DRIPS: dict[str, tuple[str, bytes]] = {
    "body of discovery": (DISCOVERY, HEAD + b"{ "),
    "body of keys": (JWKS, HEAD + b"{ "),
}


@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(("path", "start"), DRIPS.values(), ids=DRIPS)
async def test_an_answer_that_drips_ends_and_the_next_request_finds_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, start: bytes, encrypted: bool
) -> None:
    monkeypatch.setattr(signing_keys, "TIMEOUT_S", 1.0)
    context, ca_file = None, None
    if encrypted:
        authority, context, ca_file = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tmp_path / "ca.pem"
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(ca_file))
    provider, clock = Provider(context), Clock()
    try:
        provider.drips[path] = start
        keys = ProviderKeys(provider.issuer, ca_file, clock)
        with pytest.raises(Unavailable):
            await keys.get("key-1")
        await asyncio.wait_for(asyncio.to_thread(keys._thread.submit(int).result), 60)  # its only thread is free again
        provider.drips.clear()
        clock.now += PAUSE_S
        assert (await keys.get("key-1")).key_id == "key-1"
    finally:
        provider.close()


BAD_DOCUMENTS: list[dict[str, tuple[int, bytes]]] = [
    {DISCOVERY: (500, b"")},
    {DISCOVERY: (302, b"/elsewhere"), "/elsewhere": (200, b"{}")},
    {DISCOVERY: (200, b"")},
    {DISCOVERY: (200, b"[]")},
    {DISCOVERY: (200, b"{}")},
    {DISCOVERY: (200, b"[" * 200_000)},
    {DISCOVERY: (200, b" " * 300_000)},
    {JWKS: (404, b"")},
    {JWKS: (200, b"{}")},
    {JWKS: (200, b'{"keys": []}')},
    {JWKS: (200, b" " * 300_000)},
]


@pytest.mark.parametrize("documents", BAD_DOCUMENTS, ids=lambda documents: str(documents)[:60])
async def test_documents_that_are_none_count_as_no_answer(
    provider: Provider, documents: dict[str, tuple[int, bytes]]
) -> None:
    provider.documents |= documents
    with pytest.raises(Unavailable):
        await ProviderKeys(provider.issuer, None).get("key-1")
    assert "/elsewhere" not in provider.paths


async def test_a_document_of_another_issuer_or_plaintext_keys_are_not_trusted(provider: Provider) -> None:
    # 127.1 is this machine, but not by its usual names.
    plaintext = provider.issuer.replace("127.0.0.1", "127.1") + JWKS
    for discovery in ({"issuer": "https://evil.example"}, {"jwks_uri": plaintext}, {"jwks_uri": 7}):
        provider.publish(TokenIssuer(provider.issuer), discovery)
        with pytest.raises(Unavailable):
            await ProviderKeys(provider.issuer, None).get("key-1")
    assert JWKS not in provider.paths


async def test_the_provider_s_certificate_is_verified(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    provider = Provider(context)
    try:
        for name, ca in (("trusted", authority), ("other", other)):
            ca.cert_pem.write_to_path(str(tmp_path / name))
        assert (await ProviderKeys(provider.issuer, tmp_path / "trusted").get("key-1")).key_id == "key-1"
        for ca_file in (tmp_path / "other", None):
            with pytest.raises(Unavailable):
                await ProviderKeys(provider.issuer, ca_file).get("key-1")
    finally:
        provider.close()


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = TokenIssuer("a").write_jwks(tmp_path / "jwks.json")
    keys = FileKeys(file)
    await keys.get("key-1")
    TokenIssuer("a", key_id="key-2").write_jwks(file)
    await keys.get("key-2")
    with pytest.raises(Unauthenticated):
        await keys.get("key-1")
    file.write_text("half")
    await keys.get("key-2")
    file.unlink()
    await keys.get("key-2")


ODD_KEYS: dict[str, Any] = {
    "algorithm none": {"kty": "oct", "k": "c2VjcmV0", "kid": "odd", "alg": "none"},
    "kind none": {"kty": "none", "kid": "odd", "alg": "none"},
    "algorithm as a list": {"kty": "OKP", "kid": "odd", "alg": ["EdDSA"]},
    "curve as an object": {"kty": "OKP", "crv": {}, "kid": "odd"},
    "number as a key": {"kty": "RSA", "n": 7, "e": [], "kid": "odd"},
    "modulus of zero": {"kty": "RSA", "n": "AA", "e": "AQAB", "kid": "odd"},
    "point outside the curve": {"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ", "kid": "odd"},
    "number": 7,
    "list": [],
    "text": "key",
    "nothing": None,
}


@pytest.mark.parametrize("entry", ODD_KEYS.values(), ids=ODD_KEYS)
def test_an_odd_key_does_not_disable_the_others(entry: Any) -> None:
    good = to_jwk(create_key("ES256"), "good")
    assert set(parse_keys(json.dumps({"keys": [entry, good, entry]}).encode())) == {"good"}


def test_keys_that_may_not_sign_tokens_are_left_out() -> None:
    good = to_jwk(create_key("ES256"), "good")
    others = [
        to_jwk(create_key("RS256"), "encrypts", use="enc"),
        to_jwk(create_key("RS256"), "other-algorithm", alg="RS512"),
        to_jwk(rsa.generate_private_key(65537, 1024), "short"),
        to_jwk(ec.generate_private_key(ec.SECP384R1()), "other-curve"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "symmetric", "alg": "HS256"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "symmetric-claims-rsa", "alg": "RS256"},
        {"kty": "new", "kid": "unknown-kind"},
        {"kty": "RSA", "kid": "no-numbers"},
        good | {"kid": 7},
    ]
    assert set(parse_keys(json.dumps({"keys": [*others, good]}).encode())) == {"good"}
