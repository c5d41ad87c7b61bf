"""Where the object store's credentials come from, on a real S3 server and with stand-ins of AWS's own endpoints."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from pydantic import SecretStr

from vfmalign.core.domain.errors import StoreRefused, Unavailable
from vfmalign.core.runtime.settings import StoreSettings, load
from vfmalign.core.storage.store.credentials import get_credential_provider
from vfmalign.core.storage.store.object_store import ObjectStore

Answers = dict[str, str]


class Endpoint:
    """An HTTP server that gives every path its answer, and records what it is asked."""

    def __init__(self, answers: Answers, tls: tuple[trustme.CA, str] | None = None) -> None:
        self.requests: list[str] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                endpoint.requests.append(self.path)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = answers.get(urlsplit(self.path).path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Length", str(len((body or "").encode())))
                self.end_headers()
                self.wfile.write((body or "").encode())

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        scheme = "http"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls[0].issue_cert(tls[1]).configure_cert(context)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoints() -> Iterator[list[Endpoint]]:
    opened: list[Endpoint] = []
    yield opened
    for endpoint in opened:
        endpoint.close()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store_settings: StoreSettings) -> pytest.MonkeyPatch:
    """An environment with the store's address and no credentials at all."""
    for name in (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store_settings.endpoint)
    monkeypatch.setenv("VFMALIGN_BUCKET", store_settings.bucket)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


def test_static_keys_come_first_and_carry_their_session_token(
    environment: pytest.MonkeyPatch, tmp_path: Path, store_settings: StoreSettings
) -> None:
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = file\naws_secret_access_key = file\n")
    settings = store_settings.model_copy(update={"session_token": SecretStr("the-token")})
    credentials = get_credential_provider(settings).retrieve()
    assert (credentials.access_key, credentials.session_token) == (store_settings.access_key, "the-token")


def test_a_file_of_credentials_is_read_again_when_it_changes(
    environment: pytest.MonkeyPatch, tmp_path: Path, store: ObjectStore, store_settings: StoreSettings
) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = wrong\naws_secret_access_key = wrong\n[other]\n")
    reader = ObjectStore(load(StoreSettings), attempts=1)
    store.put("credentials/a", b"a")
    with pytest.raises(StoreRefused):
        reader.get("credentials/a")
    secret = store_settings.secret_key.get_secret_value().replace("%", "%%")
    file.write_text(f"[default]\naws_access_key_id = {store_settings.access_key}\naws_secret_access_key = {secret}\n")
    assert reader.get("credentials/a") == b"a"
    assert reader.put_if_absent("credentials/b", b"b")


def test_a_web_identity_is_exchanged_for_keys(
    environment: pytest.MonkeyPatch,
    tmp_path: Path,
    store: ObjectStore,
    store_settings: StoreSettings,
    endpoints: list[Endpoint],
) -> None:
    expiration = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = f"""<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
        <AssumeRoleWithWebIdentityResult><Credentials>
        <AccessKeyId>{store_settings.access_key}</AccessKeyId>
        <SecretAccessKey>{store_settings.secret_key.get_secret_value()}</SecretAccessKey>
        <SessionToken>the-token</SessionToken><Expiration>{expiration}</Expiration>
        </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""
    sts = Endpoint({"": answer, "/": answer})
    endpoints.append(sts)
    (tmp_path / "token").write_text("the-jwt")
    environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    environment.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/vfmalign")
    environment.setenv("AWS_ENDPOINT_URL_STS", sts.url)
    provider = get_credential_provider(load(StoreSettings))
    credentials = provider.retrieve()
    assert (credentials.access_key, credentials.session_token) == (store_settings.access_key, "the-token")
    provider.retrieve()
    (request,) = sts.requests
    query = parse_qs(urlsplit(request).query)
    assert query["WebIdentityToken"] == ["the-jwt"]
    assert query["RoleArn"] == ["arn:aws:iam::1:role/vfmalign"]


def test_a_container_s_role_gives_keys(
    environment: pytest.MonkeyPatch, store: ObjectStore, store_settings: StoreSettings, endpoints: list[Endpoint]
) -> None:
    answer = {
        "AccessKeyId": store_settings.access_key,
        "SecretAccessKey": store_settings.secret_key.get_secret_value(),
        "Token": None,
        "Expiration": (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    agent = Endpoint({"/v1/credentials": json.dumps(answer)})
    endpoints.append(agent)
    environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/v1/credentials")
    reader = ObjectStore(load(StoreSettings), attempts=1)
    store.put("credentials/role", b"role")
    assert reader.get("credentials/role") == b"role"
    assert agent.requests == ["/v1/credentials"]


def test_without_any_credentials_the_error_names_the_settings(
    environment: pytest.MonkeyPatch, endpoints: list[Endpoint]
) -> None:
    agent = Endpoint({})
    endpoints.append(agent)
    environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/nothing")
    with pytest.raises(StoreRefused, match="no credentials of the object store are available; set AWS_ACCESS_KEY_ID"):
        ObjectStore(load(StoreSettings), attempts=2).get("any")


def test_an_https_store_is_verified_with_the_file_of_ssl_cert_file(
    environment: pytest.MonkeyPatch, tmp_path: Path, store_settings: StoreSettings, endpoints: list[Endpoint]
) -> None:
    authority = trustme.CA()
    server = Endpoint({f"/{store_settings.bucket}/default/key": "content"}, (authority, "127.0.0.1"))
    endpoints.append(server)
    settings = store_settings.model_copy(update={"endpoint": server.url})
    with pytest.raises(Unavailable):
        ObjectStore(settings, attempts=1).get("key")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    environment.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert ObjectStore(settings, attempts=1).get("key") == b"content"
